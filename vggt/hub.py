"""Weights from the Hugging Face hub, with one clear error for each way it can fail."""

from __future__ import annotations

from pathlib import Path

from vggt.errors import CheckpointError

WEIGHT_FILES = ('model.safetensors', 'model.pt', 'vggt_1B_commercial.pt')  # by preference; the last is Meta's name
CONFIG_FILE = 'config.json'


def download(
    name: str, revision: str | None, cache_dir: str | Path | None, local_files_only: bool, token: str | None
) -> tuple[Path, Path | None]:
    """Weights and configuration of a hub repository, from the cache where they are there.

    Returns:
        Weights file, and the repository's config.json or None.

    Raises:
        CheckpointError: says whether it is the name, the licence, the network or the cache, and what mends it.
    """
    # Imported here: a file or the shipped weights must load where the hub's client is not installed.
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
    except ImportError as error:
        raise CheckpointError(f'{name} must be downloaded; pip install huggingface_hub, or give a file') from error

    def fetch(filename: str) -> Path:
        return Path(
            hf_hub_download(
                name,
                filename,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                token=token,
            )
        )

    def fetch_optional(filename: str) -> Path | None:
        try:
            return fetch(filename)
        except LocalEntryNotFoundError:
            if local_files_only:
                return None  # not in the cache; another file may be
            raise
        except EntryNotFoundError:
            return None

    try:
        for filename in WEIGHT_FILES:
            weights = fetch_optional(filename)
            if weights is not None:
                return weights, fetch_optional(CONFIG_FILE)
    except GatedRepoError as error:
        raise CheckpointError(
            f'{name} is gated: accept its licence at https://huggingface.co/{name}, then run "hf auth login" or set '
            'HF_TOKEN'
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f'{name} has no revision {revision!r}; leave revision out for the newest') from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f'{name} is not on the hub, or is private: check the spelling, or run "hf auth login" or set HF_TOKEN'
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CheckpointError(
            f'{name} could not be downloaded ({_first_line(error)}); check the connection, or run '
            f'"hf download {name}" where there is one and copy the cache folder'
        ) from error
    if local_files_only:
        raise CheckpointError(
            f'{name} is not in the local cache and local_files_only is set; run "hf download {name}" once with a '
            'connection'
        )
    raise CheckpointError(f'{name} holds none of {", ".join(WEIGHT_FILES)}: it is not a VGGT repository')


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

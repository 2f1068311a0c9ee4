"""A name to a ready network: hub repository, file, or weights that ship with this package."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import torch

from vggt import hub
from vggt.checkpoint import SUFFIXES, read_config, read_tensors
from vggt.config import HEAD_NAMES, VGGTConfig
from vggt.errors import CheckpointError
from vggt.model import VGGT

SHIPPED_DIR = Path(__file__).parent / 'weights'
HUB_ID = re.compile(r'[\w.-]+/[\w.-]+')
NON_COMMERCIAL = ('facebook/VGGT-1B',)  # Source: the official README, licence note of July 2025
_told: set[str] = set()
_log = logging.getLogger(__name__)


def shipped_names() -> list[str]:
    """Names of the weights that come with this package."""
    return sorted(path.stem for path in SHIPPED_DIR.glob('*.safetensors'))


def load_vggt(
    name: str | Path = 'nano',
    *,
    device: str | torch.device = 'cpu',
    heads: Sequence[str] | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    token: str | None = None,
    config: VGGTConfig | None = None,
    dtype: torch.dtype = torch.float32,
) -> VGGT:
    """Build a network and fill it, strictly: every name and shape must match.

    Args:
        name: a shipped name such as 'nano', a hub id such as 'facebook/VGGT-1B', or a .safetensors, .pt or .pth file.
        device: where the weights go.
        heads: which of 'camera', 'depth', 'point' and 'track' to build; the others are not even read. None: all.
        revision: branch, tag or commit on the hub; None takes the default branch.
        cache_dir: where downloads are kept; None takes the hub's own folder (HF_HOME).
        local_files_only: never touch the network.
        token: for gated repositories; None takes HF_TOKEN or the stored login.
        config: None reads it from <file>.json or config.json beside the weights, or from the weights' own shapes.
        dtype: of the weights in memory.

    Returns:
        The network in eval mode.

    Raises:
        CheckpointError: missing, damaged, gated or foreign weights; says what mends it.
        ConfigError: a head is asked for that these weights do not have.
    """
    path, config_path = _locate(str(name), revision, cache_dir, local_files_only, token)
    dropped = tuple(f'{head}_head.' for head in HEAD_NAMES if heads is not None and head not in heads)
    stays = torch.device(device).type == 'cpu'  # elsewhere `to` copies
    tensors, shapes = read_tensors(path, lambda key: not key.startswith(dropped), dtype, copy=stays)
    if config is None:
        config = read_config(config_path, shapes)
    if heads is not None:
        config = config.with_heads(heads)
    try:
        with torch.device('meta'):  # allocates nothing; the tensors that were read become the parameters
            model = VGGT(config)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise CheckpointError(f'{path}: its configuration makes no network ({error})') from error
    _require_match(model, {key: tuple(tensor.shape) for key, tensor in tensors.items()}, path)
    model.load_state_dict(tensors, strict=True, assign=True)
    _state_licence(str(name))
    return model.eval().to(device)


def _locate(
    name: str, revision: str | None, cache_dir: str | Path | None, local_files_only: bool, token: str | None
) -> tuple[Path, Path | None]:
    """Weights file and, where there is one, configuration file."""
    shipped = SHIPPED_DIR / f'{name}.safetensors'
    if name in shipped_names():
        return shipped, shipped.with_suffix('.json')
    path = Path(name).expanduser()
    if path.exists() or path.suffix in SUFFIXES:
        beside = (path.with_suffix('.json'), path.parent / 'config.json')
        return path, next((candidate for candidate in beside if candidate.is_file()), None)
    if HUB_ID.fullmatch(name):
        return hub.download(name, revision, cache_dir, local_files_only, token)
    raise CheckpointError(
        f'no weights are called {name!r}: shipped are {shipped_names()}; or give a hub id such as '
        f'facebook/VGGT-1B, or the path of a file of {", ".join(SUFFIXES)}'
    )


def _require_match(model: VGGT, found: dict[str, tuple[int, ...]], path: Path) -> None:
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    missing = [key for key in expected if key not in found]
    unexpected = [key for key in found if key not in expected]
    reshaped = [
        f'{key} {found[key]} instead of {expected[key]}'
        for key in expected
        if key in found and found[key] != expected[key]
    ]
    problems = [
        f'{len(names)} {what} ({", ".join(names[:3])}{" ..." if len(names) > 3 else ""})'
        for what, names in (('missing', missing), ('unexpected', unexpected), ('of another shape', reshaped))
        if names
    ]
    if problems:
        raise CheckpointError(
            f'{path} does not fit its configuration: {"; ".join(problems)}; give the configuration that it was '
            'trained with, or take the file from its source again'
        )


def _state_licence(name: str) -> None:
    if name in NON_COMMERCIAL and name not in _told:
        _told.add(name)
        _log.warning(
            '%s is licensed for non-commercial use only; %s-Commercial may be used commercially under its own terms',
            name,
            name,
        )

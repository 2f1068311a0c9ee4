"""A checkpoint file on disk: its tensors, and the configuration they belong to."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vggt.config import (
    FORMAT,
    BackboneConfig,
    CameraHeadConfig,
    DenseHeadConfig,
    TrackHeadConfig,
    VGGTConfig,
)
from vggt.errors import CheckpointError

MARKER = 'aggregator.camera_token'  # every VGGT has it
WRAPPERS = ('model', 'state_dict')  # keys under which training loops keep the weights
SUFFIXES = ('.safetensors', '.pt', '.pth')
Shapes = Mapping[str, tuple[int, ...]]


def read_tensors(
    path: Path, wanted: Callable[[str], bool], dtype: torch.dtype, *, copy: bool = True
) -> tuple[dict[str, Tensor], Shapes]:
    """Read the wanted tensors; the file is never unpickled beyond plain tensors.

    Args:
        path: .safetensors, .pt or .pth.
        wanted: tells by name which tensors to read.
        dtype: floating point tensors are converted to it.
        copy: into memory of their own. Without, tensors of that dtype may show the file itself: who writes over it
            changes them, and who cuts it short ends the process (SIGBUS).

    Returns:
        Name to tensor for the wanted ones, and name to shape for all.

    Raises:
        CheckpointError: the file is missing, damaged, holds more than tensors, or is not a VGGT's.
    """
    if not path.is_file():
        raise CheckpointError(f'there is no weights file {path}')
    if path.suffix not in SUFFIXES:
        raise CheckpointError(f'weights must be a file of {", ".join(SUFFIXES)}, got {path}')
    if path.suffix == '.safetensors':
        tensors, shapes = _read_safetensors(path, wanted, dtype, copy)
    else:
        tensors, shapes = _read_torch(path, wanted, dtype)
    if MARKER not in shapes:
        some = ', '.join(list(shapes)[:3]) or 'nothing'
        raise CheckpointError(f'{path} is not a VGGT checkpoint: {MARKER!r} is missing, it holds {some} ...')
    return tensors, shapes


def _read_safetensors(
    path: Path, wanted: Callable[[str], bool], dtype: torch.dtype, copy: bool
) -> tuple[dict[str, Tensor], Shapes]:
    try:
        with safe_open(path, framework='pt') as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            # Converted one by one, so that the file's precision is never in memory as a whole.
            return {name: _convert(file.get_tensor(name), dtype, copy) for name in shapes if wanted(name)}, shapes
    except (SafetensorError, RuntimeError, ValueError, OSError, TypeError) as error:  # it is strict, but not in all
        raise CheckpointError(f'{path} is damaged or cut short ({error}); delete it and download it again') from error


def _read_torch(path: Path, wanted: Callable[[str], bool], dtype: torch.dtype) -> tuple[dict[str, Tensor], Shapes]:
    _require_plain_archive(path)
    try:
        content: Any = torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f'{path} holds Python objects besides tensors, or is no checkpoint, and loading it could run code; '
            'save its state dict alone, best as .safetensors'
        ) from error
    except Exception as error:  # a damaged pickle may ask torch for anything
        raise CheckpointError(f'{path} is damaged or cut short ({error}); delete it and download it again') from error
    for key in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    ):
        raise CheckpointError(f'{path} is not a state dict of tensors; save model.state_dict()')
    _require_whole(path, content)
    shapes = {name: tuple(value.shape) for name, value in content.items()}
    return {name: _convert(value, dtype) for name, value in content.items() if wanted(name)}, shapes


def _require_plain_archive(path: Path) -> None:
    """Refuse an archive that unpacks to more than its size: torch never squeezes what it writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(one.file_size for one in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return  # torch's older format, or damaged: torch.load tells
    if unpacked > path.stat().st_size:
        raise CheckpointError(f'{path} unpacks to {unpacked} bytes, more than it has; save it anew with torch.save')


def _require_whole(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not there in full: one number shown 10**13 times would fill the memory when copied."""
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != 'cpu' or value.is_quantized:
            raise CheckpointError(f'{path}: {name!r} is no plain tensor; save model.state_dict()')
    claimed = sum(value.numel() * value.element_size() for value in tensors.values())
    if claimed > 2 * path.stat().st_size:  # twice: some weights may be tied
        raise CheckpointError(f'{path} tells of {claimed} bytes of tensors, more than it has; save model.state_dict()')


def _convert(tensor: Tensor, dtype: torch.dtype, copy: bool = False) -> Tensor:
    return tensor.to(dtype if tensor.is_floating_point() else tensor.dtype, copy=copy)


def read_config(path: Path | None, shapes: Shapes) -> VGGTConfig:
    """The configuration from the JSON file beside the weights, or else from the weights' own shapes.

    Args:
        path: a JSON file; one that is not in our form (VGGTConfig.to_dict) is passed over.
        shapes: of every tensor in the checkpoint.

    Raises:
        CheckpointError: neither tells the whole configuration.
    """
    if path is not None and path.is_file():
        try:
            data = json.loads(path.read_text())
        except (ValueError, OSError, RecursionError) as error:
            raise CheckpointError(f'{path} is not JSON ({error}); write it with VGGTConfig.to_dict') from error
        if isinstance(data, dict) and data.get('format') == FORMAT:
            config = VGGTConfig.from_dict(data)
            _require_layers(path, config, len(shapes))
            return config
    try:
        config = config_from_shapes(shapes)
    except (LookupError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f'the shapes of these weights make no network ({error!r}); put its VGGTConfig.to_dict() as JSON beside them'
        ) from error
    _require_layers('the name of a layer', config, len(shapes))
    return config


def _require_layers(source: object, config: VGGTConfig, tensors: int) -> None:
    """Refuse more layers than there are tensors, before a network of a billion layers is built."""
    layers = [config.depth]
    layers += [config.backbone.depth] if config.backbone is not None else []
    layers += [config.camera_head.trunk_depth] if config.camera_head is not None else []
    layers += [config.track_head.depth] if config.track_head is not None else []
    if max(layers) > tensors:
        raise CheckpointError(f'{source} tells of {max(layers)} layers, the weights have {tensors} tensors in all')


def config_from_shapes(shapes: Shapes) -> VGGTConfig:
    """Read the configuration off the weights, where they tell it: VGGT-1B and what shares its proportions.

    Shapes do not hold the number of heads without q/k norm, or which layers the dense heads read. The first follows
    DINOv2's 64 channels a head and VGGT's 16 heads in the camera trunk, the second is known for 24 layers.

    Raises:
        CheckpointError: the weights need a configuration file.
    """
    dim = shapes[MARKER][-1]
    depth = _count(shapes, r'aggregator\.frame_blocks\.(\d+)\.')
    head_dim = shapes.get('aggregator.frame_blocks.0.attn.q_norm.weight', (64,))[0]
    has_dense = any(name.startswith(('depth_head.', 'point_head.', 'track_head.')) for name in shapes)
    defaults = VGGTConfig()
    if (has_dense and depth != defaults.depth) or dim % 64:
        raise CheckpointError(
            f'{depth} layers of width {dim} do not tell the number of heads or the layers that are read; put the '
            "model's VGGTConfig.to_dict() as JSON beside the weights (<name>.json or config.json)"
        )
    backbone_depth = _count(shapes, r'aggregator\.patch_embed\.blocks\.(\d+)\.')
    projection = (
        'aggregator.patch_embed.patch_embed.proj.weight' if backbone_depth else ('aggregator.patch_embed.proj.weight')
    )
    patch = shapes[projection][-1]
    positions = shapes.get('aggregator.patch_embed.pos_embed', (1, 1 + (defaults.image_size // patch) ** 2, dim))
    return VGGTConfig(
        image_size=round((positions[1] - 1) ** 0.5) * patch,
        patch_size=patch,
        embed_dim=dim,
        depth=depth,
        num_heads=dim // head_dim,
        num_register_tokens=shapes['aggregator.register_token'][2],
        qk_norm='aggregator.frame_blocks.0.attn.q_norm.weight' in shapes,
        backbone=BackboneConfig(
            depth=backbone_depth,
            num_heads=dim // 64,
            num_register_tokens=shapes['aggregator.patch_embed.register_tokens'][1],
        )
        if backbone_depth
        else None,
        camera_head=CameraHeadConfig(trunk_depth=_count(shapes, r'camera_head\.trunk\.(\d+)\.'))
        if 'camera_head.empty_pose_tokens' in shapes
        else None,
        depth_head=_dense_head(shapes, 'depth_head', 'exp'),
        point_head=_dense_head(shapes, 'point_head', 'inv_log'),
        track_head=_track_head(shapes),
    )


def _count(shapes: Shapes, pattern: str) -> int:
    indices = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return max(indices) + 1 if indices else 0


def _out_channels(shapes: Shapes, prefix: str) -> tuple[int, int, int, int]:
    first, second, third, fourth = (shapes[f'{prefix}.projects.{i}.weight'][0] for i in range(4))
    return first, second, third, fourth


def _dense_head(shapes: Shapes, prefix: str, activation: Any) -> DenseHeadConfig | None:
    if f'{prefix}.norm.weight' not in shapes:
        return None
    return DenseHeadConfig(
        activation=activation,
        features=shapes[f'{prefix}.scratch.layer1_rn.weight'][0],
        hidden_channels=shapes[f'{prefix}.scratch.output_conv2.0.weight'][0],
        out_channels=_out_channels(shapes, prefix),
    )


def _track_head(shapes: Shapes) -> TrackHeadConfig | None:
    if 'track_head.tracker.query_ref_token' not in shapes:
        return None
    hidden, correlations = shapes['track_head.tracker.corr_mlp.fc1.weight']
    side = 2 * TrackHeadConfig.corr_radius + 1
    return TrackHeadConfig(
        features=shapes['track_head.tracker.fmap_norm.weight'][0],
        out_channels=_out_channels(shapes, 'track_head.feature_extractor'),
        corr_levels=correlations // side**2,
        hidden_size=hidden,
        depth=_count(shapes, r'track_head\.tracker\.updateformer\.time_blocks\.(\d+)\.'),
        num_virtual_tracks=shapes['track_head.tracker.updateformer.virual_tracks'][1],
    )

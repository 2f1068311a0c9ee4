"""Reads golden cases: a reference model's arguments, weights, inputs and outputs.

Cases come from the folder that VGGT_GOLDENS names, or else from test/vggt/goldens and, where it is there, from
../shared/vggt/goldens beside the repository. Source of the forms: goldens/README.md.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from vggt import VGGT, VGGTConfig
from vggt.config import BackboneConfig, CameraHeadConfig, DenseHeadConfig, TrackHeadConfig

BUNDLED = Path(__file__).parent / 'goldens'
SIBLING = Path(__file__).resolve().parents[3] / 'shared' / 'vggt' / 'goldens'

# Widths and depths of the official DINOv2 factories. Source: Oquab et al., DINOv2, 2023, table 16.
DINOV2 = {
    'dinov2_vits14_reg': BackboneConfig(depth=12, num_heads=6),
    'dinov2_vitb14_reg': BackboneConfig(depth=12, num_heads=12),
    'dinov2_vitl14_reg': BackboneConfig(depth=24, num_heads=16),
}
TOKEN_NAMES = {
    'cls_token',
    'pos_embed',
    'register_tokens',
    'mask_token',
    'camera_token',
    'register_token',
    'empty_pose_tokens',
    'query_ref_token',
    'virual_tracks',
}

# Found by comparing the stored weights of tiny_eps with the recipe: pattern, factor, addend.
TINY_EPS_ADJUSTMENTS = (
    (r'(aggregator|camera_head)\..*gamma', 1 / 15, 0.0),
    (r'aggregator\.(frame|global)_blocks\..*qkv\..*', 0.05, 0.0),
    (r'aggregator\.(.*\.)?(camera_token|register_token|register_tokens|cls_token|pos_embed)', 0.06, 0.0),
    (r'aggregator\.patch_embed\.patch_embed\.proj\.weight', 0.02, 0.0),
    (r'aggregator\.patch_embed\.patch_embed\.proj\.bias', 0.1, 0.0),
    (r'(aggregator\.patch_embed\.norm|camera_head\.token_norm)\.bias', 0.05, 0.0),
    (r'(aggregator\.patch_embed\.norm|camera_head\.token_norm)\.weight', 0.05, -0.02),
    (r'camera_head\.embed_pose\.weight', 0.15 / 3**0.5, 0.0),
    (r'camera_head\.embed_pose\.bias', 0.5, 0.0),
    (r'camera_head\.pose_branch\.fc2\.weight', 0.6, 0.0),
    (r'.*\.scratch\.output_conv1\.weight', 0.2, 0.0),
    (r'.*\.scratch\.output_conv2\.2\.weight', 2.0, 0.0),
    (r'track_head\.feature_extractor\.scratch\.output_conv1\.bias', 0.1, 0.0),
    (r'track_head\.tracker\.updateformer\.(flow_head|input_transform)\..*', 0.05, 0.0),
    (r'track_head\.tracker\.updateformer\.virual_tracks', 0.06, 0.0),
)


def folders() -> list[Path]:
    """Folders that hold goldens; a case is taken from the first that has it. The complete ones come first."""
    chosen = os.environ.get('VGGT_GOLDENS')
    candidates = [Path(chosen)] if chosen else [SIBLING, BUNDLED]
    return [folder for folder in candidates if folder.is_dir()]


def load_arrays(name: str) -> dict[str, np.ndarray]:
    """All arrays of a golden file, from VGGT_GOLDENS if it holds it, else from the bundled ones."""
    with np.load(find(name)) as stored:
        return {key: stored[key] for key in stored.files}


def load_json(name: str) -> dict[str, Any]:
    """A golden description, from the same place as its arrays."""
    content: dict[str, Any] = json.loads(find(name).read_text())
    return content


def find(name: str) -> Path:
    """The golden file of that name."""
    return next(folder / name for folder in [*folders(), BUNDLED] if (folder / name).is_file())


@dataclass(frozen=True)
class Case:
    """One input of one golden model, with where to find its parts."""

    model: str
    name: str
    description: Path
    outputs: Path

    def __str__(self) -> str:
        return f'{self.model}.{self.name}'

    @property
    def is_large(self) -> bool:
        """The released architecture: 5 GB and about a minute."""
        return 'aggregator' not in json.loads(self.description.read_text())


def model_cases() -> list[Case]:
    """Every case of every model description ('cases', or one 'case' of the default model) in the folders."""
    cases: dict[str, Case] = {}
    for folder in folders():
        for description in sorted(folder.glob('*.json')):
            data = json.loads(description.read_text())
            if not isinstance(data, dict):
                continue
            files = [f'{description.stem}.{name}.npz' for name in data.get('cases', ())]
            files += [data['case']['file']] if 'case' in data else []
            for file in files:
                name = file.removeprefix(f'{description.stem}.').removesuffix('.npz')
                case = Case(description.stem, name, description, folder / file)
                cases.setdefault(str(case), case)
    return list(cases.values())


def read_config(description: dict[str, Any]) -> VGGTConfig:
    """Turn the reference's constructor arguments into our configuration; an unknown argument is an error."""
    if 'aggregator' not in description:
        return VGGTConfig()
    aggregator = dict(description['aggregator'])
    expect(aggregator, qkv_bias=True, proj_bias=True, ffn_bias=True)
    dino = aggregator.pop('dino', None)
    kind = aggregator.pop('patch_embed')
    image_size, patch_size = aggregator.pop('img_size'), aggregator.pop('patch_size')
    if dino is not None:
        backbone = _backbone(dict(dino), image_size, patch_size, aggregator['embed_dim'])
    elif kind == 'conv':
        backbone = None
    else:
        backbone = DINOV2[kind]
    return VGGTConfig(
        image_size=image_size,
        patch_size=patch_size,
        **_renamed(
            aggregator,
            aa_order='attention_order',
            aa_block_size='attention_block_size',
            rope_freq='rope_frequency',
            num_register_tokens='num_register_tokens',
        ),
        backbone=backbone,
        camera_head=_camera_head(description),
        depth_head=_dense_head(description, 'depth_head', 2),
        point_head=_dense_head(description, 'point_head', 4),
        track_head=_track_head(description),
    )


def _backbone(dino: dict[str, Any], image_size: int, patch_size: int, dim: int) -> BackboneConfig:
    expect(dino, img_size=image_size, patch_size=patch_size, embed_dim=dim, block_chunks=0, ffn_layer='mlp')
    expect(dino, interpolate_antialias=True, interpolate_offset=0.0, qkv_bias=True, proj_bias=True, ffn_bias=True)
    return BackboneConfig(**_renamed(dino, drop_path_rate='drop_path'))


def expect(arguments: dict[str, Any], **fixed: Any) -> None:
    """Take out arguments for which our network has one value only; another value is an error."""
    for key, value in fixed.items():
        came = arguments.pop(key, value)
        assert came == value, f'{key} = {came} has no counterpart, only {value}'


def _camera_head(description: dict[str, Any]) -> CameraHeadConfig | None:
    arguments = description.get('camera_head')
    if arguments is None:
        return None
    arguments = {key: value for key, value in arguments.items() if key != 'dim_in'}
    expect(arguments, pose_encoding_type='absT_quaR_FoV', trans_act='linear', quat_act='linear', fl_act='relu')
    return CameraHeadConfig(**arguments)


def _dense_head(description: dict[str, Any], name: str, channels: int) -> DenseHeadConfig | None:
    arguments = description.get(name)
    if arguments is None:
        return None
    arguments = {key: value for key, value in arguments.items() if key not in ('dim_in', 'patch_size')}
    expect(arguments, output_dim=channels, feature_only=False, down_ratio=1, pos_embed=True)
    return DenseHeadConfig(**_dpt_arguments(arguments))


def _track_head(description: dict[str, Any]) -> TrackHeadConfig | None:
    arguments = description.get('track_head')
    if arguments is None:
        return None
    arguments = dict(arguments)
    extractor = dict(arguments.pop('feature_extractor', {}))
    expect(extractor, feature_only=True, down_ratio=2, pos_embed=False, features=arguments['features'])
    expect(arguments, stride=2, predict_conf=True)
    for given_elsewhere in ('dim_in', 'patch_size'):
        arguments.pop(given_elsewhere, None)
        extractor.pop(given_elsewhere, None)
    return TrackHeadConfig(**_renamed(arguments, iters='iterations'), **_dpt_arguments(extractor))


def _dpt_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    return _renamed(arguments, conf_activation='confidence_activation', intermediate_layer_idx='layers')


def _renamed(arguments: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(k, k): tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}


def load_weights(model: VGGT, description: dict[str, Any], folder: Path) -> None:
    """Fill the model with the stored or the recipe weights, strictly."""
    file = description.get('weights_file')
    if file is not None and (folder / file).is_file():
        model.load_state_dict(load_file(folder / file), strict=True)
        return
    adjustments = TINY_EPS_ADJUSTMENTS if file == 'tiny_eps.safetensors' else ()
    fill_by_recipe(model, description['seed'], adjustments)


def recipe_tensor(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Weights from a counter-based generator. Source: goldens/README.md, 'Weights by recipe'."""
    state = np.uint64(int.from_bytes(hashlib.sha256(f'{seed}:{name}'.encode()).digest()[:8], 'little'))
    z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += state
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    values = (z >> np.uint64(40)).astype(np.float32)
    values *= np.float32(2.0**-23)
    values -= np.float32(1.0)
    base, amplitude = _recipe_range(name, shape)
    values *= np.float32(amplitude)
    values += base
    return values.reshape(shape)


def _recipe_range(name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, float]:
    last = name.rsplit('.', 1)[-1]
    zero = np.zeros(1, dtype=np.float32)
    if last == 'gamma':
        return zero + np.float32(0.3), 0.15
    if last in TOKEN_NAMES:
        return zero, 0.5
    if name.endswith('pose_branch.fc2.bias'):
        return np.array([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.3], dtype=np.float32), 0.02
    if last == 'weight' and len(shape) == 1:
        return zero + 1, 0.2
    if last in ('bias', 'in_proj_bias'):
        return zero, 0.1
    transposed = name.endswith(('resize_layers.0.weight', 'resize_layers.1.weight'))
    fan = shape[0] if transposed else int(np.prod(shape[1:]))
    gain = 1.0
    if name.endswith('pose_branch.fc2.weight'):
        gain = 0.15
    elif name.endswith(('scratch.output_conv2.2.weight', 'updateformer.flow_head.weight')):
        gain = 0.5
    return zero, gain * (3.0 / fan) ** 0.5


@torch.no_grad()
def fill_by_recipe(model: VGGT, seed: int, adjustments: tuple[tuple[str, float, float], ...] = ()) -> None:
    """Overwrite every parameter, one at a time so that the largest model fits in memory."""
    for name, parameter in model.state_dict().items():
        values = recipe_tensor(seed, name, tuple(parameter.shape))
        for pattern, factor, addend in adjustments:
            if re.fullmatch(pattern, name):
                values = values * np.float32(factor) + np.float32(addend)
        parameter.copy_(torch.from_numpy(values))

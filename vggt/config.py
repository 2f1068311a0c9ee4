"""Every number that decides the architecture of a VGGT, with the released 1B model as the default."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args

from vggt.errors import ConfigError

Activation = Literal['norm_exp', 'norm', 'exp', 'relu', 'inv_log', 'xy_inv_log', 'sigmoid', 'linear']
ConfidenceActivation = Literal['expp1', 'expp0', 'sigmoid']
HEAD_NAMES = ('camera', 'depth', 'point', 'track')
LARGEST = 100_000  # of any number of a configuration that comes from a file
FORMAT = 'vggt_ros/VGGTConfig/1'  # tells our config.json from others that lie beside a checkpoint


@dataclass(frozen=True)
class BackboneConfig:
    """DINOv2 vision transformer with registers; its width is VGGTConfig.embed_dim."""

    depth: int = 24
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    init_values: float = 1.0  # LayerScale at the start of training
    drop_path: float = 0.0


@dataclass(frozen=True)
class CameraHeadConfig:
    """Iterative refinement of the pose encoding; works at twice the aggregator's width."""

    trunk_depth: int = 4
    num_heads: int = 16
    mlp_ratio: float = 4.0
    init_values: float = 0.01
    iterations: int = 4


@dataclass(frozen=True)
class DenseHeadConfig:
    """A DPT head that decodes one value (or three) and one confidence for each pixel."""

    activation: Activation = 'exp'
    confidence_activation: ConfidenceActivation = 'expp1'
    features: int = 256
    hidden_channels: int = 32  # of the last convolution, which runs at full resolution
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)  # entries of the aggregator's list, shallow to deep
    frames_per_chunk: int = 8  # frames do not mix in this head, so this bounds memory and changes no value


@dataclass(frozen=True)
class TrackHeadConfig:
    """DPT features at half resolution and an iterative point tracker on top."""

    features: int = 128
    out_channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)
    corr_levels: int = 7
    corr_radius: int = 4
    hidden_size: int = 384
    num_heads: int = 8
    depth: int = 6
    num_virtual_tracks: int = 64
    iterations: int = 4
    frames_per_chunk: int = 8


@dataclass(frozen=True)
class VGGTConfig:
    """The whole network. A head that is None is not built; a backbone that is None is one patch convolution.

    Source of the defaults: VGGT-1B, docs/network_facts.md sec. 2 to 7.
    """

    image_size: int = 518  # width it was made for; a backbone's position embedding has the grid of this square
    patch_size: int = 14
    embed_dim: int = 1024
    depth: int = 24  # pairs of a frame block and a global block
    num_heads: int = 16
    mlp_ratio: float = 4.0
    num_register_tokens: int = 4
    qk_norm: bool = True
    init_values: float = 0.01
    rope_frequency: float = 100.0
    attention_order: tuple[str, str] = ('frame', 'global')
    attention_block_size: int = 1  # blocks of one kind in a row
    drop_path: float = 0.0
    activation_checkpointing: bool = True  # in training mode only: less memory, one more forward
    backbone: BackboneConfig | None = BackboneConfig()
    camera_head: CameraHeadConfig | None = CameraHeadConfig()
    depth_head: DenseHeadConfig | None = DenseHeadConfig()
    point_head: DenseHeadConfig | None = DenseHeadConfig(activation='inv_log')
    track_head: TrackHeadConfig | None = TrackHeadConfig()

    def __post_init__(self) -> None:
        _check(self)

    @property
    def num_special_tokens(self) -> int:
        """Tokens in front of the patches of a frame: one camera token and the registers."""
        return 1 + self.num_register_tokens

    @property
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that are built, of HEAD_NAMES."""
        return tuple(name for name in HEAD_NAMES if getattr(self, f'{name}_head') is not None)

    def with_heads(self, heads: Sequence[str]) -> VGGTConfig:
        """Drop every head that is not named.

        Raises:
            ConfigError: a name is unknown, or this configuration does not have that head.
        """
        missing = [name for name in heads if name not in self.heads]
        if missing:
            raise ConfigError(f'heads {missing} are not in this model; it has {list(self.heads)}')
        dropped: dict[str, Any] = {f'{name}_head': None for name in HEAD_NAMES if name not in heads}
        return replace(self, **dropped)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists, ready for JSON."""
        return {'format': FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> VGGTConfig:
        """Rebuild what to_dict wrote.

        Raises:
            ConfigError: a key is unknown or a value makes no network.
        """
        nested = {
            'backbone': BackboneConfig,
            'camera_head': CameraHeadConfig,
            'depth_head': DenseHeadConfig,
            'point_head': DenseHeadConfig,
            'track_head': TrackHeadConfig,
        }
        values = {key: value for key, value in data.items() if key != 'format'}
        for key, kind in nested.items():
            if values.get(key) is not None:
                values[key] = _build(kind, values[key], where=f'{key}.')
        return _build(cls, values, where='')


def _build(kind: type, values: dict[str, Any], where: str) -> Any:
    if not isinstance(values, dict):
        raise ConfigError(f'{where[:-1] or "the configuration"} must hold names and values, got {values!r}')
    known = {field.name for field in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ConfigError(f'unknown keys {[where + key for key in unknown]}; known are {sorted(known)}')
    defaults = {field.name: field.default for field in fields(kind)}
    built = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    for key, value in built.items():
        _require_kind(where + key, value, defaults[key])
    return kind(**built)


def _require_kind(name: str, value: Any, default: Any) -> None:
    """A value from a file must be of the kind of the default, and of a size that some network has."""
    if isinstance(default, tuple):
        if not isinstance(value, tuple) or len(value) != len(default):
            raise ConfigError(f'{name} must be {len(default)} values such as {list(default)}, got {value!r}')
        for one in value:
            _require_kind(name, one, default[0])
    elif isinstance(default, (bool, str)):
        if type(value) is not type(default):
            raise ConfigError(f'{name} must be like {default!r}, got {value!r}')
    elif isinstance(default, (int, float)):
        kinds = (int,) if isinstance(default, int) else (int, float)
        if type(value) not in kinds or not 0 <= value <= LARGEST:
            raise ConfigError(f'{name} must be a number like {default!r}, from 0 to {LARGEST}, got {value!r}')


def _check(config: VGGTConfig) -> None:
    if not config.heads:
        raise ConfigError(f'at least one head is needed, of {list(HEAD_NAMES)}')
    _require_divisible('embed_dim', config.embed_dim, 'num_heads', config.num_heads)
    head_dim = config.embed_dim // config.num_heads
    if head_dim % 4:
        raise ConfigError(f'embed_dim / num_heads must be a multiple of 4 for 2-D rotary positions, got {head_dim}')
    _require_divisible('depth', config.depth, 'attention_block_size', config.attention_block_size)
    if sorted(config.attention_order) != ['frame', 'global']:
        raise ConfigError(f"attention_order must hold 'frame' and 'global' once each, got {config.attention_order}")
    if config.backbone is not None:
        _require_divisible('embed_dim', config.embed_dim, 'backbone.num_heads', config.backbone.num_heads)
        _require_divisible('image_size', config.image_size, 'patch_size', config.patch_size)
    if config.camera_head is not None:
        _require_divisible('2 * embed_dim', 2 * config.embed_dim, 'camera_head.num_heads', config.camera_head.num_heads)
    for name in ('depth_head', 'point_head', 'track_head'):
        head = getattr(config, name)
        if head is None:
            continue
        if any(not 0 <= layer < config.depth for layer in head.layers):
            raise ConfigError(f'{name}.layers must lie in 0..{config.depth - 1}, got {head.layers}')
        if any(channels % 4 for channels in head.out_channels) or head.features % 8:
            raise ConfigError(f'{name}: out_channels must be multiples of 4 and features of 8 for the sine grid')
        if name != 'track_head' and head.activation not in get_args(Activation):
            raise ConfigError(f'{name}.activation {head.activation!r} is unknown; use one of {get_args(Activation)}')


def _require_divisible(name: str, value: int, by_name: str, by: int) -> None:
    if by < 1 or value < 1 or value % by:
        raise ConfigError(f'{name} must be a positive multiple of {by_name}, got {value} and {by}')

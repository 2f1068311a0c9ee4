"""Every setting with its default, once: ROS parameters, command-line flags and tables are made from here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from vggt_ros.core.errors import ConfigError


def setting(
    default: bool | int | float | str,
    help: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    above: float | None = None,
    one_of: tuple[str, ...] | None = None,
    dynamic: bool = False,
) -> Any:
    """A dataclass field that knows its sentence, its bounds and whether it may change while running.

    Args:
        default: the value when nobody says otherwise; its type is the type of the setting.
        help: what it does, with its unit, in one sentence.
        at_least, at_most: closed bounds.
        above: open lower bound.
        one_of: the words allowed.
        dynamic: may be set on a running node.
    """
    bounds = {'at_least': at_least, 'at_most': at_most, 'above': above, 'one_of': one_of}
    return field(default=default, metadata={'help': help, 'dynamic': dynamic, **bounds})


MAX_INT = 2**63 - 1  # of an integer parameter of ROS


@dataclass(frozen=True)
class Setting:
    """One setting as the outside sees it."""

    name: str
    section: str
    field: str
    default: bool | int | float | str
    help: str
    dynamic: bool
    at_least: float | None
    at_most: float | None
    above: float | None
    one_of: tuple[str, ...] | None

    @property
    def kind(self) -> type:
        """bool, int, float or str."""
        return type(self.default)

    def check(self, value: Any) -> Any:
        """Return value in the setting's type, or raise ConfigError naming what is allowed."""
        if type(value) is int and abs(value) > MAX_INT and self.kind in (int, float):
            raise ConfigError(f'{self.name} must be a number of 64 bits, got one of {value.bit_length()} bits')
        if self.kind is float and type(value) is int:
            return self.check(float(value))
        if type(value) is not self.kind:
            raise ConfigError(f'{self.name} must be {self.kind.__name__}, got {value!r}')
        if self.one_of is not None and value not in self.one_of:
            raise ConfigError(f'{self.name} must be one of {", ".join(self.one_of)}, got {value!r}')
        if self.kind in (int, float):
            self._check_range(value)
        return value

    def _check_range(self, value: Any) -> None:
        if not math.isfinite(value):
            raise ConfigError(f'{self.name} must be a finite number, got {value!r}')
        if self.above is not None and not value > self.above:
            raise ConfigError(f'{self.name} must be above {self.above:g}, got {value!r}')
        if self.at_least is not None and value < self.at_least:
            raise ConfigError(f'{self.name} must be at least {self.at_least:g}, got {value!r}')
        if self.at_most is not None and value > self.at_most:
            raise ConfigError(f'{self.name} must be at most {self.at_most:g}, got {value!r}')


class Section:
    """Base of the groups below: a setting's public name is prefix + field name."""

    prefix: ClassVar[str] = ''


@dataclass(frozen=True)
class ModelConfig(Section):
    """Which network runs, and where."""

    model_id: str = setting('nano', 'shipped name, Hugging Face id, or checkpoint file')
    checkpoint_path: str = setting('', 'checkpoint file to use instead of model_id')
    local_files_only: bool = setting(False, 'never ask the hub; use what is cached')
    device: str = setting('auto', 'auto, cpu or cuda:N; auto takes the first GPU and says so where it falls to the CPU')
    precision: str = setting('auto', 'number format of the network', one_of=('auto', 'bf16', 'fp16', 'fp32'))
    backend: str = setting(
        'vggt', 'vggt, or fake: a flat wall instead of a network, for tests of the plumbing', one_of=('vggt', 'fake')
    )
    input_width: int = setting(
        0,
        'width in pixels at which the network sees the image; 0 takes what the model was made for, or down to half of '
        'it where memory or latency_budget_s are too short for windows of two',
        at_least=0,
    )

    head_precision: str = setting(
        'fp32',
        'number format of the depth head; a lower one changes depth by some 1e-3',
        one_of=('fp32', 'bf16', 'fp16'),
    )
    compile: bool = setting(
        False,
        "compile the network's blocks for the windows of the stream: on a GPU they take two thirds of the time, for a "
        'pause of some 15 s at the start',
    )
    cuda_graph: bool = setting(
        False,
        'experimental: windows of the stream as one CUDA graph, which with compile takes another 1 to 10 % off, the '
        'more the busier the host, and holds some 1 GB for it',
    )
    approximate_key_stride: int = setting(
        1,
        'approximation: in global attention every n-th patch of all frames but the first is seen; 1 is exact',
        at_least=1,
        at_most=16,
    )
    approximate_camera_rounds: int = setting(
        0,
        'approximation: rounds of the camera head; 0 runs as many as it was trained with, which is exact',
        at_least=0,
        at_most=16,
    )

    @property
    def source(self) -> str:
        """What load_vggt takes."""
        return self.checkpoint_path or self.model_id


@dataclass(frozen=True)
class WindowConfig(Section):
    """How keyframes are grouped before the model sees them."""

    prefix: ClassVar[str] = 'window_'
    size: int = setting(8, 'keyframes per model call; memory grows with it', at_least=1, at_most=64)
    stride: int = setting(
        4, 'new keyframes per model call; the rest overlap and carry the scale', at_least=1, at_most=64, dynamic=True
    )

    def __post_init__(self) -> None:
        if self.stride > self.size:
            raise ConfigError(f'window_stride must be at most window_size, got {self.stride} of {self.size}')


@dataclass(frozen=True)
class KeyframeConfig(Section):
    """Which frames see enough new to be kept; both at 0 keep every frame."""

    prefix: ClassVar[str] = 'keyframe_'
    min_translation_px: float = setting(
        0.0,
        'median optical flow since the last keyframe, pixels of the source image',
        at_least=0,
        at_most=500,
        dynamic=True,
    )
    min_interval_s: float = setting(0.0, 'seconds between keyframes', at_least=0, at_most=60, dynamic=True)


@dataclass(frozen=True)
class StreamConfig(Section):
    """What happens over time."""

    max_frame_gap_s: float = setting(
        2.0,
        'a longer pause between frames ends the window and starts a new one; 0 never does',
        at_least=0,
        at_most=60,
        dynamic=True,
    )
    max_latency_s: float = setting(
        5.0,
        'the result of a frame that arrived longer ago than this is dropped, and kept in the map alone',
        at_least=0.1,
        at_most=9.0,
        dynamic=True,
    )
    latency_budget_s: float = setting(
        0.0,
        'seconds that a window may take; where it takes more, window_stride and then window_size are lowered, and at '
        'the start at last the size of the picture; 0 leaves them',
        at_least=0,
        at_most=9,
        dynamic=True,
    )
    window_timeout_s: float = setting(
        600.0,
        'a window still being computed after this counts as stuck, and the node starts anew; once windows are '
        'known, 20 times the slowest of late, 10 s at least, where that is shorter',
        at_least=1,
        at_most=86400,
        dynamic=True,
    )
    publish_frames: str = setting(
        'new', 'publish every new frame of a window, or only the latest', one_of=('new', 'latest'), dynamic=True
    )
    on_time_jump: str = setting(
        'reset',
        'stamps that go back by over a second: reset starts a new map, ignore drops them',
        one_of=('reset', 'ignore'),
        dynamic=True,
    )
    publish_when_unsubscribed: bool = setting(False, 'run the network even when nobody listens', dynamic=True)


@dataclass(frozen=True)
class CameraConfig(Section):
    """How the camera's calibration is used."""

    intrinsics_mode: str = setting(
        'camera_info',
        'camera_info (the calibrated K, locked without one), locked (of the first window) or per_window',
        one_of=('camera_info', 'locked', 'per_window'),
    )
    camera_info_timeout_s: float = setting(3.0, 'seconds to wait for the first CameraInfo', at_least=0, at_most=60)
    rectify: str = setting(
        'auto',
        'auto takes lens distortion out of images whose CameraInfo has it, never leaves it in',
        one_of=('auto', 'never'),
    )
    output_resolution: str = setting(
        'model', 'size of depth and colour images: that of the network, or of the input', one_of=('model', 'input')
    )


@dataclass(frozen=True)
class MaskConfig(Section):
    """Which pixels do not count: the robot itself, things that move, the sky. Their depth is unknown."""

    prefix: ClassVar[str] = 'mask_'
    path: str = setting(
        '', 'picture of the size of the camera image, black where it shows the robot; {camera} is the name in a rig'
    )
    mode: str = setting(
        'none',
        'masks on the topic mask, mono8, 0 where a pixel does not count: none, the latest, or by stamp',
        one_of=('none', 'latest', 'stamped'),
    )
    timeout_s: float = setting(
        0.5, 'seconds to wait for the mask of a stamp; without, the image is dropped', at_least=0, at_most=5
    )
    sky: bool = setting(False, 'leave out as sky what is far, not confident, and reaches the top', dynamic=True)
    moving: bool = setting(
        False, 'leave out of the map what other frames of a window look through: it has moved', dynamic=True
    )


@dataclass(frozen=True)
class ScaleConfig(Section):
    """Where metres come from, and which way is up."""

    scale_source: str = setting(
        'none',
        'what tells metres: odometry or tf (way of the robot), depth or lidar (another sensor), camera_height (over '
        'the floor), baseline (to a second camera), fixed (a known factor), or none: the unit of the first window',
        one_of=('none', 'fixed', 'odometry', 'tf', 'depth', 'lidar', 'camera_height', 'baseline'),
    )
    scale: float = setting(1.0, 'metres per unit of the first window, for scale_source fixed', above=0)
    scale_min_observations: int = setting(
        5, 'windows that must agree before the scale is locked', at_least=2, at_most=1000
    )
    scale_max_spread: float = setting(
        0.1, 'relative spread of the windows above which the scale is not locked', at_least=0.001, at_most=1
    )
    scale_horizon: int = setting(64, 'windows remembered by the estimate of scale', at_least=4, at_most=10000)
    scale_min_motion: float = setting(
        0.1, 'metres the camera must move within a window before odometry tells a scale', above=0
    )
    scale_sync_s: float = setting(0.05, 'seconds that the other sensor may be off the image', at_least=0, at_most=1)
    camera_height: float = setting(
        0.0,
        'metres from floor to camera, for scale_source camera_height; 0 takes it from base -> camera, the base '
        'being on the floor',
        at_least=0,
        at_most=100,
    )
    gravity_source: str = setting(
        'mount',
        'what makes the map level: mount (the robot stands level at the start), imu, or none',
        one_of=('mount', 'imu', 'none'),
    )

    def __post_init__(self) -> None:
        if self.scale_horizon < self.scale_min_observations:
            raise ConfigError(
                f'scale_horizon must be at least scale_min_observations, got {self.scale_horizon} and '
                f'{self.scale_min_observations}'
            )

    @property
    def factor(self) -> float:
        """Output units per unit of the first window, as far as it is known beforehand."""
        return self.scale if self.scale_source == 'fixed' else 1.0

    @property
    def is_measured(self) -> bool:
        """Whether the scale is found while running."""
        return self.scale_source not in ('none', 'fixed')


@dataclass(frozen=True)
class BundleConfig(Section):
    """Whether what the network says of a window is held against what its frames share."""

    bundle_adjustment: str = setting(
        'auto',
        'mend cameras and depth of a window by what its frames share: on, off, or auto, which is on for networks that '
        'see pictures of 256 pixels or less, as nano does; some 0.1 to 0.3 s a window of one processor core',
        one_of=('auto', 'on', 'off'),
    )


@dataclass(frozen=True)
class AlignmentConfig(Section):
    """How a window is placed on the one before."""

    prefix: ClassVar[str] = 'alignment_'
    max_frames: int = setting(4, 'shared frames compared at a seam, the newest first', at_least=1, at_most=64)
    max_points: int = setting(8192, 'dense correspondences used at a seam', at_least=64)
    min_inlier_ratio: float = setting(
        0.3, 'a seam with a smaller share of agreeing points is not trusted', at_least=0, at_most=1, dynamic=True
    )


@dataclass(frozen=True)
class CloudConfig(Section):
    """Which depth is trusted, and how dense clouds are."""

    confidence_threshold: float = setting(0.0, 'depth of lower confidence is unknown', at_least=0, dynamic=True)
    confidence_percentile: float = setting(
        20.0, 'this share of a window, the least confident, is unknown', at_least=0, at_most=100, dynamic=True
    )
    min_depth: float = setting(0.0, 'nearer depth is unknown, metres', at_least=0, at_most=1000, dynamic=True)
    max_depth: float = setting(
        0.0, 'farther depth is unknown, metres; 0 is no limit', at_least=0, at_most=1000, dynamic=True
    )
    voxel_size: float = setting(0.02, 'edge of a map voxel and of the filtered cloud, metres', above=0, dynamic=True)
    cloud_stride: int = setting(
        1, 'every n-th pixel goes into the unorganised clouds', at_least=1, at_most=16, dynamic=True
    )


@dataclass(frozen=True)
class MapConfig(Section):
    """How much is remembered."""

    map_max_points: int = setting(2_000_000, 'voxels kept; the oldest go first', at_least=1)
    map_max_submaps: int = setting(16, 'submaps kept with their images, some 20 MB each', at_least=1)
    map_publish_period: float = setting(2.0, 'seconds between map clouds', above=0, dynamic=True)
    path_max_size: int = setting(1024, 'poses kept in the path', at_least=1)
    trajectory_max_size: int = setting(
        200_000, 'poses kept of the trajectory that is saved, 104 bytes each; the oldest go first', at_least=1
    )
    map_max_views: int = setting(
        4096, 'keyframes remembered with a small depth image, 12 kB each; of two alike one goes', at_least=1
    )
    view_min_shift: float = setting(
        0.1,
        'a keyframe nearer to another than this share of its depth, and turned less, is not remembered',
        above=0,
        at_most=1,
    )
    view_min_angle_deg: float = setting(
        10.0, 'degrees by which keyframes at one place must be turned to be remembered', above=0, at_most=180
    )


@dataclass(frozen=True)
class LoopConfig(Section):
    """When the camera counts as back at a place, and what that must rest on."""

    prefix: ClassVar[str] = 'loop_'
    closure: bool = setting(True, 'recognise places and close loops: one more pass of the network for each looked at')
    min_gap: int = setting(24, 'keyframes between two visits that count as a loop', at_least=2)
    min_similarity: float = setting(
        0.4, 'how alike places must look to be compared by the network, -1 to 1', at_least=-1, at_most=1
    )
    min_inlier_ratio: float = setting(
        0.5, 'share of points on which the network, seeing both visits, must agree with each', at_least=0, at_most=1
    )
    min_overlap: float = setting(0.4, 'share of the points of one visit that the other must see', at_least=0, at_most=1)
    min_agreement: float = setting(
        0.75, 'share of those that must lie where the other sees them', at_least=0, at_most=1
    )
    min_correlation: float = setting(0.2, 'of the grey of those points in both visits, -1 to 1', at_least=-1, at_most=1)
    min_shared_view: float = setting(
        0.47, 'share of patches that both visits must show, all shifted alike', at_least=0, at_most=1
    )
    max_places: int = setting(1000, 'places remembered, each 40 to 400 kB; of two alike one goes', at_least=1)
    max_windows: int = setting(10000, 'windows of the pose graph, 2 kB each; older ones stay in place', at_least=2)


SAVE_FORMATS = ('tum', 'ply', 'pcd', 'glb', 'colmap', 'colmap_text')


@dataclass(frozen=True)
class SaveConfig(Section):
    """What the services ~/save_map and ~/save_trajectory write."""

    prefix: ClassVar[str] = 'save_'
    directory: str = setting('', 'folder for what is saved, absolute; empty takes ~/.ros/vggt_ros')
    formats: str = setting('tum ply pcd glb colmap', f'formats of a saved map, of {" ".join(SAVE_FORMATS)}')

    def __post_init__(self) -> None:
        unknown = [one for one in self.formats.split() if one not in SAVE_FORMATS]
        if unknown or not self.formats.split():
            raise ConfigError(f'save_formats must be some of {", ".join(SAVE_FORMATS)}, got {self.formats!r}')


@dataclass(frozen=True)
class FramesConfig(Section):
    """Coordinate frames and TF, after REP 105."""

    map_frame: str = setting('map', 'name of the map frame')
    odom_frame: str = setting('odom', 'name of the odometry frame')
    base_frame: str = setting('base_link', 'name of the robot frame')
    camera_optical_frame: str = setting('', 'optical frame of the images; empty takes it from their header')
    world_frame: str = setting('odom', 'frame of world points, path and map')
    publish_odom_to_base_tf: bool = setting(True, 'publish odom -> base', dynamic=True)
    publish_map_to_odom_tf: bool = setting(False, 'publish map -> odom', dynamic=True)
    invert_odom_to_base_tf: bool = setting(
        False, 'publish base -> odom instead of odom -> base, below a robot that has a parent already', dynamic=True
    )
    invert_map_to_odom_tf: bool = setting(False, 'publish odom -> map instead of map -> odom', dynamic=True)
    standalone: bool = setting(
        False, 'no TF tree: put the base at the camera, axes after REP 103, and publish that as static TF'
    )
    tf_timeout_s: float = setting(0.2, 'seconds to wait for base -> camera', at_least=0, at_most=10)
    tf_rate: float = setting(20.0, 'times a second that map -> odom is sent again', above=0, at_most=100)
    tf_tolerance: float = setting(
        0.1, 'seconds that map -> odom is dated ahead, so that it holds until the next', at_least=0, at_most=1
    )

    @property
    def corrects_odometry(self) -> bool:
        """Whether map -> odom goes out beside an odometry that is not ours."""
        return self.publish_map_to_odom_tf and not self.publish_odom_to_base_tf

    @property
    def published_children(self) -> frozenset[str]:
        """Frames whose parent in TF we publish."""
        children = set()
        if self.publish_odom_to_base_tf:
            children.add(self.odom_frame if self.invert_odom_to_base_tf else self.base_frame)
        if self.publish_map_to_odom_tf:
            children.add(self.map_frame if self.invert_map_to_odom_tf else self.odom_frame)
        return frozenset(children)


@dataclass(frozen=True)
class InputConfig(Section):
    """How the node subscribes."""

    image_transport: str = setting('raw', 'raw or compressed images', one_of=('raw', 'compressed'))
    input_reliability: str = setting(
        'best_effort', 'reliability of the image subscription', one_of=('best_effort', 'reliable')
    )
    input_queue_depth: int = setting(5, 'messages kept by the subscription', at_least=1, at_most=100)
    max_image_age_s: float = setting(
        0.0,
        'an image whose stamp is older than this when it comes is dropped, as after a gap of the link to another '
        'machine; wants synchronised clocks; 0 takes all',
        at_least=0,
        at_most=60,
        dynamic=True,
    )


@dataclass(frozen=True)
class RigConfig(Section):
    """Several cameras on one robot."""

    camera_names: str = setting(
        '', 'cameras of a rig, separated by commas, the reference first: topics NAME/image; empty is one camera'
    )
    camera_sync_s: float = setting(
        0.02, 'seconds between the images of one moment of a rig, at most', at_least=0.0001, at_most=1
    )

    def __post_init__(self) -> None:
        wrong = [name for name in self.cameras if not re.fullmatch(r'[A-Za-z]\w*', name)]
        if wrong or len(set(self.cameras)) < len(self.cameras) or len(self.cameras) == 1:
            raise ConfigError(
                'camera_names must be empty or at least two different names of letters, digits and underscores, '
                f'separated by commas, got {self.camera_names!r}'
            )

    @property
    def cameras(self) -> tuple[str, ...]:
        """Names of the rig's cameras; empty without a rig."""
        return tuple(name.strip() for name in self.camera_names.split(',')) if self.camera_names.strip() else ()


@dataclass(frozen=True)
class Config:
    """All settings, by section."""

    model: ModelConfig = ModelConfig()
    window: WindowConfig = WindowConfig()
    keyframe: KeyframeConfig = KeyframeConfig()
    stream: StreamConfig = StreamConfig()
    camera: CameraConfig = CameraConfig()
    mask: MaskConfig = MaskConfig()
    scale: ScaleConfig = ScaleConfig()
    bundle: BundleConfig = BundleConfig()
    alignment: AlignmentConfig = AlignmentConfig()
    cloud: CloudConfig = CloudConfig()
    map: MapConfig = MapConfig()
    save: SaveConfig = SaveConfig()
    loop: LoopConfig = LoopConfig()
    frames: FramesConfig = FramesConfig()
    input: InputConfig = InputConfig()
    rig: RigConfig = RigConfig()

    def __post_init__(self) -> None:
        for one in settings():
            one.check(getattr(getattr(self, one.section), one.field))
        if self.scale.scale_source == 'baseline' and not self.rig.cameras:
            raise ConfigError('scale_source baseline needs camera_names of two cameras or more, whose mounts TF knows')
        if self.scale.scale_source == 'tf' and self.frames.publish_odom_to_base_tf:
            raise ConfigError(
                f'scale_source tf reads {self.frames.odom_frame} -> {self.frames.base_frame}, which this node would '
                'publish itself: set publish_odom_to_base_tf to false'
            )

    @property
    def reads_tf(self) -> bool:
        """Whether anything asks TF: where a camera or a sensor sits, or the robot in an odometry that is not ours."""
        frames, scale = self.frames, self.scale
        asks_for_sensors = scale.is_measured or scale.gravity_source == 'imu'
        return not frames.standalone or bool(self.rig.cameras) or asks_for_sensors or frames.corrects_odometry

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A copy with some settings changed, by public name; ConfigError on an unknown name or a bad value."""
        by_name = {one.name: one for one in settings()}
        changes: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            if name not in by_name:
                raise ConfigError(f'unknown setting {name!r}; the settings are {", ".join(sorted(by_name))}')
            one = by_name[name]
            changes.setdefault(one.section, {})[one.field] = one.check(value)
        sections = {name: dataclasses.replace(getattr(self, name), **fields) for name, fields in changes.items()}
        return dataclasses.replace(self, **sections)

    def values(self) -> dict[str, bool | int | float | str]:
        """Every setting by public name."""
        return {one.name: getattr(getattr(self, one.section), one.field) for one in settings()}


def settings() -> Iterator[Setting]:
    """All settings in order of declaration."""
    for section in dataclasses.fields(Config):
        kind: Any = type(section.default)
        for one in dataclasses.fields(kind):
            default: Any = one.default
            name = kind.prefix + one.name
            yield Setting(name=name, section=section.name, field=one.name, default=default, **one.metadata)

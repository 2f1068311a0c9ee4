"""Window -> Prediction: resize (K with it), run vggt, back to numpy."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
import torch

from vggt import StreamingVGGT
from vggt.approximation import Approximation
from vggt.errors import CompileError, VGGTError
from vggt.output import VGGTOutput
from vggt.pose_encoding import decode_pose_encoding
from vggt.preprocessing import ImageTransform, ModelImage, resize_keeping_aspect, stack_pixels
from vggt.weights import load_vggt
from vggt_ros.core.bundle.adjustment import Geometry, adjust
from vggt_ros.core.config import Config, WindowConfig
from vggt_ros.core.device_frame import DeviceFrame
from vggt_ros.core.devices import PRECISIONS, is_lack_of_memory, resolve_device, resolve_precision, warn_if_slow
from vggt_ros.core.errors import ConfigError, OutOfMemoryError, PredictionError
from vggt_ros.core.foresight import Foresight
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.loops.retrieval import describe, thin_patches
from vggt_ros.core.planner import Plan, free_memory, grids, plan_for_budget, plan_windows, rehearse
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.rig import Rig, RigFit, all_views, split_cameras
from vggt_ros.core.transfer import beside, download, to_host, upload
from vggt_ros.core.window import Window

log = logging.getLogger(__name__)

HEADS = ('camera', 'depth')
ALL_FRAMES = 64  # as many as windows may hold
SMALL_PICTURE = 256  # pixels across; networks for no more are adjusted unless asked not to (bundle_adjustment)
LockedIntrinsics = dict[int, tuple[ImageTransform, np.ndarray]]  # by camera: K [3, 3] of the first window on its grid


class Predictor(Protocol):
    """What the pipeline needs of a network; one with `anticipate` is shown frames before their window is complete."""

    def predict(self, window: Window) -> Prediction:
        """Depth and cameras of a window; PredictionError where that fails."""

    def predict_apart(self, window: Window) -> Prediction:
        """The same for frames that are no part of the stream: on the network's grid already, with the K to use."""

    def reset(self) -> None:
        """Forget what was kept of earlier windows."""


def make_predictor(config: Config, network: StreamingVGGT | None = None) -> Predictor:
    """The predictor that config.model asks for, loaded and ready; ConfigError where it cannot be had.

    Args:
        config: all settings.
        network: loaded already, for whoever serves several streams with one.
    """
    predictor: Predictor = FakePredictor(config) if config.model.backend == 'fake' else VggtPredictor(config, network)
    if getattr(predictor, 'works_on_device', False):
        predictor = Foresight(predictor)
    return RigPredictor(predictor) if len(config.rig.cameras) > 1 else predictor


@dataclass(frozen=True, eq=False)
class Encoded:
    """What is kept of a frame while it is in a window, on the network's grid.

    Args:
        image: its pixels on the host; on a GPU they are there once the window's answers are.
        tokens: [P, C] its patches.
        seen: [h, w] bool, where it shows the scene; None: everywhere.
        descriptor, patches: what it looks like as a whole and part by part (retrieval); None where loop closure is off.
        on_device: [h, w, 3] uint8, its pixels on the network's device; None where they are made on the host.
    """

    image: ModelImage
    tokens: torch.Tensor
    seen: np.ndarray | None
    descriptor: np.ndarray | None = None
    patches: np.ndarray | None = None
    on_device: torch.Tensor | None = None


class VggtPredictor:
    """VGGT on a stream of windows: each frame is resized and encoded once, however many windows it is in.

    Depth is decoded for a window's new frames, and for as many shared ones as the alignment compares.

    Args:
        config: model, camera and alignment settings.
        network: to use instead of loading what config.model names.

    Attributes:
        locked: intrinsics of cameras that are not calibrated; whoever splits a stream hands them from part to part.
        works_on_device: whether pictures are resized on the network's device, and pixels and depth stay there for
            clouds to be made; else the host does both. On a GPU a picture's copy, resizing and encoding run beside the
            window that is computed, if there is one.

    Raises:
        ConfigError: the device or the weights cannot be had, or input_width does not fit the network.
    """

    def __init__(self, config: Config, network: StreamingVGGT | None = None) -> None:
        self.config = config
        self.network = network if network is not None else load_network(config)
        patch, width = self.network.config.patch_size, config.model.input_width
        if width % patch:
            fitting = max(patch, round(width / patch) * patch)
            raise ConfigError(f'input_width must be a multiple of {patch} for this network, got {width}; try {fitting}')
        self._device: torch.device = getattr(self.network, 'device', torch.device('cpu'))
        self.works_on_device = self._device.type == 'cuda'
        self._leaving = torch.cuda.Stream(self._device, priority=-1) if self.works_on_device else None  # of answers
        self._longest = width or self.network.config.image_size  # side of a picture on the network's grid
        self._planned = config.window
        self._adjusts = _adjusts(config, self.network.config.image_size)
        self._compared = ALL_FRAMES if self._adjusts else config.alignment.max_frames  # shared frames with depth
        self._may_compile = config.model.compile and self._streaming is not None
        self._may_capture = config.model.cuda_graph and self._streaming is not None
        self._awaits_first = True
        self.reset()

    def reset(self) -> None:
        """Forget encoded frames and the locked intrinsics."""
        self._encoded: dict[tuple[int, int], Encoded] = {}  # by Frame.key, of the last window
        self.locked: LockedIntrinsics = {}
        self._is_apart = False

    def anticipate(self, frame: Frame) -> float:
        """Resize and encode a frame that a window will soon hold: predict then finds the work done.

        What goes wrong here goes wrong in predict again, which tells it.

        Returns:
            Seconds spent on resizing.
        """
        prepare_s = 0.0
        with contextlib.suppress(VGGTError, RuntimeError):
            prepare_s = self._look_at([frame, *frame.views])
        return prepare_s

    def predict(self, window: Window) -> Prediction:
        """Depth and cameras of a window.

        Raises:
            OutOfMemoryError: the window is too large for the memory that is free; smaller ones may fit.
            PredictionError: the network failed otherwise, or cannot take such an image.
        """
        try:
            return self._predict(window)
        except (VGGTError, RuntimeError) as error:
            failed = f'the network failed on a window of {len(window.frames)} frames: {error}'
            if not is_lack_of_memory(error):
                raise PredictionError(failed) from error
            self._encoded = {}
            self._free_memory()
            raise OutOfMemoryError(f'{failed}; lower window_size or input_width') from error

    def predict_apart(self, window: Window) -> Prediction:
        """Depth and cameras of frames on the network's grid; the stream goes on as if nothing had been asked."""
        kept, self._encoded, self._is_apart = self._encoded, {}, True
        try:
            return self.predict(window)
        finally:
            self._encoded, self._is_apart = kept, False

    def _predict(self, window: Window) -> Prediction:
        frames, rows = all_views(window)
        keys = [frame.key for frame in frames]
        self._encoded = {key: self._encoded[key] for key in keys if key in self._encoded}
        prepare_s = self._look_at(frames)
        images = [self._encoded[key].image for key in keys]
        if self._awaits_first and len(window.frames) == self._planned.size and not self._is_apart:
            self._awaits_first = False  # a pause in a stream that runs would be one too many
            self._compile(self._planned, images[0].transform.model_size)
            self._capture(self._planned, images[0].transform.model_size)
        compared = window.shared if window.is_bridge else self._compared
        decoded = [i for i, row in enumerate(rows) if row >= window.shared - compared]
        transform = images[0].transform
        tokens = torch.stack([self._encoded[key].tokens for key in keys])
        output = self.network.predict(tokens, transform.model_size, frames=decoded)
        self._describe_late(keys)
        answers, (encoding, seen_depth, seen_confidence) = self._fetch(output)
        cam_from_window, K_network = _cameras(encoding, transform.model_size)
        depth = np.full((len(images), *transform.model_size), np.nan, np.float32)
        confidence = depth.copy()
        depth[decoded], confidence[decoded] = seen_depth, seen_confidence
        _forget_unseen(depth, confidence, [self._encoded[key].seen for key in keys])
        is_focal_known = self._is_focal_known(frames, transform)
        K = self._intrinsics(frames, K_network, transform)
        has_K = np.isfinite(K).all(axis=(1, 2))
        depth[~has_K] = np.nan
        on_device = self._kept(keys, decoded, depth, answers) if has_K.all() else {}
        image, start = stack_pixels(images).numpy(), time.perf_counter()
        said = Geometry(cam_from_window, K, depth)
        geometry = self._adjust(frames, image, said, is_focal_known) if has_K.all() else said
        adjust_s = time.perf_counter() - start
        prediction = Prediction(
            stamps_ns=tuple(frame.stamp_ns for frame in frames),
            frame_ids=tuple(frame.frame_id for frame in frames),
            image=image,
            cam_from_window=geometry.cam_from_window,
            K=np.where(has_K[:, None, None], geometry.K, _guess_intrinsics(transform.model_size)),
            K_network=K_network,
            depth=geometry.depth,
            confidence=confidence,
            transform=transform,
            prepare_s=prepare_s,
            adjust_s=adjust_s,
            on_device=on_device if geometry is said else {},
        )
        prediction = split_cameras(prediction, frames, rows)
        encoded = [self._encoded[frame.key] for frame in window.frames]
        descriptors = [one.descriptor for one in encoded if one.descriptor is not None]
        patches = [one.patches for one in encoded if one.patches is not None]
        if not descriptors:
            return prediction
        return dataclasses.replace(prediction, descriptors=np.stack(descriptors), patches=np.stack(patches))

    def _fetch(self, output: VGGTOutput) -> tuple[Sequence[torch.Tensor], list[np.ndarray]]:
        """The answers on the device, and on the host in one copy.

        On a stream of their own: on that which computes, another robot's window may stand behind this one already.
        """
        enabled = self.works_on_device and output.ready is not None
        with beside(self._device, enabled=enabled, stream=self._leaving, after=output.ready) as hand_over:
            answers = _answers(output)
            arrays = to_host(answers)
            for answer in answers:
                hand_over(answer)
        return answers, arrays

    def _kept(
        self, keys: list[tuple[int, int]], decoded: list[int], host: np.ndarray, answers: Sequence[torch.Tensor]
    ) -> dict[int, DeviceFrame]:
        """The decoded frames on the device, by their row; none where a mask has changed what the host holds."""
        _, depth, confidence = answers
        encoded = [self._encoded[keys[i]] for i in decoded]
        return {
            i: DeviceFrame(one_depth.float(), one_confidence.float(), one.on_device, host)
            for i, one, one_depth, one_confidence in zip(decoded, encoded, depth, confidence, strict=True)
            if one.on_device is not None and one.seen is None
        }

    def plan(self, window: WindowConfig) -> Plan | None:
        """What fits into the memory that is free now, and see pictures that way; None where the network cannot say."""
        network = self._streaming
        if network is None:
            return None
        chunks = (8, 4, 2, 1) if network.device.type == 'cuda' else (2, 1)  # a processor gains nothing by more
        sizes = grids(self.config.model, network.config)
        plan = plan_windows(window, network.config, sizes, network.dtype, free_memory(network.device), chunks)
        network.chunk = plan.chunk
        self._follow(plan)
        return plan

    def warm_up(self, window: WindowConfig, budget_s: float = 0.0) -> Plan | None:
        """Compile, capture and measure, each where asked for: 4:3 pictures, on the thread that will predict them.

        Pictures of another shape are made ready for with their first window.

        Args:
            window: sizes of the windows.
            budget_s: seconds that one may take; 0 is no limit, and nothing is measured.

        Returns:
            What keeps the budget, from now on; None without a budget.
        """
        network = self.network  # of a shared one its member, so that the thread that runs it warms up
        if self._streaming is None or not (self._may_compile or self._may_capture or budget_s):
            return None
        compared = self._compared
        sizes = [one for one in grids(self.config.model, network.config) if one[1] <= self._longest]
        if not budget_s:
            self._compile(window, sizes[0])
            self._capture(window, sizes[0])
            rehearse(network, window, sizes[0], compared)
            return None

        def measure(window: WindowConfig, size: tuple[int, int]) -> float:
            self._compile(window, size)
            return rehearse(network, window, size, compared)[1]

        reason = f'window_size {window.size} and window_stride {window.stride}'
        asked = Plan(window, sizes[0], network.chunk, reason)
        plan = plan_for_budget(asked, network.config, sizes, budget_s, compared, measure)
        self._capture(plan.window, plan.size)  # of one size alone: each holds memory
        self._follow(plan)
        return plan

    @property
    def _streaming(self) -> StreamingVGGT | None:
        """The network itself, also where it is shared; None for a stand-in."""
        network = getattr(self.network, 'shared', self.network)
        return network if isinstance(network, StreamingVGGT) else None

    def _follow(self, plan: Plan) -> None:
        """See pictures of any shape no longer on the grid than 4:3 ones of the plan."""
        self._planned = plan.window
        if not self.config.model.input_width:
            self._longest = plan.size[1]

    def _compile(self, window: WindowConfig, size: tuple[int, int]) -> None:
        """The network for such windows, where that was asked for; what fails is told once, and no window is lost."""
        if not self._may_compile:
            return
        cameras = max(1, len(self.config.rig.cameras))
        start = time.perf_counter()
        try:
            self.network.compile(window.size * cameras, size, images=cameras)
        except CompileError as error:
            self._may_compile = False
            log.warning('%s; it runs on as it is, with compile:=false without this message', error)
            return
        seconds = time.perf_counter() - start
        if seconds > 1.0:  # else it was compiled already
            log.info('compiled for windows of %d frames at %dx%d in %.0f s', window.size, size[1], size[0], seconds)

    def _capture(self, window: WindowConfig, size: tuple[int, int]) -> None:
        """The same for CUDA graphs: of windows as they are once the stream runs."""
        if not self._may_capture:
            return
        cameras = max(1, len(self.config.rig.cameras))
        new = min(window.size, window.stride + self._compared)
        try:
            decoded = range((window.size - new) * cameras, window.size * cameras)
            self.network.capture(window.size * cameras, size, decoded)
        except CompileError as error:
            self._may_capture = False
            log.warning('%s; windows run without, with cuda_graph:=false without this message', error)

    def _look_at(self, frames: Sequence[Frame]) -> float:
        """Resize and encode what is not encoded yet; the seconds of resizing, on a GPU those of asking for it."""
        start = time.perf_counter()
        with beside(self._device, enabled=self.works_on_device) as hand_over:
            resized, seen = self._prepare(frames)
            prepare_s = time.perf_counter() - start
            self._encode(resized, seen, hand_over)
        return prepare_s

    def _prepare(
        self, frames: Sequence[Frame]
    ) -> tuple[dict[tuple[int, int], ModelImage], dict[tuple[int, int], np.ndarray | None]]:
        """Frames that are not encoded yet, on the network's grid, and where each shows the scene."""
        waiting = [frame for frame in frames if frame.key not in self._encoded]
        resized = {frame.key: self._resize(frame) for frame in waiting}
        return resized, {f.key: seen_on_grid(f, resized[f.key].transform) for f in waiting}

    def _resize(self, frame: Frame) -> ModelImage:
        height, width = frame.size
        network = self.network.config
        image = upload(frame.image, self._device) if self.works_on_device else frame.image
        if self._is_apart:
            return resize_keeping_aspect(image, width, network.patch_size)
        fitting = fitting_width(height, width, self._longest, network.patch_size)
        return resize_keeping_aspect(image, self.config.model.input_width or fitting, network.patch_size)

    def _encode(
        self,
        resized: dict[tuple[int, int], ModelImage],
        seen: dict[tuple[int, int], np.ndarray | None],
        hand_over: Callable[[torch.Tensor], None],
    ) -> None:
        if not resized:
            return
        pixels = stack_pixels(list(resized.values()))
        tokens = self.network.encode(pixels)
        hand_over(tokens)
        on_host: Sequence[torch.Tensor] = pixels.unbind()
        on_device: Sequence[torch.Tensor | None] = [None] * len(resized)
        if self.works_on_device:
            hand_over(pixels)
            on_host, on_device = download(pixels).unbind(), on_host
        for (key, image), row, here, there in zip(resized.items(), tokens, on_host, on_device, strict=True):
            own = ModelImage(here, image.transform)
            described = (None, None) if self.works_on_device else self._describe(own, row)
            self._encoded[key] = Encoded(own, row, seen[key], *described, there)

    def _describe_late(self, keys: Sequence[tuple[int, int]]) -> None:
        """While the device computes the window: before it, the host would have to wait for every picture's tokens."""
        if not (self.works_on_device and self.config.loop.closure):
            return
        with beside(self._device):
            for key in keys:
                one = self._encoded[key]
                if one.descriptor is None:
                    descriptor, patches = self._describe(one.image, one.tokens)
                    self._encoded[key] = dataclasses.replace(one, descriptor=descriptor, patches=patches)

    def _describe(self, image: ModelImage, tokens: torch.Tensor) -> tuple[np.ndarray | None, np.ndarray | None]:
        if not self.config.loop.closure:
            return None, None
        height, width = image.transform.model_size
        patch = self.network.config.patch_size
        grid, row = (height // patch, width // patch), to_host([tokens[None]])[0]
        return describe(row, grid)[0], thin_patches(row, grid)[0]

    def _free_memory(self) -> None:
        """Leave as much as possible to the next try."""
        self.network.chunk = 1
        self._may_capture = False
        if self._streaming is not None:
            self._streaming.release()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _intrinsics(self, frames: list[Frame], K_network: np.ndarray, transform: ImageTransform) -> np.ndarray:
        """[S, 3, 3] to unproject with, after intrinsics_mode; NaN where there is none."""
        mode = self.config.camera.intrinsics_mode
        if mode == 'per_window':
            return K_network
        if self._is_apart:
            return np.stack([transform.K_to_model(frame.K) for frame in frames if frame.K is not None])
        cameras = np.array([frame.camera for frame in frames])
        locked = {c: self._locked_intrinsics(c, K_network[cameras == c], transform) for c in set(cameras.tolist())}
        calibrated = [frame.K if mode == 'camera_info' else None for frame in frames]
        return np.stack(
            [
                locked[frame.camera] if K is None else transform.K_to_model(K)
                for frame, K in zip(frames, calibrated, strict=True)
            ]
        )

    def _is_focal_known(self, frames: list[Frame], transform: ImageTransform) -> bool:
        """Whether some camera of a window is calibrated, or locked by a window before."""
        if self._is_apart:
            return True
        mode = self.config.camera.intrinsics_mode
        if mode == 'per_window':
            return False
        is_calibrated = mode == 'camera_info' and any(frame.K is not None for frame in frames)
        cameras = {frame.camera for frame in frames}
        return is_calibrated or any(c in self.locked and self.locked[c][0] == transform for c in cameras)

    def _adjust(self, frames: list[Frame], image: np.ndarray, said: Geometry, is_focal_known: bool) -> Geometry:
        """What the network said, mended where windows are adjusted and something that agrees better is found."""
        adjusted = adjust(image, said, is_focal_known=is_focal_known) if self._adjusts else None
        if adjusted is None:
            return said
        log.debug(
            'bundle adjustment: %d matches, off by %.2f pixels in the median, %.2f before',
            adjusted.matches, adjusted.residual_px, adjusted.residual_before_px,
        )  # fmt: skip
        self._lock_again(frames, adjusted.geometry.K, is_focal_known)
        return adjusted.geometry

    def _lock_again(self, frames: list[Frame], K: np.ndarray, is_focal_known: bool) -> None:
        """Keep what the first window's adjustment made of its intrinsics."""
        if not is_focal_known and self.config.camera.intrinsics_mode != 'per_window':
            self.locked = {
                camera: (transform, K[[frame.camera == camera for frame in frames]][0])
                for camera, (transform, _) in self.locked.items()
            }

    def _locked_intrinsics(self, camera: int, K_network: np.ndarray, transform: ImageTransform) -> np.ndarray:
        """[3, 3] the median K of the first window of this camera at this size that has one."""
        if camera not in self.locked or self.locked[camera][0] != transform:
            given = K_network[np.isfinite(K_network).all(axis=(1, 2))]
            if len(given) == 0:
                return np.full((3, 3), np.nan)
            self.locked[camera] = transform, np.median(given, axis=0)
        return self.locked[camera][1]


def _adjusts(config: Config, image_size: int) -> bool:
    """Whether windows of a network for pictures of that width are adjusted."""
    return {'on': True, 'off': False}.get(config.bundle.bundle_adjustment, image_size <= SMALL_PICTURE)


def load_network(config: Config, *, quiet: bool = False) -> StreamingVGGT:
    """The network that config.model names, on its device; ConfigError where it cannot be had."""
    device = resolve_device(config.model)
    dtype = resolve_precision(config.model, device)
    try:
        model = load_vggt(
            config.model.source, device=device, heads=HEADS, local_files_only=config.model.local_files_only
        )
        network = StreamingVGGT(
            model,
            device=device,
            dtype=dtype,
            heads=HEADS,
            approximation=Approximation(config.model.approximate_camera_rounds, config.model.approximate_key_stride),
            head_dtype=PRECISIONS[config.model.head_precision],
        )
    except VGGTError as error:
        raise ConfigError(str(error)) from error
    if not quiet:
        warn_if_slow(config.model, device)
    return network


def fitting_width(height: int, width: int, image_size: int, patch_size: int) -> int:
    """Width for the network at which the longer side of an upright image is not above what it was made for."""
    longest = image_size * min(1.0, width / height)
    return max(patch_size, int(longest / patch_size) * patch_size)


def seen_on_grid(frame: Frame, transform: ImageTransform) -> np.ndarray | None:
    """[h, w] bool: pixels of the network's grid under which all of the frame's mask is True; None without a mask."""
    if frame.mask is None:
        return None
    hidden = cv2.integral((~frame.mask).astype(np.uint8))
    left, right = _edges(transform, 0)
    top, bottom = _edges(transform, 1)
    below, above = hidden[bottom], hidden[top]
    return (below[:, right] - below[:, left] - above[:, right] + above[:, left]) == 0


def _edges(transform: ImageTransform, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """First and one past the last source pixel under each column (axis 0) or row (axis 1) of the network's grid."""
    edges = np.zeros((transform.model_size[1 - axis] + 1, 2))
    edges[:, axis] = np.arange(len(edges)) - 0.5
    edges = transform.pixels_to_source(edges)[:, axis] + 0.5
    last = transform.source_size[1 - axis]
    first = np.floor(edges[:-1] + 1e-6).clip(0, last - 1)  # rounding must not reach for the neighbour
    return first.astype(int), np.maximum(np.ceil(edges[1:] - 1e-6).clip(1, last), first + 1).astype(int)


def _forget_unseen(depth: np.ndarray, confidence: np.ndarray, seen: list[np.ndarray | None]) -> None:
    """Of [S, h, w] depth and confidence nothing is known where a frame does not show the scene."""
    for i, mask in enumerate(seen):
        if mask is not None:
            depth[i][~mask] = confidence[i][~mask] = np.nan


def _cameras(pose_encoding: np.ndarray, image_size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """[S, 9] -> cam_from_window [S, 4, 4] with camera 0 at the identity, and K [S, 3, 3]; NaN where there is none.

    The network puts camera 0 only about at its origin. What moves is the origin: the cameras turn and shift together,
    each in front of its own depth.
    """
    camera, K = decode_pose_encoding(torch.from_numpy(pose_encoding.astype(np.float64)), image_size)
    cam_from_world = np.tile(np.eye(4), (len(pose_encoding), 1, 1))
    cam_from_world[:, :3] = camera.numpy()
    cam_from_world[~np.isfinite(cam_from_world).all(axis=(1, 2))] = np.nan
    cam_from_window = cam_from_world @ invert_rigid(cam_from_world[0])  # all NaN where camera 0 is
    if np.isfinite(cam_from_window[0]).all():
        cam_from_window[0] = np.eye(4)  # exactly, not but for rounding
    is_K = np.isfinite(K.numpy()).all(axis=(1, 2)) & (K.numpy()[:, 0, 0] > 0) & (K.numpy()[:, 1, 1] > 0)
    return cam_from_window, np.where(is_K[:, None, None], K.numpy(), np.nan)


def _guess_intrinsics(image_size: tuple[int, int]) -> np.ndarray:
    """[3, 3] to publish beside depth that is all unknown: 53 degrees across the longer side, as common lenses see."""
    height, width = image_size
    focal = float(max(height, width))
    return np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])


def _answers(output: VGGTOutput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pose encoding [S, 9], depth and confidence of the decoded frames [D, h, w]; NaN where depth means nothing."""
    encoding, depth, confidence = output.pose_encoding, output.depth, output.depth_confidence
    if encoding is None or depth is None or confidence is None:
        raise PredictionError('the network has no camera or depth head; choose a model with both')
    is_known = (depth > 0) & (depth + confidence < torch.inf)  # NaN compares false; a confidence is never below 0
    return encoding[0], torch.where(is_known, depth, torch.nan)[0], confidence[0]


class RigPredictor:
    """Holds what a network says of a rig's cameras to where they are mounted.

    Args:
        predictor: the network.
        rig: the mounts; None while they are not known: then each camera stands where the network sees it.
        fit: how well the last window fitted them; None before.
    """

    def __init__(self, predictor: Predictor, rig: Rig | None = None) -> None:
        self.predictor, self.rig = predictor, rig
        self.fit: RigFit | None = None

    def predict(self, window: Window) -> Prediction:
        """Depth and cameras of a window, the cameras of a moment as they are mounted."""
        prediction = self.predictor.predict(window)
        if self.rig is None or not prediction.views:
            return prediction
        prediction, self.fit = self.rig.hold(prediction)
        return prediction

    def predict_apart(self, window: Window) -> Prediction:
        """Frames of the reference alone: nothing to hold."""
        return self.predictor.predict_apart(window)

    def anticipate(self, frame: Frame) -> float:
        """Let the network look at a frame before its window is complete."""
        anticipate = getattr(self.predictor, 'anticipate', None)
        return anticipate(frame) if anticipate is not None else 0.0

    def reset(self) -> None:
        """Forget what was kept of earlier windows; the mounts stay."""
        self.predictor.reset()

    def __getattr__(self, name: str) -> object:
        return getattr(self.predictor, name)  # its network and device, for whoever reports them


class FakePredictor:
    """No network: a camera that glides to the right along a flat wall, whatever the images show.

    For tests of the plumbing. The wall is DISTANCE ahead, the camera moves SPEED a second by the stamps. The cameras of
    a rig stand in a row to the right, BASELINE apart.
    """

    DISTANCE = 2.0
    SPEED = 0.1
    BASELINE = 0.1
    WIDTH = 112  # pixels of the grid unless input_width says otherwise; enough for plumbing

    def __init__(self, config: Config) -> None:
        self.config = config
        self.reset()

    def reset(self) -> None:
        """Forget the images of the last window."""
        self._resized: dict[tuple[int, int], ModelImage] = {}  # by Frame.key

    def predict_apart(self, window: Window) -> Prediction:
        """Never asked for: what is no network knows no places."""
        return self.predict(window)

    def predict(self, window: Window) -> Prediction:
        """The wall as seen from each frame of the window."""
        start = time.perf_counter()
        frames, rows = all_views(window)
        use_calibration = self.config.camera.intrinsics_mode == 'camera_info'
        width = min(frames[0].size[1], self.config.model.input_width or self.WIDTH)
        self._resized = {
            frame.key: self._resized.get(frame.key) or resize_keeping_aspect(frame.image, width, patch_size=1)
            for frame in frames
        }
        images = list(self._resized.values())
        transform = images[0].transform
        h, w = transform.model_size
        K_network = np.array([[w, 0.0, w / 2], [0.0, w, h / 2], [0.0, 0.0, 1.0]])
        K = [transform.K_to_model(f.K) if f.K is not None and use_calibration else K_network for f in frames]
        cam_from_window = np.tile(np.eye(4), (len(frames), 1, 1))
        depth = np.full((len(frames), h, w), self.DISTANCE, dtype=np.float32)
        confidence = np.ones((len(frames), h, w), dtype=np.float32)
        _forget_unseen(depth, confidence, [seen_on_grid(frame, transform) for frame in frames])
        seconds = [(window.frames[row].stamp_ns - frames[0].stamp_ns) / 1e9 for row in rows]
        cam_from_window[:, 0, 3] = [
            -self.SPEED * time_s - self.BASELINE * frame.camera for time_s, frame in zip(seconds, frames, strict=True)
        ]
        prediction = Prediction(
            stamps_ns=tuple(frame.stamp_ns for frame in frames),
            frame_ids=tuple(frame.frame_id for frame in frames),
            image=stack_pixels(images).numpy(),
            cam_from_window=cam_from_window,
            K=np.stack(K),
            K_network=np.tile(K_network, (len(frames), 1, 1)),
            depth=depth,
            confidence=confidence,
            transform=transform,
            prepare_s=time.perf_counter() - start,
        )
        return split_cameras(prediction, frames, rows)

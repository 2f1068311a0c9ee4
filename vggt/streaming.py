"""The network for a stream of overlapping windows: nothing is computed twice that can be kept, and no more than asked.

Source: docs/network_facts.md sec. 8 (precision), 13 (cost) and 14 (what overlapping windows can share).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from vggt.approximation import EXACT, Approximation
from vggt.config import VGGTConfig
from vggt.errors import ConfigError, InputError
from vggt.model import VGGT
from vggt.output import VGGTOutput
from vggt.prepared_windows import PreparedWindows
from vggt.preprocessing import scale_pixels
from vggt.validation import check_images, check_patch_tokens, check_pixels

LOW_PRECISION = (torch.bfloat16, torch.float16)


class StreamingVGGT:
    """Inference form of a VGGT: encode each frame once, predict each window from the encoded frames.

    In float32 the outputs are those of the plain form. In bfloat16 or float16 the large matrices of the aggregator,
    nearly all of the weights, are stored and multiplied in that format; sums over residual branches, norms, rotary
    positions and the heads stay in float32, as in the reference under autocast.
    """

    def __init__(
        self,
        model: VGGT,
        device: str | torch.device = 'cpu',
        dtype: torch.dtype = torch.float32,
        heads: Sequence[str] = ('camera', 'depth'),
        chunk: int = 2,
        approximation: Approximation = EXACT,
        head_dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take the model over: its weights are moved and rounded in place.

        Args:
            model: any VGGT; it is put into eval mode.
            device: where to compute.
            dtype: float32, bfloat16 or float16.
            heads: which of 'camera', 'depth' and 'point' to run; the layers that no head reads are not kept.
            chunk: frames that the dense heads decode at a time; bounds memory, changes no value.
            approximation: what to leave out; by default nothing.
            head_dtype: of the dense heads' weights and products; the camera head stays in float32.

        Raises:
            ConfigError: the model lacks a head, or the dtype is another one.
        """
        missing = [name for name in heads if name not in model.config.heads]
        if missing or 'track' in heads or not heads:
            raise ConfigError(
                f'heads must be some of {[h for h in model.config.heads if h != "track"]}, got {list(heads)}; '
                'tracking needs the plain VGGT'
            )
        if dtype is not torch.float32 and dtype not in LOW_PRECISION:
            raise ConfigError(f'dtype must be float32, bfloat16 or float16, got {dtype}')
        self.device = torch.device(device)
        self.dtype = dtype
        self._prepared = PreparedWindows()
        self.heads = tuple(heads)
        self.chunk = chunk
        self.model = model.eval().to(self.device)
        if dtype in LOW_PRECISION:
            _round_matrices(self.model.aggregator, dtype)
        for head in (self.model.depth_head, self.model.point_head):
            if head is not None:
                head.to(head_dtype)
        approximation.apply(self.model)
        if self.device.type == 'cuda':
            torch.cuda.current_stream(self.device).synchronize()  # the weights are there, whatever stream reads them

    @property
    def config(self) -> VGGTConfig:
        """Of the model, with all its heads."""
        return self.model.config

    @property
    def is_compiled(self) -> bool:
        """Whether some sizes are compiled or captured: single windows of those are faster than several at once."""
        return bool(self._prepared)

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Tensor:
        """Images to patch tokens, which hold for any later window at the same height and width.

        Args:
            images: [S, 3, H, W], RGB in [0, 1], or [S, H, W, 3] uint8, which are scaled on the device; H and W
                multiples of config.patch_size. On a GPU the call returns before 8-bit images are encoded: they wait
                for nothing.

        Returns:
            [S, P, C] on the device. Each row depends on its own image only.

        Raises:
            InputError: images of another form.
        """
        scaled = self._scaled(images)
        with self._precision(), self._prepared.form(scaled):
            tokens: Tensor = self.model.aggregator.encode(scaled)
        return tokens

    @torch.inference_mode()
    def predict(
        self, patch_tokens: Tensor, image_size: tuple[int, int], frames: Sequence[int] | None = None
    ) -> VGGTOutput:
        """Estimate a window from its frames' patch tokens; frame 0 sets the world.

        Args:
            patch_tokens: [S, P, C] from encode, in the window's order.
            image_size: (H, W) of the images in pixels.
            frames: which frames the dense heads decode, in this order; None decodes all, an empty list none.

        Returns:
            Estimates with B = 1: cameras of all S frames; depth and points of the listed frames only.

        Raises:
            InputError: the tokens are not those of such images, or a frame is not in the window.
        """
        return self.predict_windows(patch_tokens[None], image_size, frames)

    @torch.inference_mode()
    def predict_windows(
        self, patch_tokens: Tensor, image_size: tuple[int, int], frames: Sequence[int] | None = None
    ) -> VGGTOutput:
        """The same for B windows at once, which do not see each other.

        Args:
            patch_tokens: [B, S, P, C].
            image_size, frames: of every window.

        Returns:
            Estimates with that B.

        Raises:
            InputError: as predict.
        """
        check_patch_tokens(patch_tokens, self._token_shape(image_size), image_size)
        count = patch_tokens.shape[1]
        chosen = list(range(count)) if frames is None else list(frames)
        if any(not 0 <= frame < count for frame in chosen):
            raise InputError(f'frames must lie in 0..{count - 1}, got {chosen}')
        graph = self._prepared.graphs.get(self._kind(patch_tokens, image_size, chosen))
        output = graph(patch_tokens) if graph else self._predict(patch_tokens, image_size, chosen)
        if self.device.type != 'cuda':
            return output
        ready = torch.cuda.Event(blocking=True)  # whoever waits on the host sleeps
        ready.record(torch.cuda.current_stream(self.device))
        return replace(output, ready=ready)

    def _predict(self, patch_tokens: Tensor, image_size: tuple[int, int], chosen: list[int]) -> VGGTOutput:
        heads = self.heads if chosen else tuple(name for name in self.heads if name == 'camera')
        with self._precision(), self._prepared.form(patch_tokens):
            keep = self.model.layers_read(heads)
            layers = self.model.aggregator.attend(patch_tokens.to(self.device), image_size, keep)
        picked = None if chosen == list(range(patch_tokens.shape[1])) else chosen  # all frames need no copy
        return self.model.read_heads(layers, image_size, heads=heads, frames=picked, chunk=self.chunk)

    @torch.inference_mode()
    def compile(
        self,
        frames: int,
        image_size: tuple[int, int],
        images: int = 1,
        backend: str | Callable[..., object] = 'inductor',
    ) -> None:
        """Compile the blocks of backbone and aggregator for windows of one size; all others run on as they are.

        It takes some 15 s on a GPU, and as good as nothing where that size is compiled already. Other threads may use
        the network meanwhile. Outputs change by rounding.

        Args:
            frames: of a window.
            image_size: (H, W) of the images in pixels.
            images: that are encoded at a time.
            backend: of torch.compile; that of the first call is that of all.

        Raises:
            CompileError: the compiler is missing or failed; the network runs on as it is.
        """

        def run() -> None:
            tokens = self.encode(torch.zeros(images, *image_size, 3, dtype=torch.uint8))[:1]
            self.predict(tokens.expand(frames, -1, -1), image_size, frames=[])

        shapes = ((images, 3, *image_size), (1, frames, *self._token_shape(image_size)))
        self._prepared.compile(shapes, self.model.aggregator.blocks, run, backend)

    @torch.inference_mode()
    def capture(self, frames: int, image_size: tuple[int, int], decoded: Sequence[int]) -> None:
        """Make a CUDA graph of windows of one kind, compiled where they are that now; all others run on as they are.

        It holds the memory of such a window, some 1 GB with the 1B architecture, and costs a copy of what comes out.

        Args:
            frames: of a window.
            image_size: (H, W) of the images in pixels.
            decoded: which of its frames the dense heads decode.

        Raises:
            CompileError: no GPU, no room, or no graph that gives the same; the network runs on as it is.
        """
        chosen = list(decoded)

        def examples() -> tuple[Tensor, Tensor]:
            noise = torch.randint(0, 256, (2, 1, *image_size, 3), dtype=torch.uint8)
            example, other = (self.encode(one).expand(frames, -1, -1)[None] for one in noise)
            return example, other

        self._prepared.capture(
            lambda tokens: self._predict(tokens, image_size, chosen),
            lambda tokens: self._kind(tokens, image_size, chosen),
            examples,
        )

    def release(self) -> None:
        """Hand back the memory of all CUDA graphs: windows run without."""
        self._prepared.release()

    def uncompile(self) -> None:
        """Run all sizes as they are."""
        self._prepared.forget()

    def _kind(self, patch_tokens: Tensor, image_size: tuple[int, int], decoded: Sequence[int]) -> tuple[object, ...]:
        """Windows of the same take the same kernels."""
        return (*patch_tokens.shape, patch_tokens.dtype, *image_size, *decoded, self.chunk)

    def _scaled(self, images: Tensor) -> Tensor:
        """[S, 3, H, W] float32 on the device."""
        if isinstance(images, Tensor) and images.dtype is torch.uint8:
            check_pixels(images, self.config.patch_size)
            if self.device.type == 'cuda' and images.device.type == 'cpu':
                images = images.pin_memory()  # only from there is a copy beside other work
            return scale_pixels(images.to(self.device, non_blocking=True))
        images = check_images(images, self.config.patch_size)
        if images.shape[0] != 1:
            raise InputError(f'images must be those of one window, [S, 3, H, W], got {list(images.shape)}')
        return images[0].to(self.device)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype in LOW_PRECISION)

    def _token_shape(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """(P, C) of a frame."""
        patch = self.config.patch_size
        return image_size[0] // patch * (image_size[1] // patch), self.config.embed_dim


def _round_matrices(module: nn.Module, dtype: torch.dtype) -> None:
    for part in module.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            part.to(dtype)

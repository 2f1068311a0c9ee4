"""Supervision of what compares images: where each patch is seen in the other frames, and attention that goes there.

Depth and camera losses alone teach a small network to judge single pictures long before it compares two. So one head
of some global attentions is told where to look (the true place of the patch in the reference frame), and a linear
probe, thrown away after training, must read from the tokens where the patch lies in the reference frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.losses import Targets
from vggt import VGGT
from vggt.geometry import rotation_from_quaternion, unproject_depth
from vggt.layers.rope import grid_rotary_table, rotate

_OCCLUSION = 0.05  # a point is seen if the other frame's depth agrees within this share; edges differ by far more
_STILL_WEIGHT = 0.2  # of a patch that stays where it is; guessing "here" is right for half of them and teaches nothing
_UNSEEN_WEIGHT = 0.2  # of a patch that no other frame sees
_SHORT_SHIFT = 0.03  # of the scene's mean distance; a shorter shift moves nothing by half a patch
_NO_SHIFT = 0.01  # of the scene's mean distance; a shift below it has no direction and no length
_MAX_LOG_RATIO = 1.5  # of a depth to its truth; farther off it pulls no harder
_PROBE_REACH = 2.5  # picture half-widths; a patch farther outside of the reference frame is not asked for


@dataclass(frozen=True)
class Correspondence:
    """Where the middle of each patch lies in each frame.

    Attributes:
        place: [B, S, P, S, 2] column and row of the patch of frame 2nd axis in the grid of the frame of the 4th axis,
            in patches; integers are patch centres.
        in_front: [B, S, P, S] bool, the point lies in front of that camera.
        seen: [B, S, P, S] bool, it also lies inside of the picture and is not hidden.
        distance: [B, S, P, S] how far it moved in the picture, in patches, the larger of both axes.
    """

    place: Tensor
    in_front: Tensor
    seen: Tensor
    distance: Tensor

    @property
    def weight(self) -> Tensor:
        """[B, S, P, S] how much it counts: patches that move are what is to be learnt."""
        return (_STILL_WEIGHT + self.distance / 2).clamp(max=1)

    @property
    def moved(self) -> Tensor:
        """[B, S, P, S] bool, by two patches or more: not found by guessing "here"."""
        return self.distance >= 2


def correspond(targets: Targets, patch_size: int) -> Correspondence:
    """Follow the middle pixel of every patch into every frame, by the true depth and cameras."""
    half = patch_size // 2
    depth = targets.depth
    points = targets.world_points[:, :, half::patch_size, half::patch_size].flatten(2, 3)  # (B, S, P, 3)
    rotation, translation = targets.cam_from_world[..., :3], targets.cam_from_world[..., 3]
    in_camera = torch.einsum('btij,bspj->bspti', rotation, points) + translation[:, None, None]
    z = in_camera[..., 2]
    safe = z.clamp(min=1e-3)
    K = targets.K[:, None, None]  # (B, 1, 1, S, 3, 3)
    u = K[..., 0, 0] * in_camera[..., 0] / safe + K[..., 0, 2]
    v = K[..., 1, 1] * in_camera[..., 1] / safe + K[..., 1, 2]
    H, W = depth.shape[-2:]
    column, row = u.round().clamp(0, W - 1).long(), v.round().clamp(0, H - 1).long()
    batch = torch.arange(len(depth), device=depth.device).reshape(-1, 1, 1, 1)
    frame = torch.arange(depth.shape[1], device=depth.device)
    there = depth[batch, frame, row, column]
    in_front = z > 1e-2
    inside = (u > -0.5) & (u < W - 0.5) & (v > -0.5) & (v < H - 0.5)
    seen = in_front & inside & ((z - there).abs() < _OCCLUSION * z)
    centre = (patch_size - 1) / 2  # the token stands for pixels 0..patch_size - 1
    place = (torch.stack((u, v), dim=-1) - centre) / patch_size
    own = place.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (B, S, P, 2)
    distance = (place - own[:, :, :, None]).abs().amax(-1)
    return Correspondence(place, in_front, seen, distance)


@contextmanager
def watch_queries_and_keys(model: VGGT, layers: tuple[int, ...]) -> Iterator[dict[int, dict[str, Tensor]]]:
    """Collect the normed queries and keys [B, heads, S*N, head_dim] of global attentions during a forward."""
    watched: dict[int, dict[str, Tensor]] = {layer: {} for layer in layers}

    def keep(layer: int, name: str):
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            watched[layer][name] = output

        return hook

    handles = []
    for layer in layers:
        attention = model.aggregator.global_blocks[layer].attn
        handles += [getattr(attention, f'{name}_norm').register_forward_hook(keep(layer, name)) for name in 'qk']
    try:
        yield watched
    finally:
        for handle in handles:
            handle.remove()


def attention_loss(
    model: VGGT,
    queries_and_keys: dict[str, Tensor],
    correspondence: Correspondence,
    grid: tuple[int, int],
    asked: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Cross entropy of head 0 of a global attention against the true place.

    Patches of later frames must look at their place in frame 0, the reference; those of frame 0 at their place in the
    later frames; those that are seen nowhere at the special tokens.

    Args:
        model: for its token layout and rotary table.
        queries_and_keys: 'q' and 'k' of one layer, from watch_queries_and_keys.
        correspondence: of this batch.
        grid: rows and columns of patches.
        asked: [A] indices of the patches of each frame whose attention is judged, None for all. In windows of 8 a
            third of them saves a tenth of a training step.

    Returns:
        The loss, and the share of seen patches that moved and whose strongest link is within a patch of the truth.
    """
    rows, columns = grid
    config = model.config
    special = config.num_special_tokens
    frames = correspondence.seen.shape[1]
    q, k = queries_and_keys['q'][:, 0].float(), queries_and_keys['k'][:, 0].float()
    table = grid_rotary_table(rows, columns, special, q.shape[-1], config.rope_frequency, q.device)
    q, k = (rotate(x.unflatten(1, (frames, -1)), table) for x in (q, k))  # (B, S, N, head_dim)
    asked = torch.arange(rows * columns, device=q.device) if asked is None else asked.to(q.device)
    q = q[:, :, special + asked]
    place, seen, weight, moved = _of_patches(correspondence, asked)
    logits = torch.einsum('bspc,btnc->bsptn', q, k) * q.shape[-1] ** -0.5
    log_p = logits.flatten(-2).log_softmax(dim=-1).view_as(logits)
    wanted = seen.clone()
    wanted[:, 1:, :, 1:] = False  # later frames look at the reference only
    wanted[:, 0, :, 0] = False  # and the reference never at itself
    found, close = _at_true_place(log_p[..., special:], place, wanted, grid)
    number = wanted.sum(-1)
    weight = torch.where(number > 0, (weight * wanted).sum(-1) / number.clamp(min=1), _UNSEEN_WEIGHT)
    found = torch.where(wanted, found, 0).sum(-1) / number.clamp(min=1)
    lost = log_p[..., :special].flatten(-2).logsumexp(-1)
    loss = -(torch.where(number > 0, found, lost) * weight).sum() / weight.sum()
    return loss, _share(close, wanted & moved)


class PatchMatcher(nn.Module):
    """Contrastive loss on patch tokens that have seen their own frame only. Training only.

    It is what teaches a patch to be recognised: supervising the attention alone, 9,000 pairs of frames taught little
    more than that most patches hardly move (15 % of those that moved by two patches or more were found; with this
    loss 64 % after 6,000 pairs).
    """

    def __init__(self, dim: int, channels: int = 128) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.project = nn.Linear(dim, channels)
        self.log_scale = nn.Parameter(torch.tensor(2.3))  # cosines times 10; learnt

    def forward(
        self, tokens: Tensor, correspondence: Correspondence, grid: tuple[int, int], asked: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy of finding each patch of a frame among those of every other frame that sees it.

        Args:
            tokens: [B, S, P, C].
            correspondence: of this batch.
            grid: rows and columns of patches.
            asked: [A] indices of the patches of each frame that are looked for, None for all.

        Returns:
            The loss, and the share of seen patches that moved and were found within a patch.
        """
        asked = torch.arange(tokens.shape[2]) if asked is None else asked
        asked = asked.to(tokens.device)
        features = F.normalize(self.project(self.norm(tokens)).float(), dim=-1)
        logits = self.log_scale.exp() * torch.einsum('bspc,btqc->bsptq', features[:, :, asked], features)
        place, seen, weight, moved = _of_patches(correspondence, asked)
        frames = torch.arange(tokens.shape[1], device=tokens.device)
        wanted = seen & (frames[:, None, None] != frames)
        found, close = _at_true_place(logits.log_softmax(-1), place, wanted, grid)
        weight = weight * wanted
        return -(found * weight).sum() / weight.sum().clamp(min=1e-6), _share(close, wanted & moved)


def _of_patches(c: Correspondence, asked: Tensor) -> tuple[Tensor, ...]:
    """Place, seen, weight and moved of some patches of every frame, [B, S, A, S, ...]."""
    return tuple(x[:, :, asked] for x in (c.place, c.seen, c.weight, c.moved))


def _at_true_place(log_p: Tensor, place: Tensor, wanted: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Log probability at the true place, shared among its four patches, and whether the best patch is next to it.

    Args:
        log_p: [..., P] over the patches of a frame.
        place: [..., 2] column and row.
        wanted: [...] bool; elsewhere the results mean nothing.
        grid: rows and columns.
    """
    rows, columns = grid
    corner = place.floor()
    share = place - corner
    found = torch.zeros_like(place[..., 0])
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = (corner[..., 0] + dx).clamp(0, columns - 1), (corner[..., 1] + dy).clamp(0, rows - 1)
            weight = (share[..., 0] if dx else 1 - share[..., 0]) * (share[..., 1] if dy else 1 - share[..., 1])
            index = torch.where(wanted, y * columns + x, 0).long()
            found = found + torch.where(wanted, weight * log_p.gather(-1, index[..., None])[..., 0], 0)
    with torch.no_grad():
        best = log_p.argmax(-1)
        close = ((torch.stack((best % columns, best // columns), dim=-1) - place).abs() <= 1).all(-1)
    return found, close


def _share(hit: Tensor, counted: Tensor) -> Tensor:
    return (hit & counted).sum() / counted.sum().clamp(min=1)


class Probe(nn.Module):
    """Reads from each patch token: the place in the reference frame, the point, the log depth. Training only."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.read = nn.Linear(dim, 6)

    def forward(self, tokens: Tensor, targets: Targets, correspondence: Correspondence, patch_size: int) -> dict:
        """Losses of reading.

        Args:
            tokens: [B, S, P, 2C] patch tokens of one layer.
            targets: normalised scene.
            correspondence: of this batch.
            patch_size: pixels.

        Returns:
            'place' (mean L1 of the shift to the reference frame, in half picture widths) and 'point' (mean L1).
        """
        H, W = targets.depth.shape[-2:]
        half = patch_size // 2
        read = self.read(self.norm(tokens)).float()
        size = read.new_tensor([W, H]) / patch_size / 2
        own = correspondence.place.diagonal(dim1=1, dim2=3).permute(0, 3, 1, 2)  # (B, S, P, 2)
        shift = (correspondence.place[:, :, :, 0] - own) / size
        asked = correspondence.in_front[..., 0] & (shift.abs().amax(-1) < _PROBE_REACH)
        points = targets.world_points[:, :, half::patch_size, half::patch_size].flatten(2, 3)
        depth = targets.depth[:, :, half::patch_size, half::patch_size].flatten(2, 3)
        place = ((read[..., :2] - shift).abs().mean(-1) * asked).sum() / asked.sum().clamp(min=1)
        point = (read[..., 2:5] - points).abs().mean() + (read[..., 5] - depth.clamp(min=1e-3).log()).abs().mean() / 3
        return {'place': place, 'point': point}


def shift_loss(pose_encodings: Tensor, targets: Targets) -> Tensor:
    """Error of each later camera's shift as a share of its length, mean over the rounds of the camera head.

    The paper's loss takes the plain difference, and most shifts are a tenth of the scene: after 4,000 steps the
    network still answered "no shift", as the gain from knowing its direction was a hundredth of the whole loss.

    Args:
        pose_encodings: [iterations, B, S, 9].
        targets: normalised scene.
    """
    truth = targets.cam_from_world[:, 1:, :, 3]
    error = (pose_encodings[:, :, 1:, :3] - truth).norm(dim=-1)
    return (error / (truth.norm(dim=-1) + _SHORT_SHIFT)).mean()


def pair_loss(pose_encodings: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Misfit of the relative pose of every two frames, mean over the rounds of the camera head.

    The other losses of the cameras look from frame 0 only, while two later frames can both be right with it and wrong
    with each other. Direction and length of a shift are judged apart: a loss on the difference alone draws a shift
    whose direction is unsure towards zero.

    Args:
        pose_encodings: [iterations, B, S, 9], S at least 2.
        targets: normalised scene.

    Returns:
        'pair_turn': half of the chord between the rotations, sin(angle / 2). 'pair_direction': chord between the
        directions, twice that; a pair of cameras counts the less the closer they are. 'pair_length': difference of
        the logarithms of the lengths.
    """
    first, second = torch.triu_indices(*2 * (pose_encodings.shape[2],), 1, device=pose_encodings.device)

    def relative(rotation: Tensor, translation: Tensor) -> tuple[Tensor, Tensor]:
        turn = rotation[..., second, :, :] @ rotation[..., first, :, :].transpose(-1, -2)
        return turn, translation[..., second, :] - (turn @ translation[..., first, :, None])[..., 0]

    turn, shift = relative(rotation_from_quaternion(pose_encodings[..., 3:7]), pose_encodings[..., :3])
    true_turn, true_shift = relative(targets.cam_from_world[..., :3], targets.cam_from_world[..., 3])
    # A tiny addend under the roots: no infinite gradient where prediction and truth agree.
    chord = ((turn - true_turn).square().sum((-2, -1)) / 8 + 1e-8).sqrt()
    length, true_length = shift.square().sum(-1).add(_NO_SHIFT**2).sqrt(), true_shift.norm(dim=-1)
    weight = true_length / (true_length + _SHORT_SHIFT)
    heading = true_shift / true_length.clamp(min=1e-6)[..., None]
    apart = (shift / length[..., None] - heading).square().sum(-1).add(1e-8).sqrt()
    stretch = (length / true_length.square().add(_NO_SHIFT**2).sqrt()).log().abs()
    total = weight.sum().clamp(min=1e-6) * len(pose_encodings)
    return {
        'pair_turn': chord.mean(),
        'pair_direction': (weight * apart).sum() / total,
        'pair_length': (weight * stretch).sum() / total,
    }


def frame_scale_loss(depth: Tensor, targets: Targets, decoded: list[int]) -> Tensor:
    """How far the scale of depth differs between the frames of a window, mean over pairs, in logarithms.

    The paper's loss of depth lets what is unsure come out small. Frames far from the first are, so without this their
    depth came out 1 to 6 % short of the first frame's, and each window of a walk that much smaller than the one before.

    Args:
        depth: [B, D, H, W] predicted, above 0, of the frames in decoded.
        targets: of all frames.
        decoded: their indices.

    Returns:
        Zero where fewer than two frames are decoded.
    """
    if len(decoded) < 2:
        return depth.sum() * 0
    ratio, valid = _log_ratio(depth, targets, decoded)
    scale = ratio.sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)
    first, second = torch.triu_indices(len(decoded), len(decoded), 1, device=depth.device)
    return (scale[:, second] - scale[:, first]).abs().mean()


def relative_depth_loss(depth: Tensor, targets: Targets, decoded: list[int]) -> Tensor:
    """Error of depth in logarithms, after each window is brought to the truth's scale.

    The paper's loss counts distances, so what is near costs little and comes out too far: on held-back scenes the
    nearest fifth of the pixels was off by 33 %, the middle fifth by 12 %. About the median of the logarithms as many
    pixels pull up as down, so this loss leaves the scale of the window alone; errors as a share of the truth would not.

    Args:
        depth: [B, D, H, W] predicted, above 0, of the frames in decoded.
        targets: of all frames.
        decoded: their indices.

    Returns:
        Mean over the valid pixels of each window, then over windows; zero where there are none.
    """
    ratio, valid = (part.flatten(1) for part in _log_ratio(depth, targets, decoded))
    middle = torch.where(valid, ratio.detach(), torch.nan).nanmedian(dim=1, keepdim=True).values.nan_to_num()
    off = torch.where(valid, ratio - middle, 0).abs().clamp(max=_MAX_LOG_RATIO)
    count = valid.sum(1)
    return (off.sum(1) / count.clamp(min=1)).sum() / (count > 0).sum().clamp(min=1)


def _log_ratio(depth: Tensor, targets: Targets, decoded: list[int]) -> tuple[Tensor, Tensor]:
    """Logarithm of depth over truth [B, D, H, W], 0 where the truth is unknown, and where it is known."""
    truth, valid = targets.depth[:, decoded], targets.valid[:, decoded]
    return torch.where(valid, depth.clamp(min=1e-6).log() - truth.clamp(min=1e-6).log(), 0), valid


def lift(depth: Tensor, cam_from_world: Tensor, K: Tensor) -> Tensor:
    """World points [B, S, H, W, 3] of depth images [B, S, H, W] seen by cameras [B, S, 3, 4]."""
    in_camera = unproject_depth(depth, K)
    rotation, translation = cam_from_world[..., :3], cam_from_world[..., 3]
    return torch.einsum('bsji,bshwj->bshwi', rotation, in_camera - translation[:, :, None, None])

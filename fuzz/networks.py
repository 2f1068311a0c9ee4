"""Targets: weights and their configurations -> a network, of a size that the file's own size explains."""

from __future__ import annotations

import functools
import io
import json
import pickle
import zipfile
from typing import Any

import torch
from safetensors.torch import save

from fuzz.draw import Draw
from fuzz.files import scratch
from vggt.config import DenseHeadConfig, VGGTConfig
from vggt.model import VGGT
from vggt.weights import load_vggt

CONFIG = VGGTConfig(
    image_size=28,
    patch_size=14,
    embed_dim=16,
    depth=2,
    num_heads=2,
    backbone=None,
    camera_head=None,
    depth_head=DenseHeadConfig(features=8, hidden_channels=4, out_channels=(4, 4, 4, 4), layers=(0, 0, 1, 1)),
    point_head=None,
    track_head=None,
)


def safetensors(draw: Draw) -> None:
    """A .safetensors file with a damaged body, or a header that tells of other tensors -> a network."""
    data = _weights()[0]
    size = int.from_bytes(data[:8], 'little')
    if draw.flag():
        header = json.loads(data[8 : 8 + size])
        for _ in range(draw.below(4)):
            name = draw.choice(list(header) or ['x'])
            header[draw.word(name)] = draw.value(header.get(name, {}))
            if draw.flag():
                header[_long_name(draw)] = {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}
        text = json.dumps(header).encode('utf-8', 'surrogatepass')
        data = draw.integer(len(text), 0, 2**64 - 1).to_bytes(8, 'little') + text + data[8 + size :]
    text = _config_text(draw) if draw.byte() & 3 == 3 else json.dumps(CONFIG.to_dict())
    _load('weights.safetensors', draw.damaged(data), text if draw.byte() & 7 < 7 else None)


def torch_file(draw: Draw) -> None:
    """A .pt file that is damaged, or holds what is no tensor -> a network."""
    how = draw.byte() % 4
    if how == 0:
        data = draw.damaged(_weights()[1])
    elif how == 1:
        data = draw.damaged(_weights()[2])
    elif how == 2:
        data = _repacked(draw, _weights()[1])
    else:
        content = draw.value(_contents(draw))
        out = io.BytesIO()
        torch.save(content, out, _use_new_zipfile_serialization=draw.flag())
        data = out.getvalue()
    _load(draw.choice(('weights.pt', 'weights.pth')), data, json.dumps(CONFIG.to_dict()))


def config(draw: Draw) -> None:
    """A configuration beside good weights -> a network."""
    _load('weights.safetensors', _weights()[0], _config_text(draw))


def _load(name: str, data: bytes, config_text: str | None) -> None:
    with scratch() as folder:
        (folder / name).write_bytes(data)
        if config_text is not None:
            (folder / 'config.json').write_bytes(config_text.encode('utf-8', 'surrogatepass'))
        model = load_vggt(folder / name)
        assert sum(one.numel() for one in model.parameters()) < 10**7


def _config_text(draw: Draw) -> str:
    if draw.byte() & 15 == 15:
        return draw.choice(('[' * 100_000, '', '[]', 'NaN', '9' * 5000, '{"format": "vggt_ros/VGGTConfig/1"}'))
    return json.dumps(draw.value(json.loads(json.dumps(CONFIG.to_dict()))))


def _long_name(draw: Draw) -> str:
    number = draw.choice((3, 10**3, 10**9, 10**30))
    return draw.choice(
        (f'aggregator.frame_blocks.{number}.x', f'camera_head.trunk.{number}.y', 'track_head.tracker.query_ref_token',
         f'aggregator.patch_embed.blocks.{number}.z', 'depth_head.norm.weight', 'camera_head.empty_pose_tokens')
    )  # fmt: skip


def _contents(draw: Draw) -> Any:
    state: dict[str, Any] = dict(_state())
    name = draw.choice(list(state))
    state[name] = draw.choice(
        (
            state[name], torch.zeros(1).expand(10**13), torch.zeros(()), torch.zeros(3, dtype=torch.complex64),
            torch.zeros(4).to_sparse(), torch.zeros(2, dtype=torch.bool), 'word', None, 3,
            torch.quantize_per_tensor(torch.zeros(3), 0.1, 0, torch.qint8), torch.zeros(2, device='meta'),
        )
    )  # fmt: skip
    wrapped = ({'model': state}, {'state_dict': {'model': state}}, [state], {1: state[name]})
    return draw.choice((state, *wrapped, state[name]))


def _repacked(draw: Draw, data: bytes) -> bytes:
    """The same archive with one member replaced, or squeezed as torch itself never does."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, 'w') as new:
        names = old.namelist()
        chosen = draw.choice(names)
        for name in names:
            content = old.read(name)
            if name == chosen:
                content = draw.damaged(content) if draw.flag() else draw.choice((b'', bytes(10**6), _pickle(draw)))
            new.writestr(name, content, zipfile.ZIP_DEFLATED if draw.byte() & 7 == 7 else zipfile.ZIP_STORED)
    return out.getvalue()


def _pickle(draw: Draw) -> bytes:
    return pickle.dumps(draw.choice((1, [], {}, {'a': 1}, print, b'x', {'aggregator.camera_token': 2})), protocol=2)


@functools.cache
def _state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.clone() for name, value in VGGT(CONFIG).state_dict().items()}


@functools.cache
def _weights() -> tuple[bytes, bytes, bytes]:
    """As safetensors, as a new and as an old file of torch."""
    new, old = io.BytesIO(), io.BytesIO()
    torch.save(_state(), new)
    torch.save(_state(), old, _use_new_zipfile_serialization=False)
    return save(_state()), new.getvalue(), old.getvalue()

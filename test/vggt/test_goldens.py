"""Every golden case of every model: our network gives the reference's numbers.

Tolerances are those of goldens/README.md: a few times what the reference differs from itself when it is run with one
thread, unfused attention, another convolution library, or in float64.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import (
    BUNDLED,
    SIBLING,
    TINY_EPS_ADJUSTMENTS,
    Case,
    fill_by_recipe,
    load_weights,
    model_cases,
    read_config,
)
from safetensors.torch import load_file

from vggt import VGGT, VGGTConfig, VGGTOutput

CASES = model_cases()
SMALL = [case for case in CASES if not case.is_large]
LARGE = [case for case in CASES if case.is_large]
LARGE_NEEDS_GB = 8  # 5 GB of weights, one part of them twice while it is made, and the activations

TOLERANCES = {
    'patch_tokens': 5e-5,
    'agg': 5e-5,
    'pose_enc_list': 1e-5,
    'depth': 5e-5,
    'depth_conf': 5e-5,
    'world_points': 1e-4,
    'world_points_conf': 5e-5,
    'extrinsic': 2e-5,
    'world_points_from_depth': 1e-4,
    'track_vis': None,  # follows the fourth round of the track
    'track_conf': None,
}
TRACK_TOLERANCES = (5e-5, 3e-3, 0.2, None)  # px after each round; rounding grows about fortyfold a round
# Small activations: a wrong LayerNorm eps shows, and the tracker keeps its digits.
TINY_EPS = {
    'patch_tokens': 2e-6,
    'agg': 2e-6,
    'pose_enc_list': 5e-6,
    'depth': 1e-5,
    'depth_conf': 1e-5,
    'world_points': 1e-5,
    'world_points_conf': 1e-5,
    'track_vis': 2e-4,
    'track_conf': 3e-4,
}
INTRINSIC_RELATIVE = 1e-5


@lru_cache(maxsize=1)
def build(description: Path) -> VGGT:
    data = json.loads(description.read_text())
    model = VGGT(read_config(data)).eval()
    load_weights(model, data, description.parent)
    return model


def reference_outputs(case: Case) -> dict[str, np.ndarray]:
    if not case.outputs.is_file():
        pytest.skip(f'{case.outputs.name} is not in {case.outputs.parent}')
    with np.load(case.outputs) as stored:
        return {key: stored[key] for key in stored.files}


def read_images(expected: dict[str, np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(expected['images_u8'].astype(np.float32) / 255)


def run(model: VGGT, expected: dict[str, np.ndarray], once: bool = False) -> dict[str, np.ndarray]:
    """Our outputs under the goldens' keys."""
    images = read_images(expected)
    queries = torch.from_numpy(expected['query_points']) if 'query_points' in expected else None
    with torch.inference_mode():
        patch_tokens = model.aggregator.encode(images.flatten(0, 1))
        size = (images.shape[-2], images.shape[-1])
        layers = model.aggregator.attend(patch_tokens.unflatten(0, images.shape[:2]), size)
        ours = {'patch_tokens': patch_tokens, **{f'agg_{i}': layer for i, layer in layers.items()}}
        # The plain forward is these three parts; the large model runs its aggregator once only.
        output = model.read_heads(layers, size, queries) if once else model(images, queries)
        ours.update(under_golden_keys(output))
    return {key: value.numpy() for key, value in ours.items()}


def under_golden_keys(output: VGGTOutput) -> dict[str, torch.Tensor]:
    found = {
        'pose_enc_list': output.pose_encodings,
        'depth': None if output.depth is None else output.depth[..., None],
        'depth_conf': output.depth_confidence,
        'world_points': output.world_points,
        'world_points_conf': output.world_points_confidence,
        'track_list': output.tracks,
        'track_vis': output.visibility,
        'track_conf': output.track_confidence,
    }
    if output.pose_encoding is not None:
        found['extrinsic'], found['intrinsic'] = output.cameras()
        if output.depth is not None:
            found['world_points_from_depth'] = output.points('depth')[0]
    return {key: value for key, value in found.items() if value is not None}


def differences(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray], strict: bool) -> list[str]:
    """Every output that is further from the reference than allowed."""
    failures = []

    def compare(key: str, a: np.ndarray, b: np.ndarray, tolerance: float | None) -> None:
        assert a.shape == b.shape, f'{key}: shape {a.shape}, expected {b.shape}'
        assert np.isfinite(a).all(), f'{key} is not finite'
        difference = float(np.abs(a.astype(np.float64) - b).max())
        if tolerance is not None and not difference <= tolerance:
            failures.append(f'{key}: {difference:.2e} > {tolerance:.0e}')

    for key, value in expected.items():
        if key in ('images_u8', 'query_points'):
            continue
        if key == 'track_list':
            for i, tolerance in enumerate(TRACK_TOLERANCES):
                compare(f'track_list[{i}]', ours[key][i], value[i], 2e-4 if strict else tolerance)
        elif key == 'intrinsic':
            assert np.allclose(ours[key], value, rtol=INTRINSIC_RELATIVE, atol=0), key
        else:
            family = 'agg' if key.startswith('agg_') else key
            tolerance = TINY_EPS.get(family, TOLERANCES[family]) if strict else TOLERANCES[family]
            compare(key, ours[key], value, tolerance)
    return failures


@pytest.mark.parametrize('case', SMALL, ids=str)
def test_network_gives_the_numbers_of_the_reference(case: Case) -> None:
    expected = reference_outputs(case)
    ours = run(build(case.description), expected)
    assert not differences(ours, expected, strict=case.model == 'tiny_eps')


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize('case', LARGE, ids=str)
def test_released_architecture_gives_the_numbers_of_the_reference(case: Case) -> None:
    if available_gb() < LARGE_NEEDS_GB:
        pytest.skip(f'needs {LARGE_NEEDS_GB} GB of free memory, {available_gb():.1f} GB are free')
    expected = reference_outputs(case)
    data = json.loads(case.description.read_text())
    with torch.device('meta'):
        model = VGGT(read_config(data)).eval()
    model.to_empty(device='cpu')  # every parameter is overwritten next; drawing random ones takes a minute
    load_weights(model, data, case.description.parent)
    assert_checksums(model, data['checksums'])
    assert not differences(run(model, expected, once=True), expected, strict=False)


def available_gb() -> float:
    """Free memory, by the kernel's own estimate."""
    lines = Path('/proc/meminfo').read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith('MemAvailable')) / 1e6


def assert_checksums(model: VGGT, checksums: dict[str, dict[str, Any]]) -> None:
    """The recipe gave the reference's weights, so a difference is the network's."""
    state = model.state_dict()
    for name, checksum in checksums.items():
        assert state[name].flatten()[:3].tolist() == pytest.approx(checksum['first'], abs=1e-7), name


@pytest.mark.parametrize('description', sorted({case.description for case in SMALL}), ids=lambda path: path.stem)
def test_state_dict_has_the_names_and_shapes_of_the_reference(description: Path) -> None:
    data = json.loads(description.read_text())
    ours = [[name, list(value.shape)] for name, value in build(description).state_dict().items()]
    assert ours == [entry[:2] for entry in data['state_dict']]


def test_default_model_has_exactly_the_tensors_of_the_released_checkpoint() -> None:
    manifest = json.loads((BUNDLED / 'manifest_vggt_1b.json').read_text())
    with torch.device('meta'):
        model = VGGT()
    ours = [[name, list(value.shape), 'float32'] for name, value in model.state_dict().items()]
    assert ours == manifest['entries']
    assert sum(value.numel() for value in model.state_dict().values()) == manifest['total_elements'] == 1_256_537_516
    frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
    assert frozen == manifest['non_trainable']


def test_layer_scale_starts_as_in_the_reference() -> None:
    checks = json.loads((BUNDLED / 'manifest_vggt_1b.json').read_text())['init_default_checks']
    config = VGGTConfig()
    assert config.backbone is not None
    assert config.camera_head is not None
    assert config.backbone.init_values == checks['ls_gamma_dino']
    assert config.init_values == pytest.approx(checks['ls_gamma_frame'])
    assert config.camera_head.init_values == pytest.approx(checks['ls_gamma_camera'])


@pytest.mark.parametrize('model, seed', [('tiny_conv', 101), ('tiny_dino', 102), ('tiny_eps', 103)])
def test_rebuilt_weights_are_the_stored_ones(model: str, seed: int) -> None:
    stored = SIBLING / f'{model}.safetensors'
    if not stored.is_file():
        pytest.skip(f'{stored.name} is not beside this repository; the bundled goldens rebuild it')
    network = VGGT(read_config(json.loads((BUNDLED / f'{model}.json').read_text())))
    fill_by_recipe(network, seed, TINY_EPS_ADJUSTMENTS if model == 'tiny_eps' else ())
    for name, value in load_file(stored).items():
        assert torch.allclose(network.state_dict()[name], value, rtol=0, atol=1e-8), name


def test_some_golden_cases_were_found() -> None:
    assert CASES, f'no golden case in VGGT_GOLDENS, {BUNDLED} or {SIBLING}'

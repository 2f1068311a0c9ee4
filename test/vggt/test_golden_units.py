"""Single pieces of the network against the reference's: goldens/units.npz.

Float32 formulas of a few operations on values below 10; 1e-6 relative leaves room for another order of summation.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from golden import BUNDLED, load_arrays, read_config

from vggt.aggregator import Aggregator
from vggt.backbone import Backbone
from vggt.config import BackboneConfig
from vggt.heads.camera import activate_fields_of_view
from vggt.heads.correlation import CorrelationPyramid, sample_bilinear
from vggt.heads.dense import activate, activate_confidence
from vggt.heads.dpt import ResidualConvUnit, resize
from vggt.heads.position import grid_line, sine_tables
from vggt.heads.tracker import embed_flow, sine_position_map
from vggt.layers.rope import rotary_table, rotate

UNITS = {key: torch.from_numpy(value) for key, value in load_arrays('units.npz').items()}
CPU = torch.device('cpu')


def assert_same(ours: torch.Tensor, key: str, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    torch.testing.assert_close(ours, UNITS[key], rtol=rtol, atol=atol)


def test_rotary_positions() -> None:
    table = rotary_table(UNITS['rope_pos'], head_dim=16, base=100.0)
    table = (table[0][:, None], table[1][:, None])  # (B, 1 head, N, 2, 4)
    assert_same(rotate(UNITS['rope_in'], table), 'rope_out')


# The 5x3 grid belongs to a picture of 70x98: its aspect is the picture's, not the grid's.
@pytest.mark.parametrize('columns, rows, aspect', [(5, 3, 98 / 70), (14, 20, 14 / 20)])
def test_sine_grid_coordinates(columns: int, rows: int, aspect: float) -> None:
    diagonal = (aspect**2 + 1) ** 0.5
    u, v = grid_line(columns, aspect / diagonal), grid_line(rows, 1 / diagonal)
    grid = torch.stack((u.expand(rows, -1), v[:, None].expand(-1, columns)), dim=-1)
    assert_same(grid.float(), f'uv_{columns}x{rows}')


@pytest.mark.parametrize('columns, rows, aspect, channels', [(5, 3, 98 / 70, 24), (14, 20, 14 / 20, 32)])
def test_sine_grid_embedding(columns: int, rows: int, aspect: float, channels: int) -> None:
    along_x, along_y = sine_tables(rows, columns, aspect, channels, CPU)
    x, y = along_x.T.expand(rows, -1, -1), along_y.T[:, None].expand(-1, columns, -1)
    assert_same(torch.cat((x, y), dim=-1), f'uvemb_{columns}x{rows}_c{channels}')


@pytest.mark.parametrize(
    'activation', ['norm_exp', 'norm', 'exp', 'relu', 'inv_log', 'xy_inv_log', 'sigmoid', 'linear']
)
def test_dense_activation(activation: str) -> None:
    raw = UNITS['act_in'].permute(0, 2, 3, 1)
    assert_same(activate(raw[..., :3], activation), f'act_{activation}')


@pytest.mark.parametrize('activation', ['expp1', 'expp0', 'sigmoid'])
def test_confidence_activation(activation: str) -> None:
    assert_same(activate_confidence(UNITS['act_in'][:, 3], activation), f'actconf_{activation}')


def test_pose_activation_touches_the_fields_of_view_only() -> None:
    assert_same(activate_fields_of_view(UNITS['poseact_in']), 'poseact_out')


@pytest.mark.parametrize('size, key', [((13, 20), 'resize_bilinear_ac_13x20'), ((18, 14), 'resize_bilinear_ac_x2')])
def test_resize_aligns_corners(size: tuple[int, int], key: str) -> None:
    assert_same(resize(UNITS['resize_in'], size), key)


def test_resize_of_many_frames_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('vggt.heads.dpt.RESIZE_LIMIT', 8 * 13 * 20)
    assert_same(resize(UNITS['resize_in'], (13, 20)), 'resize_bilinear_ac_13x20')


def test_residual_unit_carries_the_rectified_input() -> None:
    unit = ResidualConvUnit(8)
    unit.load_state_dict({key.removeprefix('rcu_'): UNITS[key] for key in UNITS if key.startswith('rcu_conv')})
    assert_same(unit(UNITS['rcu_in']), 'rcu_out')


@pytest.mark.parametrize('rows, columns', [(5, 9), (12, 4), (7, 7)])
def test_position_embedding_is_resampled(rows: int, columns: int) -> None:
    backbone = Backbone(BackboneConfig(depth=0, num_heads=1), dim=12, patch_size=14, image_size=98)
    with torch.no_grad():
        backbone.pos_embed[:, 1:] = UNITS['posembed_patch_in']
    assert_same(backbone.position_embedding(rows, columns), f'posembed_patch_{rows}x{columns}')


def test_tracker_position_embedding() -> None:
    assert_same(sine_position_map((5, 7), 20), 'trk_pos2d_c20_5x7')


def test_flow_embedding_interleaves_sine_and_cosine() -> None:
    # Angles reach thousands of radians, where float32 itself is 1e-4 coarse.
    assert_same(embed_flow(UNITS['trk_flow_in'], 16), 'trk_flow_emb_c16', atol=1e-3)


def test_correlation_runs_over_x_slowly() -> None:
    pyramid = CorrelationPyramid(UNITS['corr_fmaps'], levels=3, radius=2)
    assert_same(pyramid.sample(UNITS['corr_targets'], UNITS['corr_coords']), 'corr_out_l3_r2', atol=1e-5)


def test_features_are_sampled_with_the_border_repeated() -> None:
    maps, points = UNITS['corr_fmaps'][:, 0], UNITS['corr_coords'][:, 0]
    assert_same(sample_bilinear(maps, points, padding='border').transpose(1, 2), 'samp_out', atol=1e-5)


def test_first_frame_of_each_scene_has_its_own_special_tokens() -> None:
    both = UNITS['special_in']  # (1, 2, 3, 4): one camera token and two registers would be 3 tokens of width 4
    config = read_config(json.loads((BUNDLED / 'tiny_conv.json').read_text()))
    aggregator = Aggregator(config)
    aggregator.camera_token = torch.nn.Parameter(both[:, :, :1])
    aggregator.register_token = torch.nn.Parameter(both[:, :, 1:])
    assert_same(aggregator.special_tokens(batch=2, frames=3).flatten(0, 1).detach(), 'special_out_b2s3')


def test_every_unit_was_looked_at() -> None:
    used = {'rope', 'uv', 'uvemb', 'act', 'actconf', 'poseact', 'resize', 'rcu', 'posembed', 'trk', 'corr', 'samp'}
    assert {key.split('_')[0] for key in UNITS} == used | {'special'}
    assert all(np.isfinite(value.numpy()).all() for value in UNITS.values())

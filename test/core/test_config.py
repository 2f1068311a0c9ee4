"""Settings: every name once, every bound kept, every refusal a sentence."""

import dataclasses

import pytest

from vggt_ros.core.config import Config, settings
from vggt_ros.core.errors import ConfigError


def test_names_are_unique_and_every_setting_has_a_sentence():
    names = [one.name for one in settings()]
    assert len(set(names)) == len(names)
    assert all(one.help for one in settings())
    assert {'window_size', 'device', 'voxel_size', 'alignment_max_points'} <= set(names)


def test_values_come_back_as_they_went_in():
    changed = {'window_size': 12, 'voxel_size': 0.5, 'device': 'cpu', 'standalone': True}
    values = Config().with_values(changed).values()
    assert {name: values[name] for name in changed} == changed
    assert Config().with_values(values).values() == values
    assert values.keys() == {one.name for one in settings()}


def test_a_config_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().window = None


@pytest.mark.parametrize(
    'values, sentence',
    [
        ({'window_size': 0}, 'window_size must be at least 1, got 0'),
        ({'window_size': 65}, 'window_size must be at most 64, got 65'),
        ({'window_size': 4.0}, 'window_size must be int, got 4.0'),
        ({'window_size': True}, 'window_size must be int, got True'),
        ({'window_size': 4, 'window_stride': 5}, 'window_stride must be at most window_size, got 5 of 4'),
        ({'voxel_size': 0.0}, 'voxel_size must be above 0, got 0.0'),
        ({'voxel_size': float('nan')}, 'voxel_size must be a finite number, got nan'),
        ({'voxel_size': float('inf')}, 'voxel_size must be a finite number, got inf'),
        ({'precision': 'fp8'}, "precision must be one of auto, bf16, fp16, fp32, got 'fp8'"),
        ({'device': 1}, 'device must be str, got 1'),
        ({'windw_size': 4}, "unknown setting 'windw_size'; the settings are .*window_size"),
    ],
)
def test_nonsense_is_refused_in_words(values, sentence):
    with pytest.raises(ConfigError, match=sentence):
        Config().with_values(values)


def test_whole_numbers_will_do_for_real_ones():
    assert Config().with_values({'voxel_size': 1}).cloud.voxel_size == 1.0


@pytest.mark.parametrize('one', list(settings()), ids=lambda one: one.name)
def test_defaults_are_within_their_bounds(one):
    assert one.check(one.default) == one.default


def test_scale_counts_only_where_it_is_asked_for():
    assert Config().with_values({'scale': 3.0}).scale.factor == 1.0
    assert Config().with_values({'scale': 3.0, 'scale_source': 'fixed'}).scale.factor == 3.0


@pytest.mark.parametrize('name', ['window_size', 'voxel_size', 'map_max_points'])
@pytest.mark.parametrize('value', [10**400, -(10**30), 2**63])
def test_a_number_of_more_than_64_bits_is_refused(name, value):
    with pytest.raises(ConfigError, match=f'{name} must be a number of 64 bits'):
        Config().with_values({name: value})


@pytest.mark.parametrize(
    'changes, reads',
    [
        ({}, True),
        ({'standalone': True}, False),
        ({'standalone': True, 'scale_source': 'fixed'}, False),
        ({'standalone': True, 'scale_source': 'lidar'}, True),
        ({'standalone': True, 'gravity_source': 'imu'}, True),
        ({'standalone': True, 'publish_odom_to_base_tf': False, 'publish_map_to_odom_tf': True}, True),
        ({'standalone': True, 'camera_names': 'left,right'}, True),
    ],
)
def test_tf_is_read_where_something_is_asked_of_it(changes: dict[str, object], reads: bool) -> None:
    assert Config().with_values(changes).reads_tf is reads

"""Weights load by name or file, strictly, and every way to fail says what mends it."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from golden import BUNDLED, SIBLING, read_config
from safetensors.torch import load_file, save_file
from small import SMALL, random_images, small_model

from vggt import VGGT, VGGTConfig, load_vggt
from vggt.checkpoint import config_from_shapes
from vggt.errors import CheckpointError, ConfigError
from vggt.weights import shipped_names

DENSE = ('depth_head.', 'point_head.', 'track_head.')


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    """A small checkpoint with its configuration beside it."""
    path = tmp_path / 'small.safetensors'
    save_file(small_model().state_dict(), path)
    path.with_suffix('.json').write_text(json.dumps(SMALL.to_dict()))
    return path


def assert_same_weights(a: VGGT, b: VGGT) -> None:
    others = b.state_dict()
    for name, value in a.state_dict().items():
        assert torch.equal(value, others[name]), name


def test_file_with_configuration_beside_it_loads(weights_file: Path) -> None:
    model = load_vggt(weights_file)
    assert model.config == SMALL
    assert not model.training
    assert_same_weights(model, small_model())
    with torch.inference_mode():
        assert torch.equal(model(random_images(2)).depth, small_model()(random_images(2)).depth)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
def test_a_loaded_model_is_its_own_whatever_becomes_of_the_file(weights_file: Path, suffix: str) -> None:
    path = weights_file.with_suffix(suffix)
    if suffix == '.pt':
        torch.save(small_model().state_dict(), path)
    model = load_vggt(path)
    assert path.name not in Path('/proc/self/maps').read_text()  # else a file cut short would end this process
    with path.open('r+b') as file:
        file.write(bytes(path.stat().st_size))
        file.truncate(1000)
    assert_same_weights(model, small_model())


@pytest.mark.parametrize('wrapper', [None, 'model', 'state_dict'])
def test_torch_file_loads(weights_file: Path, tmp_path: Path, wrapper: str | None) -> None:
    state = small_model().state_dict()
    path = weights_file.with_suffix('.pt')
    torch.save({wrapper: state, 'epoch': 3} if wrapper else state, path)
    assert_same_weights(load_vggt(path), small_model())


def test_loaded_model_can_be_trained(weights_file: Path) -> None:
    model = load_vggt(weights_file).train()
    model(random_images(2)).depth.mean().backward()
    assert model.aggregator.camera_token.grad is not None
    assert not model.aggregator.patch_embed.mask_token.requires_grad


def test_unwanted_heads_are_dropped_and_the_rest_stays_strict(weights_file: Path) -> None:
    model = load_vggt(weights_file, heads=('camera', 'depth'))
    assert model.config.heads == ('camera', 'depth')
    assert model.point_head is None
    assert model.track_head is None
    state = load_file(weights_file)
    del state['depth_head.norm.weight'], state['point_head.norm.weight']
    save_file(state, weights_file)
    load_vggt(weights_file, heads=('camera',))
    with pytest.raises(CheckpointError, match=r'1 missing \(depth_head.norm.weight\)'):
        load_vggt(weights_file, heads=('camera', 'depth'))


def test_head_that_the_weights_lack_is_refused(weights_file: Path) -> None:
    config = SMALL.with_heads(['camera'])
    save_file(small_model(config).state_dict(), weights_file)
    with pytest.raises(ConfigError, match='depth'):
        load_vggt(weights_file, heads=('camera', 'depth'), config=config)


def test_half_precision_files_load_in_the_precision_asked_for(weights_file: Path) -> None:
    save_file({name: value.half() for name, value in small_model().state_dict().items()}, weights_file)
    assert load_vggt(weights_file).aggregator.camera_token.dtype == torch.float32
    assert load_vggt(weights_file, dtype=torch.bfloat16).aggregator.camera_token.dtype == torch.bfloat16


def test_unexpected_and_reshaped_tensors_are_named(weights_file: Path) -> None:
    state = load_file(weights_file)
    state['aggregator.extra'] = torch.zeros(1)
    state['camera_head.token_norm.bias'] = torch.zeros(3)
    save_file(state, weights_file)
    with pytest.raises(CheckpointError, match=r'1 unexpected \(aggregator.extra\)') as caught:
        load_vggt(weights_file)
    assert 'camera_head.token_norm.bias (3,) instead of (128,)' in str(caught.value)


@pytest.mark.parametrize('suffix', ['.safetensors', '.pt'])
def test_truncated_file_is_told_from_others(weights_file: Path, suffix: str) -> None:
    path = weights_file.with_suffix(suffix)
    if suffix == '.pt':
        torch.save(small_model().state_dict(), path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match=r'cut short.*download it again'):
        load_vggt(path)


def test_missing_file_and_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r'no weights file .*absent\.safetensors'):
        load_vggt(tmp_path / 'absent.safetensors')
    with pytest.raises(CheckpointError, match='facebook/VGGT-1B'):
        load_vggt('gigantic')
    (tmp_path / 'weights.onnx').touch()
    with pytest.raises(CheckpointError, match=r'\.safetensors, \.pt'):
        load_vggt(tmp_path / 'weights.onnx')


def test_foreign_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / 'foreign.safetensors'
    save_file({'encoder.weight': torch.zeros(2, 2)}, path)
    with pytest.raises(CheckpointError, match=r'not a VGGT checkpoint.*encoder\.weight'):
        load_vggt(path)
    torch.save([torch.zeros(2)], path.with_suffix('.pt'))
    with pytest.raises(CheckpointError, match='not a state dict'):
        load_vggt(path.with_suffix('.pt'))


class Trap:
    """Unpickling this writes a file: what a hostile checkpoint would do, only worse."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_hostile_file_is_not_executed(tmp_path: Path) -> None:
    touched = tmp_path / 'touched'
    torch.save({'aggregator.camera_token': Trap(touched)}, tmp_path / 'trap.pt')
    (tmp_path / 'old.pt').write_bytes(pickle.dumps(Trap(touched), protocol=2))
    for name in ('trap.pt', 'old.pt'):
        with pytest.raises(CheckpointError, match='could run code'):
            load_vggt(tmp_path / name)
    assert not touched.exists()


def test_configuration_is_read_from_the_released_shapes() -> None:
    manifest = json.loads((BUNDLED / 'manifest_vggt_1b.json').read_text())
    shapes = {name: tuple(shape) for name, shape, _ in manifest['entries']}
    assert config_from_shapes(shapes) == VGGTConfig()
    without = {name: shape for name, shape in shapes.items() if not name.startswith(('track_head', 'point_head'))}
    assert config_from_shapes(without) == VGGTConfig().with_heads(['camera', 'depth'])


def test_shapes_that_do_not_tell_the_configuration_are_refused(weights_file: Path) -> None:
    weights_file.with_suffix('.json').unlink()
    (weights_file.parent / 'config.json').write_text('{"img_size": 518, "embed_dim": 64}')  # not of our form
    with pytest.raises(CheckpointError, match='to_dict'):
        load_vggt(weights_file)
    (weights_file.parent / 'config.json').write_text(json.dumps(SMALL.to_dict()))
    assert load_vggt(weights_file).config == SMALL
    (weights_file.parent / 'config.json').write_text('{')
    with pytest.raises(CheckpointError, match='not JSON'):
        load_vggt(weights_file)


@pytest.mark.parametrize('name', ['tiny_conv', 'tiny_dino'])
def test_checkpoint_of_the_reference_loads_unchanged(name: str, tmp_path: Path) -> None:
    stored = SIBLING / f'{name}.safetensors'
    if not stored.is_file():
        pytest.skip(f'{stored.name} is not beside this repository')
    config = read_config(json.loads((BUNDLED / f'{name}.json').read_text()))
    assert set(load_vggt(stored, config=config).state_dict()) == set(load_file(stored))


@pytest.mark.parametrize('name', shipped_names() or ['none'])
def test_shipped_weights_load_and_give_finite_output(name: str) -> None:
    if name == 'none':
        pytest.skip('no weights are shipped')
    model = load_vggt(name)
    patch = model.config.patch_size
    with torch.inference_mode():
        output = model(random_images(3, 6 * patch, 8 * patch))
    assert output.depth is not None
    assert torch.isfinite(output.depth).all()
    assert torch.isfinite(output.pose_encoding).all()


def test_loading_imports_nothing_that_only_a_compiler_needs() -> None:
    """On the meta device some of torch's kernels import torch._dynamo and sympy: 4 s of each start of the node."""
    code = "import sys, vggt\nvggt.load_vggt('nano')\nprint({'sympy', 'torch._dynamo'} & set(sys.modules))"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout == 'set()\n'


def test_loading_a_file_says_nothing(weights_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger='vggt'):
        load_vggt(weights_file)
    assert not caplog.records


@pytest.mark.parametrize('name', ['frame_blocks.1000000000.x', 'frame_blocks.99999999999999999999.x'])
def test_a_name_that_tells_of_a_billion_layers_builds_none(weights_file: Path, name: str) -> None:
    state = {key: value for key, value in small_model().state_dict().items() if not key.startswith(DENSE)}
    save_file({**state, f'aggregator.{name}': torch.zeros(1)}, weights_file)
    weights_file.with_suffix('.json').unlink()
    with pytest.raises(CheckpointError, match=r'layers|proportions|JSON'):
        load_vggt(weights_file)


@pytest.mark.parametrize(
    'key, value',
    [('depth', 10**9), ('depth', 50_000), ('depth', '2'), ('depth', -2), ('depth', True), ('mlp_ratio', float('nan')),
     ('mlp_ratio', 1e300), ('embed_dim', None), ('embed_dim', []), ('attention_order', 'frame'), ('qk_norm', 1),
     ('depth_head', 3), ('depth_head', {'layers': [0]}), ('depth_head', {'out_channels': [4, 4, 4, '4']}),
     ('camera_head', {'iterations': 10**12}), ('attention_order', ['frame', 3])],
)  # fmt: skip
def test_a_configuration_that_makes_no_network_is_refused(weights_file: Path, key: str, value: object) -> None:
    weights_file.with_suffix('.json').write_text(json.dumps({**SMALL.to_dict(), key: value}))
    with pytest.raises((CheckpointError, ConfigError), match=r'\w+ \w+'):
        load_vggt(weights_file)


@pytest.mark.parametrize('text', ['[' * 100_000, '\xff', '9' * 5000], ids=['deep', 'no text', 'long'])
def test_a_configuration_that_is_no_json_is_refused(weights_file: Path, text: str) -> None:
    weights_file.with_suffix('.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(CheckpointError, match='not JSON'):
        load_vggt(weights_file)


def test_one_number_shown_often_does_not_fill_the_memory(weights_file: Path) -> None:
    state = {**small_model().state_dict(), 'more': torch.zeros(1).expand(10**13)}
    torch.save(state, weights_file.with_suffix('.pt'))
    with pytest.raises(CheckpointError, match='more than it has'):
        load_vggt(weights_file.with_suffix('.pt'))


@pytest.mark.parametrize('value', [torch.zeros(2, device='meta'), torch.eye(3).to_sparse()], ids=['meta', 'sparse'])
def test_tensors_of_other_kinds_are_refused(weights_file: Path, value: torch.Tensor) -> None:
    torch.save({**small_model().state_dict(), 'more': value}, weights_file.with_suffix('.pt'))
    with pytest.raises(CheckpointError, match='no plain tensor'):
        load_vggt(weights_file.with_suffix('.pt'))


def test_a_squeezed_archive_is_refused_before_it_is_unpacked(weights_file: Path) -> None:
    whole, bomb = weights_file.with_suffix('.pt'), weights_file.with_suffix('.pth')
    torch.save({'aggregator.camera_token': torch.zeros(10**6)}, whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(bomb, 'w', zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(CheckpointError, match='unpacks to'):
        load_vggt(bomb)


@pytest.mark.parametrize('content', [{1: torch.zeros(1)}, [torch.zeros(1)], 3, {'model': 5}])
def test_a_file_of_something_else_is_no_state_dict(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / 'other.pt')
    with pytest.raises(CheckpointError, match='state dict'):
        load_vggt(tmp_path / 'other.pt')

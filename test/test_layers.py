"""The lower layers stay free of the upper ones: they import, and work, where no ROS is installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Package: what it may import beside the standard library, anywhere in its files.
ALLOWED = {
    'vggt': {'vggt', 'torch', 'numpy', 'safetensors', 'huggingface_hub', 'PIL'},
    'vggt_ros.core': {'vggt', 'vggt_ros', 'torch', 'numpy', 'cv2', 'scipy'},
}
# Package: what importing all of it must leave unloaded; these are imported where they are used.
LAZY = {
    'vggt': {'huggingface_hub', 'PIL', 'cv2', 'scipy', 'torchvision'},
    'vggt_ros.core': {'huggingface_hub', 'PIL', 'scipy', 'torchvision'},
}
# Package: what is not there while it is imported.
ROS = ['rclpy', 'sensor_msgs', 'rosbags', 'cv_bridge', 'tf2_ros']
OUT_OF_REACH = {'vggt': [*ROS, 'vggt_ros'], 'vggt_ros.core': ROS}

IMPORT_ALL = """
import importlib, pkgutil, sys

class OutOfReach:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(f'{{name}} is out of reach')

sys.meta_path.insert(0, OutOfReach())
import torch
flags = lambda: (torch.get_default_dtype(), torch.is_grad_enabled(), torch.backends.cuda.matmul.allow_tf32,
                 torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision(), torch.get_num_threads(),
                 torch.initial_seed())
before = flags()
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, {package!r} + '.'):
    importlib.import_module(module.name)
assert flags() == before, 'importing changed a global torch flag'
loaded = {{name.split('.')[0] for name in sys.modules}} & {lazy!r}
assert not loaded, f'importing loaded {{loaded}}'
"""


@pytest.mark.parametrize('package', sorted(ALLOWED))
def test_package_imports_alone_and_in_silence(package: str) -> None:
    code = IMPORT_ALL.format(blocked=OUT_OF_REACH[package], package=package, lazy=LAZY[package])
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ''
    assert done.stderr == ''


@pytest.mark.parametrize('package', sorted(ALLOWED))
def test_package_names_no_other_layer(package: str) -> None:
    allowed = ALLOWED[package] | set(sys.stdlib_module_names)
    files = sorted((ROOT / package.replace('.', '/')).rglob('*.py'))
    assert files
    foreign = {f'{path.relative_to(ROOT)} imports {name}' for path in files for name in imported(path) - allowed}
    assert not foreign


def test_core_knows_nothing_of_the_files_beside_it() -> None:
    files = sorted((ROOT / 'vggt_ros/core').rglob('*.py'))
    nodes = [node for path in files for node in ast.walk(ast.parse(path.read_text()))]
    modules = {node.module or '' for node in nodes if isinstance(node, ast.ImportFrom)}
    ours = {module for module in modules if module.split('.')[0] == 'vggt_ros'}
    assert ours
    assert {module for module in ours if not module.startswith('vggt_ros.core.')} == set()


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, also inside functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split('.')[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split('.')[0])
    return names


def test_network_stays_readable() -> None:
    """A reader follows the network from model.py down in ten minutes: no file over about 250 lines."""
    lengths = {path.name: len(path.read_text().splitlines()) for path in (ROOT / 'vggt').rglob('*.py')}
    assert {name: length for name, length in lengths.items() if length > 260} == {}

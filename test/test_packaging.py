"""What colcon, rosdep and pip are told, against what the code does."""

import ast
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()
# Names of ROS packages; what else is imported is Python's own or pip's.
ROS = re.compile(
    r'^(rclpy|ament_index_python|launch\w*|\w+_msgs(_py)?|std_srvs|\w+_interfaces|tf2_ros|tf_transformations|cv_bridge)$'
)
# Where the name to import is not the name to install.
PIP_NAMES = {'cv2': 'opencv-python-headless', 'PIL': 'pillow', 'ruamel': 'ruamel.yaml'}


def imported_packages(*folders):
    names = set()
    for folder in folders:
        for path in (ROOT / folder).rglob('*.py'):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names.update(alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    names.add(node.module)
    return {name.split('.')[0] for name in names}


def requirements(*names):
    lines = [line for name in names for line in (ROOT / 'requirements' / f'{name}.txt').read_text().splitlines()]
    return [line.split('#')[0].strip() for line in lines if line.split('#')[0].strip()]


def name_of(requirement):
    return re.match(r'[\w.-]+', requirement)[0].lower().replace('_', '-')


def test_every_imported_ros_package_is_a_dependency():
    declared = {element.text for element in MANIFEST.iter('exec_depend')}
    used = {name for name in imported_packages('vggt_ros', 'vggt', 'launch') if ROS.match(name)}
    assert {'rclpy', 'sensor_msgs', 'tf2_ros'} <= used
    assert used <= declared


def test_every_other_import_is_installed_by_pip_and_by_the_makefile():
    ours = {'vggt', 'vggt_ros', '__future__'}
    used = {
        PIP_NAMES.get(name, name).lower().replace('_', '-')
        for name in imported_packages('vggt_ros', 'vggt') - ours - sys.stdlib_module_names
        if not ROS.match(name)
    }
    by_pip = {name_of(line) for line in re.search(r'install_requires=\[(.*?)\]', SETUP, re.DOTALL)[1].split("'")[1::2]}
    by_make = {name_of(line) for line in requirements('torch-cpu', 'numerics', 'runtime')}
    extra = set()
    for name in ('studio', 'batch'):
        of_it = {name_of(line) for line in re.search(rf"'{name}': \[(.*?)\]", SETUP)[1].split("'")[1::2]}
        assert of_it == {name_of(line) for line in requirements(name)}
        extra |= of_it
    extra.add('starlette')  # gradio's own foundation
    assert used - by_pip <= extra
    assert used - by_make <= extra


def test_only_the_web_page_knows_the_web():
    web = {'gradio', 'viser', 'starlette', 'fastapi', 'uvicorn', 'playwright'}
    for path in [*(ROOT / 'vggt_ros').rglob('*.py'), *(ROOT / 'vggt').rglob('*.py')]:
        if 'studio' not in path.parts:
            text = path.read_text()
            assert not re.search(rf'^\s*(import|from) ({"|".join(web)})\b', text, re.MULTILINE), path
            assert path.name == 'cli.py' or 'vggt_ros.studio' not in text, path


def test_every_requirement_is_pinned():
    for path in (ROOT / 'requirements').glob('*.txt'):
        for line in requirements(path.stem):
            assert re.match(r'^[\w.-]+==[\w.]+( ; .+)?$', line), f'{path.name}: {line}'


def test_one_version_is_told_everywhere():
    version = MANIFEST.findtext('version')
    assert f"version='{version}'" in SETUP
    changelog = (ROOT / 'CHANGELOG.rst').read_text()
    assert 'Forthcoming' in changelog or f'\n{version} (' in changelog


SETUP = (ROOT / 'setup.py').read_text()


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp('wheel')
    # Built from a copy: a build in the repository leaves its leftovers for the next one.
    for name in ('vggt', 'vggt_ros', 'launch', 'config', 'rviz', 'foxglove', 'resource', 'scripts'):
        without_caches = shutil.ignore_patterns('__pycache__')
        shutil.copytree(ROOT / name, folder / 'source' / name, ignore=without_caches)
    for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'package.xml', 'LICENSE'):
        shutil.copy(ROOT / name, folder / 'source' / name)
    command = [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '-w', str(folder)]
    subprocess.run([*command, str(folder / 'source')], check=True)
    (path,) = folder.glob('*.whl')
    return zipfile.ZipFile(path)


def test_the_wheel_runs_the_demo_by_itself(wheel):
    names = set(wheel.namelist())
    clip = [name for name in names if name.startswith('vggt_ros/data/cabinet/')]
    assert {'vggt_ros/data/cabinet/camera.json', 'vggt_ros/data/cabinet/ATTRIBUTION.md'} <= set(clip)
    assert sum(name.endswith('.jpg') for name in clip) == 58
    shipped = {str(path.relative_to(ROOT)) for path in (ROOT / 'vggt' / 'weights').rglob('*') if path.is_file()}
    assert shipped <= names
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / 'vggt_ros' / 'templates').glob('*')}
    assert templates <= names


def test_the_wheel_holds_our_packages_and_no_others(wheel):
    tops = {name.split('/')[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.startswith('vggt_ros-')} == {'vggt', 'vggt_ros'}
    # pip would put it into bin/, in front of Node.js.
    assert not [name for name in wheel.namelist() if name.endswith('/scripts/node')]


def test_ros2_run_finds_the_node_where_it_looks(wheel):
    (node,) = (entry for entry in wheel.infolist() if entry.filename.endswith('lib/vggt_ros/node'))
    assert node.external_attr >> 16 & 0o111, 'not executable'
    assert wheel.read(node).startswith(b'#!/usr/bin/env python3\n')
    shared = {entry.partition('/share/')[2] for entry in wheel.namelist()}
    assert {'ament_index/resource_index/packages/vggt_ros', 'vggt_ros/package.xml'} <= shared
    patterns = (('launch', '*.launch.py'), ('config', '*.yaml'), ('rviz', '*.rviz'), ('foxglove', '*.json'))
    for folder, pattern in patterns:
        assert {f'vggt_ros/{folder}/{path.name}' for path in (ROOT / folder).glob(pattern)} <= shared


def test_what_is_installed_needs_nothing_that_is_not():
    assert imported_packages('vggt', 'vggt_ros').isdisjoint({'training', 'pypi_ros', 'test', 'benchmarks'})


def test_the_offline_command_line_starts_where_ros_is_not_installed():
    hidden = [name for name in imported_packages('vggt_ros', 'launch') if ROS.match(name)]
    script = f'import sys\nfor name in {hidden}: sys.modules[name] = None\n'
    script += "sys.argv = ['vggt_ros', 'run', '--help']\nfrom vggt_ros.cli import main\nmain()\n"
    shown = subprocess.run([sys.executable, '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert '--out' in shown.stdout


def test_images_are_made_for_every_distribution_with_the_numpy_it_wants():
    from vggt_ros.distro import DISTROS

    bake = (ROOT / 'docker/bake.hcl').read_text()
    (matrix,) = re.findall(r'matrix\s*= { distro = \[(.*)\] }', bake)
    supported = {one.name: one for one in DISTROS if one.name != 'kilted'}  # ends in November 2026
    assert set(re.findall(r'"(\w+)"', matrix)) == set(supported)
    dockerfile = (ROOT / 'docker/Dockerfile').read_text()
    (old,) = re.findall(r'=~ \^\(([\w|]+)\)\$ ]]; then echo .numpy<2', dockerfile)
    assert set(old.split('|')) == {one.name for one in DISTROS if one.numpy == 1}
    torch = requirements('torch-cpu')
    assert torch == re.findall(r'torch==[\d.]+', dockerfile)

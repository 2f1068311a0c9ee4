"""Add to this Python environment what the ROS 2 wheels of PyPI lack, and only where it is missing.

    python -m pypi_ros.install          # from the repository; prints one line a package
    python -m pypi_ros.install --list   # only says what is there

A package that came with a ROS installation is never touched. tf2_msgs is built with rosidl (needs cmake and a C++
compiler); the others are small Python packages of the same name and API, copied into site-packages.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
STAND_INS = ('cv_bridge', 'sensor_msgs_py', 'tf_transformations', 'tf2_ros')
MARKER = 'PYPI_ROS'  # a file inside every package that this script put there; holds the hash of its sources


class InstallError(Exception):
    """The environment lacks something that this script cannot add."""


def state_of(package: str) -> str:
    """'missing', 'real' (not ours: leave it), 'current' (ours, as in this checkout) or 'outdated' (ours, older)."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return 'missing'
    marker = Path(next(iter(spec.submodule_search_locations))) / MARKER
    if not marker.is_file():
        return 'real'
    return 'current' if marker.read_text().strip() == hash_of(source_of(package)) else 'outdated'


def source_of(package: str) -> Path:
    return HERE / 'tf2_msgs' if package == 'tf2_msgs' else HERE / 'stand_ins' / package


def hash_of(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob('*')):
        if path.is_file() and path.suffix != '.pyc':
            digest.update(str(path.relative_to(folder)).encode() + b'\0' + path.read_bytes() + b'\0')
    return digest.hexdigest()


def install_stand_in(package: str) -> None:
    """Copy one of the Python packages into site-packages."""
    target = site_packages() / package
    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source_of(package), target, ignore=shutil.ignore_patterns('__pycache__'))
    (target / MARKER).write_text(hash_of(source_of(package)) + '\n')


def build_tf2_msgs() -> None:
    """Generate, compile and install tf2_msgs into this environment, in the layout of the ros-* wheels."""
    for tool in ('cmake', 'cc', 'c++'):
        if shutil.which(tool) is None:
            raise InstallError(f'{tool} is not on the PATH; install cmake and a C++ compiler (apt: cmake g++)')
    environment = {
        **os.environ,
        'AMENT_PREFIX_PATH': sys.prefix,
        'CMAKE_PREFIX_PATH': sys.prefix,
        'LD_LIBRARY_PATH': os.pathsep.join(filter(None, (f'{sys.prefix}/lib', os.environ.get('LD_LIBRARY_PATH')))),
        # rosidl starts its generators by name, with this environment's Python
        'PATH': os.pathsep.join((f'{sys.prefix}/bin', os.environ.get('PATH', ''))),
    }
    with tempfile.TemporaryDirectory(prefix='tf2_msgs_') as build:
        configure = [
            'cmake', '-S', str(source_of('tf2_msgs')), '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DBUILD_TESTING=OFF',
            f'-DCMAKE_INSTALL_PREFIX={sys.prefix}', f'-DPython3_EXECUTABLE={sys.executable}',
        ]  # fmt: skip
        compile_ = ['cmake', '--build', build, '--parallel', str(os.cpu_count() or 1)]
        for command in (configure, compile_, ['cmake', '--install', build]):
            result = subprocess.run(command, env=environment, text=True, capture_output=True, check=False)
            if result.returncode != 0:
                raise InstallError(f'{" ".join(command)} failed:\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}')
    (site_packages() / 'tf2_msgs' / MARKER).write_text(hash_of(source_of('tf2_msgs')) + '\n')


def site_packages() -> Path:
    return Path(sysconfig.get_path('purelib'))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog='python -m pypi_ros.install', description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--list', action='store_true', help='only say what is there')
    options = parser.parse_args(arguments)
    if importlib.util.find_spec('rclpy') is None:
        print('rclpy cannot be imported: source a ROS 2 installation or pip install -r requirements/ros-pypi.txt')
        return 1
    for package in ('tf2_msgs', *STAND_INS):
        state = state_of(package)
        if not options.list and state in ('missing', 'outdated'):
            try:
                if package == 'tf2_msgs':
                    build_tf2_msgs()
                else:
                    install_stand_in(package)
            except InstallError as error:
                print(f'{package}: {error}')
                return 1
            state += ', now installed'
        print(f'{package}: {state}')
    return 0


if __name__ == '__main__':
    sys.exit(main())

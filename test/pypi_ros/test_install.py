"""The installer never touches a package that is not its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from pypi_ros import install

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages that comes first on the path, with nothing of pypi_ros or ROS behind it but rclpy."""
    monkeypatch.setattr(install, 'site_packages', lambda: tmp_path)
    names = [*install.STAND_INS, 'tf2_msgs']
    for name in [name for name in sys.modules if name.partition('.')[0] in names]:
        monkeypatch.delitem(sys.modules, name)
    others = [path for path in sys.path if not any((Path(path) / name).is_dir() for name in names)]
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *others])
    return tmp_path


def test_a_missing_package_is_copied_and_then_current(site):
    assert install.state_of('cv_bridge') == 'missing'
    install.install_stand_in('cv_bridge')
    assert install.state_of('cv_bridge') == 'current'
    assert (site / 'cv_bridge' / 'core.py').is_file()


def test_an_older_copy_is_replaced_with_all_its_files(site):
    install.install_stand_in('tf2_ros')
    (site / 'tf2_ros' / install.MARKER).write_text('an older hash\n')
    (site / 'tf2_ros' / 'file_of_an_older_version.py').touch()
    assert install.state_of('tf2_ros') == 'outdated'
    install.install_stand_in('tf2_ros')
    assert install.state_of('tf2_ros') == 'current'
    assert not (site / 'tf2_ros' / 'file_of_an_older_version.py').exists()


def test_a_real_package_is_left_alone(site, monkeypatch, capsys):
    for name in (*install.STAND_INS, 'tf2_msgs'):
        (site / name).mkdir()
        (site / name / '__init__.py').write_text('# came with ROS\n')
    monkeypatch.setattr(install.importlib.util, 'find_spec', find_spec_with_rclpy(install.importlib.util.find_spec))
    assert install.main([]) == 0
    assert capsys.readouterr().out.count(': real\n') == 5
    assert (site / 'tf2_ros' / '__init__.py').read_text() == '# came with ROS\n'


def test_without_rclpy_one_line_says_what_to_do(site, monkeypatch, capsys):
    monkeypatch.setattr(install.importlib.util, 'find_spec', lambda name: None)
    assert install.main([]) == 1
    assert 'requirements/ros-pypi.txt' in capsys.readouterr().out


def test_without_cmake_one_line_says_what_to_do(monkeypatch):
    monkeypatch.setenv('PATH', '/nonexistent')
    with pytest.raises(install.InstallError, match='cmake is not on the PATH'):
        install.build_tf2_msgs()


def test_listing_changes_nothing():
    shown = subprocess.run(
        [sys.executable, '-m', 'pypi_ros.install', '--list'], cwd=REPOSITORY, capture_output=True, text=True, check=True
    ).stdout
    assert [line.split(':')[0] for line in shown.splitlines()] == ['tf2_msgs', *install.STAND_INS]
    assert 'installed' not in shown


def find_spec_with_rclpy(find_spec):
    """find_spec that always finds rclpy: the test is about what lies beside it."""
    return lambda name: object() if name == 'rclpy' else find_spec(name)

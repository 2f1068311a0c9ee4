"""The same tests for pypi_ros and for the real packages: whichever of the two the environment imports is tested.

With VGGT_ROS_EXPECT_REAL=1 a run fails where it would test a stand-in, so that a green run proves something about the
real packages (put them first on PYTHONPATH, or source a ROS 2 installation).
"""

import importlib
import os
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='neither a ROS 2 installation nor the ROS 2 wheels of PyPI are here')

import rclpy
from rclpy.context import Context

from vggt_ros.dds import free_domain

PACKAGES = ('tf2_msgs', 'tf2_ros', 'cv_bridge', 'sensor_msgs_py', 'tf_transformations')


def is_stand_in(package):
    module = importlib.import_module(package)
    return (Path(module.__file__).parent / 'PYPI_ROS').is_file()


def pytest_report_header(config):
    return [f'{name}: {"stand-in" if is_stand_in(name) else "real"}' for name in PACKAGES]


@pytest.fixture(autouse=True)
def _the_real_package_is_tested_when_that_is_asked_for(request):
    package = getattr(request.module, 'PACKAGE', None)
    if os.environ.get('VGGT_ROS_EXPECT_REAL') == '1' and package is not None:
        assert not is_stand_in(package), f'VGGT_ROS_EXPECT_REAL=1, but {package} is the stand-in'


@pytest.fixture
def only_of_the_stand_in(request):
    """Skip where the real package is imported: the test is about what the stand-in leaves out."""
    if not is_stand_in(request.module.PACKAGE):
        pytest.skip('the real package has all of its names')


@pytest.fixture
def context():
    """An rclpy context in a domain of its own, so that nothing else on the machine is heard."""
    context = Context()
    rclpy.init(context=context, domain_id=free_domain())
    yield context
    context.try_shutdown()

"""Starts the programs of a colcon install space and stops them again: python .ci/check_install.py INSTALL_SPACE.

Run with the setup.bash of that space sourced. Stands in for `ros2 run`, which PyPI does not have.
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

DEADLINE_S = 60.0  # a loaded machine imports torch in ten


def main(space):
    import vggt_ros

    programs = Path(space).resolve() / 'vggt_ros' / 'lib' / 'vggt_ros'
    assert Path(space).resolve() in Path(vggt_ros.__file__).parents, f'imported {vggt_ros.__file__}, not from {space}'
    subprocess.run([programs / 'vggt_ros', '--help'], check=True, stdout=subprocess.DEVNULL)
    print('lib/vggt_ros/vggt_ros --help: ok')

    domain = random.randint(1, 100)
    environment = {**os.environ, 'ROS_DOMAIN_ID': str(domain)}
    # Inactive: that the node works is for the tests to say; here it must start, be seen and stop.
    options = ['--ros-args', '-r', '__node:=from_install_space', '-p', 'autostart:=false']
    node = subprocess.Popen([programs / 'node', *options], env=environment)
    try:
        wait_for_node('from_install_space', domain, node)
        node.send_signal(signal.SIGINT)
        assert node.wait(DEADLINE_S) == 0, f'the node ended with {node.returncode} after Ctrl-C'
    finally:
        node.kill()
    print('lib/vggt_ros/node: starts, is seen by others, stops cleanly')


def wait_for_node(name, domain, process):
    import rclpy

    rclpy.init(domain_id=domain)
    watcher = rclpy.create_node('watcher')
    end = time.monotonic() + DEADLINE_S
    while name not in watcher.get_node_names():
        assert process.poll() is None, f'the node ended with {process.returncode} before anybody saw it'
        assert time.monotonic() < end, f'nobody saw {name} within {DEADLINE_S} s; there are {watcher.get_node_names()}'
        time.sleep(0.1)
    time.sleep(1.0)  # long enough to reach its spin
    watcher.destroy_node()
    rclpy.shutdown()


if __name__ == '__main__':
    main(*sys.argv[1:])

"""Keep sros2/vggt.policy.xml equal to the code: python -m scripts.sros_policy [--check]."""

from __future__ import annotations

import sys
from pathlib import Path

from vggt_ros.topics import INPUTS, NODE_NAME, SERVICES, TOPICS

FILE = Path(__file__).resolve().parent.parent / 'sros2/vggt.policy.xml'

# What every node of rclpy has, what a lifecycle node has besides, and what listens to TF. Source: ros2/rclpy, node.py
# and lifecycle/node.py; ros2/geometry2, tf2_ros_py/tf2_ros/buffer.py; ros2/sros2, test/policies/common.
NODE_PUBLISHES = ('rosout', '/parameter_events', '/diagnostics', '~/transition_event')
NODE_SUBSCRIBES = ('/parameter_events', '/clock', '/tf', '/tf_static')
NODE_SERVICES = (
    '~/describe_parameters', '~/get_parameter_types', '~/get_parameters', '~/list_parameters', '~/set_parameters',
    '~/set_parameters_atomically', '~/get_type_description', '~/change_state', '~/get_state', '~/get_available_states',
    '~/get_available_transitions', '~/get_transition_graph', 'tf2_frames',
)  # fmt: skip
CAMERA = {'image': ('/camera/image_raw', '/camera/image_raw/compressed'), 'camera_info': ('/camera/camera_info',)}


def policy() -> str:
    """The policy of a node called /vggt in the enclave /vggt."""
    inputs = [topic for one in INPUTS for topic in CAMERA.get(one.name, (one.name,))]
    blocks = [
        _block('topics', 'publish', 'topic', [*(one.name for one in TOPICS), *NODE_PUBLISHES]),
        _block('topics', 'subscribe', 'topic', [*inputs, *NODE_SUBSCRIBES]),
        _block('services', 'reply', 'service', [*(one.name for one in SERVICES), *NODE_SERVICES]),
    ]
    name = NODE_NAME.lstrip('/')
    return '\n'.join([
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<!-- What the node may do, made by scripts/sros_policy.py; everything else is denied. Put in the names of',
        '     your camera and sensors; a rig has ~/NAME/points and so on for each of its cameras. docs/security.md has',
        '     the commands. -->',
        '<policy version="0.2.0">',
        '  <enclaves>',
        f'    <enclave path="{NODE_NAME}">',
        '      <profiles>',
        f'        <profile ns="/" node="{name}">',
        *blocks,
        '        </profile>',
        '      </profiles>',
        '    </enclave>',
        '  </enclaves>',
        '</policy>',
        '',
    ])  # fmt: skip


def _block(kind: str, rule: str, element: str, names: list[str]) -> str:
    lines = [f'            <{element}>{name}</{element}>' for name in dict.fromkeys(names)]
    return '\n'.join([f'          <{kind} {rule}="ALLOW">', *lines, f'          </{kind}>'])


def main(arguments: list[str]) -> int:
    """Write the policy, or with --check only say whether it is up to date."""
    if '--check' in arguments:
        return int(FILE.read_text(encoding='utf-8') != policy())
    FILE.write_text(policy(), encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

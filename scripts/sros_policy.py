"""Keep the policies in sros2/ equal to the code: python -m scripts.sros_policy [--check]."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from vggt_ros.topics import INPUTS, NODE_NAME, SERVICES, TOPICS

FOLDER = Path(__file__).resolve().parent.parent / 'sros2'

# What every node of rclpy has, in any namespace, what a lifecycle node has besides, and what listens to TF. Source:
# ros2/rclpy, node.py and lifecycle/node.py; ros2/geometry2, tf2_ros_py/tf2_ros/buffer.py; ros2/sros2,
# test/policies/common.
PUBLISHES = ('/rosout', '/parameter_events', '/diagnostics')
SUBSCRIBES = ('/parameter_events', '/clock')
SERVES = (
    '~/describe_parameters', '~/get_parameter_types', '~/get_parameters', '~/list_parameters', '~/set_parameters',
    '~/set_parameters_atomically', '~/get_type_description',
)  # fmt: skip
LIFECYCLE = (
    '~/change_state', '~/get_state', '~/get_available_states', '~/get_available_transitions', '~/get_transition_graph',
)  # fmt: skip
TF = ('/tf', '/tf_static')
CAMERA = {'image': ('image_raw', 'image_raw/compressed'), 'camera_info': ('camera_info',)}
RELAY = ('~/image_rect/compressed', '~/camera_info', '~/mask')
ROBOTS = ('robot_1', 'robot_2')


def policies() -> dict[str, str]:
    """File name -> policy, of each executable in an enclave of its name."""
    node = NODE_NAME.lstrip('/')
    robots = [_node_profile(f'/{robot}', node, 'camera/', TF_OF_A_ROBOT) for robot in ROBOTS]
    return {
        'vggt.policy.xml': _policy(NODE_NAME, [_node_profile('/', node, '/camera/', TF)], (
            'What the node may do, made by scripts/sros_policy.py; everything else is denied. Put in the names of',
            'your camera and sensors; a rig has ~/NAME/points and so on for each of its cameras. docs/security.md has',
            'the commands.')),
        'relay.policy.xml': _policy('/relay', [_relay_profile()], (
            'What the relay may do, made by scripts/sros_policy.py; everything else is denied. Put in the names of',
            'your camera. docs/security.md has the commands.')),
        'fleet.policy.xml': _policy('/fleet', robots, (
            'What the nodes of a fleet may do, made by scripts/sros_policy.py; everything else is denied. One process',
            'has one enclave, with a profile for each robot: put in their names, and those of their cameras and',
            'sensors. With shared_tf transforms are on /tf and /tf_static. docs/security.md has the commands.')),
    }  # fmt: skip


TF_OF_A_ROBOT = ('tf', 'tf_static')  # in its namespace


def _node_profile(namespace: str, name: str, camera: str, tf: Sequence[str]) -> str:
    cameras = {key: [camera + topic for topic in topics] for key, topics in CAMERA.items()}
    inputs = [topic for one in INPUTS for topic in cameras.get(one.name, [one.name])]
    renamed = dict(zip(TF, tf, strict=True))
    topics = [renamed.get(one.name, one.name) for one in TOPICS]
    return _profile(
        namespace,
        name,
        [*topics, *PUBLISHES, '~/transition_event'],
        [*inputs, *SUBSCRIBES, *tf],
        [*(one.name for one in SERVICES), *SERVES, *LIFECYCLE, 'tf2_frames'],
    )


def _relay_profile() -> str:
    camera = [f'/camera/{topic}' for topics in CAMERA.values() for topic in topics]
    return _profile('/', 'relay', [*RELAY, *PUBLISHES], [*camera, *SUBSCRIBES], SERVES)


def _profile(
    namespace: str, name: str, publishes: Sequence[str], subscribes: Sequence[str], serves: Sequence[str]
) -> str:
    return '\n'.join([
        f'        <profile ns="{namespace}" node="{name}">',
        _block('topics', 'publish', 'topic', publishes),
        _block('topics', 'subscribe', 'topic', subscribes),
        _block('services', 'reply', 'service', serves),
        '        </profile>',
    ])  # fmt: skip


def _policy(enclave: str, profiles: Sequence[str], comment: Sequence[str]) -> str:
    return '\n'.join([
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<!-- ' + '\n     '.join(comment) + ' -->',
        '<policy version="0.2.0">',
        '  <enclaves>',
        f'    <enclave path="{enclave}">',
        '      <profiles>',
        *profiles,
        '      </profiles>',
        '    </enclave>',
        '  </enclaves>',
        '</policy>',
        '',
    ])  # fmt: skip


def _block(kind: str, rule: str, element: str, names: Sequence[str]) -> str:
    lines = [f'            <{element}>{name}</{element}>' for name in dict.fromkeys(names)]
    return '\n'.join([f'          <{kind} {rule}="ALLOW">', *lines, f'          </{kind}>'])


def main(arguments: list[str]) -> int:
    """Write the policies, or with --check only name those that are not up to date."""
    behind = [
        name for name, text in policies().items()
        if not (FOLDER / name).is_file() or (FOLDER / name).read_text(encoding='utf-8') != text
    ]  # fmt: skip
    if '--check' in arguments:
        print('\n'.join(behind))
        return int(bool(behind))
    for name in behind:
        (FOLDER / name).write_text(policies()[name], encoding='utf-8')
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))

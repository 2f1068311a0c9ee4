"""The documentation says nothing that is not so: names it quotes exist, sentences it quotes are those of the code."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from vggt_ros.core.config import settings
from vggt_ros.topics import INPUTS, SERVICES, TOPICS, resolve

ROOT = Path(__file__).resolve().parents[2]
# Written for users; the others are reports of their authors.
PAGES = [
    path
    for path in sorted([*(ROOT / 'docs').glob('*.md'), ROOT / 'README.md'])
    if path.stem not in ('benchmarks', 'training', 'network_facts', 'contract')
]
SETTINGS = {one.name for one in settings()}
# Arguments of other packages' programs that the pages show, and remapping rules of a command line.
OF_OTHERS = {
    '__node', 'address', 'publish_tf', 'approx_sync', 'output_frame', 'depth', 'depth_camera_info', 'scan',
}  # fmt: skip


def text_of(page: Path) -> str:
    return page.read_text(encoding='utf-8')


def launch_arguments() -> set[str]:
    """Names in the Argument(...) calls of the launch files and of what they share, and those made from tables."""
    names = {f'{topic.name.lstrip("~/").replace("/", "_")}_topic' for topic in TOPICS}
    names |= {one.name for one in INPUTS} | SETTINGS
    for path in [*(ROOT / 'launch').glob('*.py'), ROOT / 'vggt_ros/launch_parts.py']:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'Argument':
                names.update(one.value for one in node.args[:1] if isinstance(one, ast.Constant))
    return names


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_argument_that_is_set_exists(page: Path) -> None:
    known = launch_arguments() | OF_OTHERS
    set_here = set(re.findall(r'(?<![\w/~])(\w+):=', text_of(page)))
    assert set_here <= known


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_topic_and_service_of_ours_exists(page: Path) -> None:
    ours = {resolve(one.name) for one in (*TOPICS, *SERVICES)}
    of_a_camera = {f'/vggt/left{one.name[1:]}' for one in TOPICS if one.per_camera}
    of_every_lifecycle_node = {'/vggt/change_state', '/vggt/get_state'}
    named = {name.rstrip('.') for name in re.findall(r'(?<!\w)/vggt/[\w/.]+', text_of(page))}
    named = {name.split('.')[0] for name in named if not name.endswith(('.py', '.xml'))}  # of qos_overrides too
    assert named <= ours | of_a_camera | of_every_lifecycle_node


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = re.findall(r'`((?:config|docker|foxglove|sros2|docs|scripts|vggt_ros|rviz)/[\w./]+\.\w+)`', text_of(page))
    assert [name for name in named if not (ROOT / name).exists()] == []
    launched = re.findall(r'ros2 launch vggt_ros ([\w.]+)', text_of(page))
    assert [name for name in launched if name != 'FILE' and not (ROOT / 'launch' / name).exists()] == []


def test_sentences_quoted_for_finding_faults_are_those_of_the_node() -> None:
    table = text_of(ROOT / 'docs/troubleshooting.md').split('## The depth image')[0]
    quoted = [line.split('|')[2].strip() for line in table.splitlines() if line.startswith('|')]
    sentences = [cell.strip('`') for cell in quoted if cell.startswith('`') and cell.endswith('`')]
    assert len(sentences) > 6
    code = ' '.join(path.read_text() for path in (ROOT / 'vggt_ros').rglob('*.py'))
    code = re.sub(r'\{[^}]*\}', '...', re.sub(r"'\s*\n\s*f?'", '', code))  # f-strings over several lines
    for sentence in sentences:
        for part in sentence.split('...'):
            assert part.strip() in code, sentence

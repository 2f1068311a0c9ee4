"""Flame graphs of the node's worker below each other, in percent of what it does.

    python -m benchmarks.pipeline --seconds 20 --output-resolution input &
    py-spy record --pid "$(pgrep -f vggt_ros.node)" --duration 6 --rate 250 --native --threads --format raw -o now.txt
    python -m benchmarks.flame before.txt now.txt --out flame.svg

Method: py-spy (PyPI) looks at the threads of the running node so many times a second, at Python and C alike, and counts
those that compute or wait for a core. Of its stacks this draws what the worker does with an image, from Worker._take_in
on; what is too narrow to be read is left out, and so are stacks that go deeper than --depth.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

ROOT = '_take_in'  # of vggt_ros.live.worker: one image
WIDTH, ROW, MARGIN = 1200, 17, 8
LETTER = 6.2  # width of one at this size of type
LEAST = 3  # pixels of a box that is drawn
COLOURS = (  # the first whose word is part of where a function stands
    ('#c9c9c9', ('preprocessing', 'PIL', 'imaging')),
    ('#8fb8de', ('rclpy', 'outputs', 'tf2_ros', 'fastdds', 'fastcdr', 'rmw', 'librcl', 'rosidl', '_s__')),
    ('#f2b880', ('encode', 'clouds', 'cdr', 'messages', 'cv2')),
    ('#a8d5a2', ('vggt_ros/core', 'resolution')),
)
OTHER = '#e8e0c9'


@dataclass
class Call:
    """A function where it was called from: how often it was seen, and what it called."""

    where: str = ''
    count: int = 0
    calls: dict[str, Call] = field(default_factory=dict)

    def add(self, frames: list[str], count: int) -> None:
        """Count a stack, outermost first."""
        call = self
        for frame in frames:
            name, _, where = frame.partition(' (')
            call = call.calls.setdefault(name, Call(where))
            call.count += count


def read(path: Path) -> Call:
    """The stacks of py-spy's raw format, `outermost;...;innermost count`, from ROOT on, but for what has no name."""
    top = Call()
    for line in path.read_text().splitlines():
        stack, _, count = line.rpartition(' ')
        frames = stack.split(';')
        start = next((i for i, frame in enumerate(frames) if frame.startswith(f'{ROOT} (')), None)
        if start is not None:
            top.add([frame for frame in frames[start:] if not frame.startswith('0x')], int(count))
    return top


def boxes(call: Call, name: str, x: float, y: int, pixels: float, share: float, depth: int) -> list[str]:
    """SVG of a function and all that it calls.

    Args:
        call, name: the function.
        x, y: of its upper left corner.
        pixels, share: of one sample, the share in percent.
        depth: rows left.
    """
    width = call.count * pixels
    if width < LEAST or depth == 0:
        return []
    colour = next((colour for colour, words in COLOURS if any(word in call.where for word in words)), OTHER)
    drawn = [f'<rect x="{x:.1f}" y="{y}" width="{width - 0.5:.1f}" height="{ROW - 1}" fill="{colour}"/>']
    name = '::'.join(name.split('::')[-2:])
    letters, text = int((width - 4) / LETTER), f'{name} {call.count * share:.0f}'
    text = text if len(text) <= letters else name[: max(letters, 0)]
    if len(text) > 2:
        drawn.append(f'<text x="{x + 2:.1f}" y="{y + ROW - 5}">{escape(text)}</text>')
    for inner, one in sorted(call.calls.items(), key=lambda item: -item[1].count):
        drawn += boxes(one, inner, x, y + ROW, pixels, share, depth - 1)
        x += one.count * pixels
    return drawn


def picture(graphs: dict[str, Call], depth: int) -> str:
    """All graphs as one SVG, each as wide as the picture."""
    drawn, y = [], MARGIN
    for title, top in graphs.items():
        root = top.calls[ROOT]
        drawn.append(f'<text x="{MARGIN}" y="{y + 12}" font-weight="bold">{escape(title)}, percent</text>')
        drawn += boxes(root, ROOT, MARGIN, y + ROW, (WIDTH - 2 * MARGIN) / root.count, 100 / root.count, depth)
        y += (depth + 2) * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" font-family="monospace" font-size="10.5">'
        f'<rect width="{WIDTH}" height="{y}" fill="white"/>{"".join(drawn)}</svg>\n'
    )


def main() -> None:
    """Draw the stacks of each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('stacks', type=Path, nargs='+', help="py-spy's raw format; the names become titles")
    parser.add_argument('--depth', type=int, default=12, help='rows')
    parser.add_argument('--out', type=Path, required=True)
    arguments = parser.parse_args()
    graphs = {path.stem.replace('_', ' '): read(path) for path in arguments.stacks}
    arguments.out.write_text(picture(graphs, arguments.depth))


if __name__ == '__main__':
    main()

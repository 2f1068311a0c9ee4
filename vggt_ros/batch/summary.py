"""The table of a batch: as text, summary.json and a page that links every report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from vggt_ros import __version__
from vggt_ros.batch.work import FAILED, Outcome
from vggt_ros.results.exports import write_atomically

HEAD = ('recording', 'state', 'frames', 'recorded', 'way', 'windows', 'poor seams', 'points', 'took')
POOR = ('refused', 'held')


def row(outcome: Outcome) -> dict[str, Any]:
    """What summary.json says of a recording: lengths in `unit`, times in seconds; null where there is no result."""
    summary = outcome.summary or {}
    seams = summary.get('seams', ())
    return {
        'name': outcome.job.name,
        'source': str(outcome.job.source),
        'state': outcome.state,
        'failure': outcome.words,
        'report': _report(outcome),
        **{name: summary.get(name) for name in ('frames', 'windows', 'points', 'recorded_s', 'path_length', 'unit')},
        'poor_seams': sum(seam['status'] in POOR for seam in seams) if summary else None,
        'wall_s': summary.get('wall_s'),
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """The batch as text, one line a recording; what failed says why below."""
    cells = [HEAD, *(_cells(row(one)) for one in outcomes)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEAD))]
    lines = [
        '  '.join(text.ljust(widths[i]) if i < 2 else text.rjust(widths[i]) for i, text in enumerate(line))
        for line in cells
    ]
    failures = [f'{one.job.name}: {one.words}' for one in outcomes if one.state == FAILED]
    return '\n'.join([*(line.rstrip() for line in lines), *failures]) + '\n'


def write(folder: Path, outcomes: Sequence[Outcome], waiting: int, wall_s: float) -> None:
    """summary.json, summary.txt and index.html, as far as the batch has come.

    Args:
        folder: of the batch.
        outcomes: so far.
        waiting: recordings still to come.
        wall_s: seconds since the start.
    """
    rows = [row(one) for one in outcomes]
    summary = {
        'vggt_ros': __version__,
        'recordings': len(rows) + waiting,
        **{state: sum(one['state'] == state for one in rows) for state in ('done', 'done before', 'failed')},
        'waiting': waiting,
        'wall_s': wall_s,
        'rows': rows,
    }
    write_atomically(folder / 'summary.json', json.dumps(summary, indent=2).encode())
    write_atomically(folder / 'summary.txt', table(outcomes).encode())
    write_atomically(folder / 'index.html', page(rows, waiting, wall_s).encode())


def page(rows: Sequence[dict[str, Any]], waiting: int, wall_s: float) -> str:
    """A page that needs no other file and no network; its links lead to the reports beside it."""
    failed = sum(one['state'] == FAILED for one in rows)
    frames = sum(one['frames'] or 0 for one in rows)
    facts = [
        (f'{len(rows) + waiting}', 'recordings'),
        (f'{len(rows) - failed}', 'done'),
        (f'{failed}', 'failed'),
        *([(f'{waiting}', 'to come')] if waiting else []),
        (f'{frames}', 'frames'),
        (f'{wall_s:.0f} s', 'since the start'),
    ]
    head = ''.join(f'<th{" class=number" if i > 1 else ""}>{escape(text)}</th>' for i, text in enumerate(HEAD))
    body = ''.join(_html_row(one) for one in rows)
    return Template(files('vggt_ros').joinpath('templates/report.html').read_text()).substitute(
        title='Batch',
        heading='Many recordings',
        subtitle='one line each, with a link to its report',
        facts=f'<div class="facts">{"".join(f"<div><b>{a}</b><span>{b}</span></div>" for a, b in facts)}</div>',
        notes='',
        sections=f'<section><div class="scroll"><table><tr>{head}</tr>{body}</table></div></section>',
        footer=f'vggt_ros {__version__}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC',
        script='',
    )


def _html_row(one: dict[str, Any]) -> str:
    name, state, *numbers = _cells(one)
    label = escape(name)
    if one['report']:
        label = f'<a href="{quote(one["report"])}">{label}</a>'
    grade = 'poor' if one['state'] == FAILED else 'good'
    words = f'<br><small>{escape(one["failure"])}</small>' if one['failure'] else ''
    cells = ''.join(f'<td class=number>{escape(text).replace(" ", "&nbsp;")}</td>' for text in numbers)
    first = f'<td title="{escape(one["source"])}">{label}{words}</td>'
    return f'<tr>{first}<td class={grade}>{escape(state)}</td>{cells}</tr>'


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    if one['frames'] is None:
        return (one['name'], one['state'], *('-',) * (len(HEAD) - 2))
    return (
        one['name'],
        one['state'],
        f'{one["frames"]}',
        f'{one["recorded_s"]:.1f} s',
        f'{one["path_length"]:.2f} {one["unit"]}',
        f'{one["windows"]}',
        f'{one["poor_seams"]}',
        f'{one["points"]}',
        f'{one["wall_s"]:.1f} s',
    )


def _report(outcome: Outcome) -> str | None:
    folder = outcome.job.failed if outcome.state == FAILED else outcome.job.out
    return f'{folder.name}/report.html' if (folder / 'report.html').is_file() else None

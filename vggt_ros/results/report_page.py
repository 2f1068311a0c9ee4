"""Report -> one self-contained HTML page: pictures, cloud from above and to turn, seams, timings."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterable
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from string import Template

import cv2
import numpy as np

from vggt_ros import __version__
from vggt_ros.core.placement import SeamStatus
from vggt_ros.encode import colour_depth
from vggt_ros.results.exports import frusta
from vggt_ros.results.report import Report

PICTURE_WIDTH = 400  # pixels; a pair is shown at most so wide
VIEWER_POINTS = 150_000  # 1.8 MB in the page
ABOVE_SIZE = 900  # pixels of the cloud seen from above
_STATUS = {
    SeamStatus.FIRST: ('first', 'first window: defines the map'),
    SeamStatus.ALIGNED: ('good', 'aligned on points'),
    SeamStatus.BRIDGED: ('good', 'bridged past a refused answer'),
    SeamStatus.DEGENERATE: ('fair', 'by camera poses only'),
    SeamStatus.REFUSED: ('poor', 'refused: no pose'),
    SeamStatus.HELD: ('poor', 'not known: held'),
}
_STAGE = {
    'read': ('other', 'read and decode'),
    'prepare': ('prepare', 'resize and copy in'),
    'network': ('network', 'network'),
    'adjust': ('adjust', 'bundle adjustment'),
    'align': ('align', 'align windows'),
    'map': ('map', 'map'),
    'loop': ('rest', 'close loops'),
    'encode': ('good', 'make messages'),
    'write': ('rest', 'write results'),
}


def render(report: Report, title: str = '3D from one camera') -> str:
    """The page as text; it needs no other file and no network."""
    sections = (
        _checks(report),
        _pictures(report),
        _cloud(report),
        _seams(report),
        _timings(report),
        _files(report),
        _settings(report),
    )
    viewer = files('vggt_ros').joinpath('templates/viewer.js').read_text()
    has_cloud = len(report.cloud[0]) > 0
    return Template(files('vggt_ros').joinpath('templates/report.html').read_text()).substitute(
        title=escape(f'{title}: {report.source}'),
        heading=escape(title),
        subtitle=escape(f'{report.source}, {report.model or "no model named"} on {report.device or "unknown device"}'),
        facts=_facts(report),
        notes=_notes(report),
        sections=''.join(sections),
        footer=f'vggt_ros {__version__}, {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC',
        script=f'{_viewer_data(report)}<script>{viewer}</script>' if has_cloud else '',
    )


def _facts(report: Report) -> str:
    frames = len(report.stamps_ns)
    seconds = (report.stamps_ns[-1] - report.stamps_ns[0]) / 1e9 if frames > 1 else 0.0
    facts = [
        (f'{frames}', f'frames in {seconds:.1f} s'),
        (f'{len(report.windows)}', 'windows') if report.windows else (f'{sum(report.messages.values())}', 'messages'),
        (f'{report.path_length:.2f} {report.unit}', 'way of the camera'),
        (f'{len(report.cloud[0]):,}'.replace(',', ' '), 'points in the map'),
    ]
    if report.wall_s and frames:
        facts.append((f'{frames / report.wall_s:.1f} / s', f'frames, in {report.wall_s:.1f} s of work'))
    outside = report.timings.outside_network
    if outside is not None:
        facts.append((f'{100 * outside:.0f} %', 'of the time outside the network'))
    return '<div class="facts">' + ''.join(f'<div><b>{a}</b><span>{b}</span></div>' for a, b in facts) + '</div>'


def _notes(report: Report) -> str:
    notes = [('poor', f'The run ended early: {report.failure}. What follows is what there was by then.')]
    notes = notes if report.failure else []
    if report.config.model.backend == 'fake':
        notes.append(('poor', 'No network ran: backend fake shows a flat wall, to test the plumbing.'))
    if not report.metric:
        text = 'one camera cannot know its scale; name a scale_source.'
        if report.scale.is_unknown:
            text = f'{report.scale.describe()}.'
        notes.append(('fair', f'Lengths are in units of the network, not metres: {text}'))
    unknown = (SeamStatus.HELD, SeamStatus.REFUSED)
    lost = sum(row.status in unknown and row.index > 0 for row in report.windows)
    if lost:
        notes.append(('poor', f'{lost} of {len(report.windows)} windows could not be placed and were held.'))
    notes += [('fair', note) for note in report.notes]
    return ''.join(f'<div class="note {kind}">{escape(text)}</div>' for kind, text in notes)


def _checks(report: Report) -> str:
    if not report.checks:
        return ''
    good = sum(check.is_good for check in report.checks)
    rows = ''.join(
        f'<tr><td class="{"good" if check.is_good else "poor"}">{"✓" if check.is_good else "✗"}</td>'
        f'<td>{escape(check.name)}</td><td class="soft">{escape(check.detail)}</td></tr>'
        for check in report.checks
    )
    return _section('Checks', f'{good} of {len(report.checks)} hold.', f'<table>{rows}</table>')


def _pictures(report: Report) -> str:
    if not report.pictures:
        return ''
    start = report.stamps_ns[0] if report.stamps_ns else report.pictures[0].stamp_ns
    figures = []
    for picture in report.pictures:
        known = picture.depth[np.isfinite(picture.depth)]
        span = f'depth {known.min():.2f} to {known.max():.2f} {report.unit}' if known.size else 'no depth known'
        share = 100 * known.size / picture.depth.size
        figures.append(
            f'<figure><div class="pair">{_jpeg(picture.image)}{_jpeg(colour_depth(picture.depth))}</div>'
            f'<figcaption>{(picture.stamp_ns - start) / 1e9:.2f} s, {span}, {share:.0f} % known</figcaption></figure>'
        )
    hint = 'What the camera saw, and the depth made of it: near red, far blue, unknown black.'
    return _section('Input and depth', hint, f'<div class="pairs">{"".join(figures)}</div>')


def _cloud(report: Report) -> str:
    if not len(report.cloud[0]):
        return ''
    views = (
        '<div class="views"><div class="stage"><canvas id="cloud"></canvas>'
        '<span>drag to turn, wheel to zoom, shift and drag to move</span></div>'
        f'<div class="above">{_from_above(report)}</div></div>'
    )
    hint = 'The voxel map with the cameras, to turn; and from above, x forward up, with the way of the camera.'
    return _section('The map', hint, views)


def _seams(report: Report) -> str:
    rows = report.windows
    if not rows:
        return ''
    seen = dict.fromkeys(row.status for row in rows)
    legend = ''.join(_key(_STATUS[status][0], _STATUS[status][1]) for status in seen)
    hint = 'How well each window fits the one before: the share of dense points that agree, and the ratio of scales.'
    plots = _inlier_plot(report) + _scale_plot(report)
    return _section('Seams', hint, f'<div class="legend">{legend}</div><div class="scroll">{plots}</div>')


def _inlier_plot(report: Report) -> str:
    rows, width, height, left = report.windows, 1040, 150, 44
    pitch = (width - left) / max(len(rows), 12)
    bars = []
    for i, row in enumerate(rows):
        ratio = row.inlier_ratio if math.isfinite(row.inlier_ratio) else 0.0
        x, tall = left + i * pitch, max(ratio * (height - 30), 3)
        kind, words = _STATUS[row.status]
        value = f'{ratio:.2f}' if math.isfinite(row.inlier_ratio) else 'nothing compared'
        bars.append(
            f'<rect x="{x:.1f}" y="{height - 20 - tall:.1f}" width="{max(pitch - 2, 1):.1f}" height="{tall:.1f}" '
            f'rx="2" fill="var(--{kind})"><title>window {row.index}: {value}, {words}, '
            f'{row.shared_frames} shared frames</title></rect>'
        )
    grid = _grid(width, height, left, [(0.0, '0'), (0.5, '0.5'), (1.0, '1')], lambda v: height - 20 - v * (height - 30))
    label = f'<text x="0" y="{height - 2}">share that agrees</text>'
    return f'<svg viewBox="0 0 {width} {height}" width="100%" role="img">{grid}{"".join(bars)}{label}</svg>'


def _scale_plot(report: Report) -> str:
    points = [
        (i, row) for i, row in enumerate(report.windows) if math.isfinite(row.scale_ratio) and row.scale_ratio > 0
    ]
    if len(points) < 2:
        return ''
    width, height, left = 1040, 130, 44
    pitch = (width - left) / max(len(report.windows), 12)
    reach = max(max(abs(math.log(row.scale_ratio)) for _, row in points), math.log(1.1))

    def y_of(ratio: float) -> float:
        return (height - 20) / 2 - math.log(ratio) / reach * (height - 36) / 2

    places = [(left + (i + 0.5) * pitch, y_of(row.scale_ratio), row) for i, row in points]
    line = ' '.join(f'{x:.1f},{y:.1f}' for x, y, _ in places)
    dots = ''.join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="var(--accent)"><title>window {row.index}: '
        f'{row.scale_ratio:.3f}</title></circle>'
        for x, y, row in places
    )
    top = math.exp(reach)
    ticks = [(1 / top, f'{1 / top:.2f}'), (1.0, '1'), (top, f'{top:.2f}')]
    grid = _grid(width, height, left, ticks, y_of)
    label = (
        f'<text x="{width}" y="{height - 2}" text-anchor="end">window</text>'
        f'<text x="0" y="{height - 2}">ratio of scales</text>'
    )
    stroke = f'<polyline points="{line}" fill="none" stroke="var(--accent)" stroke-width="1.5" opacity="0.6"/>'
    return f'<svg viewBox="0 0 {width} {height}" width="100%" role="img">{grid}{stroke}{dots}{label}</svg>'


def _grid(width: int, height: int, left: int, ticks: Iterable[tuple[float, str]], y_of: object) -> str:
    lines = []
    for value, text in ticks:
        y = y_of(value)  # type: ignore[operator]
        lines.append(
            f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
        )
    return ''.join(lines)


def _timings(report: Report) -> str:
    timings, frames = report.timings, max(len(report.stamps_ns), 1)
    stages = [stage for stage in timings.seconds if timings.total(stage) > 0]
    if not stages:
        return ''
    total = timings.sum
    bar, rows = [], []
    for stage in stages:
        kind, words = _STAGE.get(stage, ('rest', stage))
        seconds, values = timings.total(stage), timings.seconds[stage]
        median = f'{1e3 * float(np.median(values)):.1f}' if len(values) > 1 else '-'  # live there is only the sum
        bar.append(
            f'<div style="width:{100 * seconds / total:.2f}%;background:var(--{kind})" '
            f'title="{words}: {seconds:.2f} s"></div>'
        )
        rows.append(
            f'<tr><td><span class="key" style="background:var(--{kind})"></span>{words}</td>'
            f'<td class="number">{1e3 * seconds / frames:.1f}</td>'
            f'<td class="number">{median}</td>'
            f'<td class="number">{seconds:.2f}</td><td class="number">{100 * seconds / total:.1f} %</td></tr>'
        )
    head = (
        '<tr><th>stage</th><th class="number">ms a frame</th><th class="number">ms, median of its calls</th>'
        '<th class="number">s in all</th><th class="number">share</th></tr>'
    )
    sum_row = (
        f'<tr><td><b>all</b></td><td class="number"><b>{1e3 * total / frames:.1f}</b></td><td></td>'
        f'<td class="number"><b>{total:.2f}</b></td><td></td></tr>'
    )
    table = f'<div class="scroll"><table>{head}{"".join(rows)}{sum_row}</table></div>'
    return _section('Time', 'Where the time went.', f'<div class="bar">{"".join(bar)}</div>{table}')


def _files(report: Report) -> str:
    if not report.files:
        return ''
    rows = ''.join(
        f'<tr><td><a href="{escape(name)}"><code>{escape(name)}</code></a></td>'
        f'<td class="soft">{escape(text)}</td></tr>'
        for name, text in report.files.items()
    )
    return _section('Files', 'Beside this page.', f'<table>{rows}</table>')


def _settings(report: Report) -> str:
    default = type(report.config)().values()
    rows = []
    for name, value in report.config.values().items():
        text = escape(str(value)) if value != '' else '<span class="soft">empty</span>'
        cell = text if value == default[name] else f'<b>{text}</b> <span class="soft">(default {default[name]})</span>'
        rows.append(f'<tr><td><code>{name}</code></td><td>{cell}</td></tr>')
    counts = ', '.join(f'{value} {name.replace("_", " ")}' for name, value in report.counts.items() if value)
    return (
        f'<section><details><summary>Settings and counts</summary><p class="soft">{escape(counts)}</p>'
        f'<table>{"".join(rows)}</table></details></section>'
    )


def _section(title: str, hint: str, body: str) -> str:
    return f'<section><h2>{title}</h2><p class="soft">{hint}</p>{body}</section>'


def _key(kind: str, text: str) -> str:
    return f'<span><span class="key" style="background:var(--{kind})"></span>{text}</span>'


def _jpeg(image: np.ndarray) -> str:
    height = round(image.shape[0] * PICTURE_WIDTH / image.shape[1])
    scaled = cv2.resize(image, (PICTURE_WIDTH, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode('.jpg', cv2.cvtColor(scaled, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}">'


def _from_above(report: Report) -> str:
    """SVG of the cloud seen from above (x up, y to the left), with the way of the camera and a scale bar."""
    xyz, rgb = report.cloud
    centres = np.array([pose[:3, 3] for pose in report.poses]) if report.poses else np.zeros((0, 3))
    low, high = _bounds(xyz, centres)
    centre, extent = (low + high)[:2] / 2, max(float((high - low)[:2].max()) * 1.08, 1e-6)
    scale = ABOVE_SIZE / extent

    def to_pixels(points: np.ndarray) -> np.ndarray:
        return ABOVE_SIZE / 2 - (points[:, 1::-1] - centre[::-1]) * scale  # (u, v) of (x, y)

    under = _below_ceiling(xyz, centres)
    # A raster in which a splat of 3 covers a voxel: finer, and a floor would look like a sieve.
    raster = int(np.clip(2.5 * extent / report.config.cloud.voxel_size, 120, ABOVE_SIZE))
    image = _splat(to_pixels(xyz[under]) * raster / ABOVE_SIZE, rgb[under], xyz[under, 2], raster)
    _, data = cv2.imencode('.png', image)
    picture = (
        f'<image width="{ABOVE_SIZE}" height="{ABOVE_SIZE}" '
        f'href="data:image/png;base64,{base64.b64encode(data.tobytes()).decode()}"/>'
    )
    return (
        f'<svg viewBox="0 0 {ABOVE_SIZE} {ABOVE_SIZE}" role="img">{picture}'
        f'{_way(to_pixels(centres))}{_scale_bar(scale, report.unit)}</svg>'
    )


def _bounds(xyz: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Box around the cloud but its farthest strays, and around all cameras."""
    low, high = np.percentile(xyz[:: max(len(xyz) // 100_000, 1)], (1, 99), axis=0)
    if len(centres):
        low, high = np.minimum(low, centres.min(axis=0)), np.maximum(high, centres.max(axis=0))
    return low, high


def _below_ceiling(xyz: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """[N] points that do not hide what is under them: up to a little over the highest camera."""
    if not len(centres):
        return np.ones(len(xyz), bool)
    floor, top = np.percentile(xyz[:, 2], 5), centres[:, 2].max()
    return xyz[:, 2] < top + 0.25 * max(top - floor, 0.1)


def _splat(pixels: np.ndarray, rgb: np.ndarray, heights: np.ndarray, size: int) -> np.ndarray:
    """[N, 2] pixels painted from the lowest to the highest, 3 pixels wide: [size, size, 4] uint8 BGRA."""
    image = np.zeros((size, size, 4), np.uint8)
    order = np.argsort(heights, kind='stable')
    uv = np.round(pixels[order]).astype(np.int64)
    colours = np.concatenate([rgb[order, ::-1], np.full((len(order), 1), 255, np.uint8)], axis=1)
    for du, dv in ((-1, -1), (1, -1), (-1, 1), (1, 1), (0, 1), (1, 0), (0, -1), (-1, 0), (0, 0)):
        u, v = uv[:, 0] + du, uv[:, 1] + dv
        inside = (u >= 0) & (u < size) & (v >= 0) & (v < size)
        image[v[inside], u[inside]] = colours[inside]
    return image


def _way(pixels: np.ndarray) -> str:
    if not len(pixels):
        return ''
    line = ' '.join(f'{u:.1f},{v:.1f}' for u, v in pixels)
    (u0, v0), (u1, v1) = pixels[0], pixels[-1]
    return (
        f'<polyline points="{line}" fill="none" stroke="#0b0f14" stroke-width="7" opacity="0.55"/>'
        f'<polyline points="{line}" fill="none" stroke="#5ca6ff" stroke-width="3.5"/>'
        f'<circle cx="{u0:.1f}" cy="{v0:.1f}" r="8" fill="#47c98b" stroke="#0b0f14" stroke-width="2">'
        '<title>start</title></circle>'
        f'<circle cx="{u1:.1f}" cy="{v1:.1f}" r="8" fill="#f0736d" stroke="#0b0f14" stroke-width="2">'
        '<title>end</title></circle>'
    )


def _scale_bar(scale: float, unit: str) -> str:
    length = 10 ** math.floor(math.log10(ABOVE_SIZE / 4 / scale))
    length *= next(step for step in (5, 2, 1) if step * length * scale <= ABOVE_SIZE / 3)
    x, y, wide = 28, ABOVE_SIZE - 28, length * scale
    return (
        f'<path d="M{x},{y - 8} V{y} H{x + wide:.1f} V{y - 8}" fill="none" stroke="#e6eaef" stroke-width="2.5"/>'
        f'<text x="{x + 6}" y="{y - 12}" style="font-size:22px;fill:#e6eaef">{length:g} {unit}</text>'
        f'<text x="{ABOVE_SIZE - 28}" y="{y}" text-anchor="end" style="font-size:20px;fill:#b9c3ce">'
        '<tspan fill="#47c98b">●</tspan> start <tspan fill="#f0736d">●</tspan> end</text>'
    )


def _viewer_data(report: Report) -> str:
    """The cloud in 16-bit coordinates of its box, and the lines of cameras and path, for viewer.js."""
    xyz, rgb = report.cloud
    poses = np.array(report.poses) if report.poses else np.zeros((0, 4, 4))
    low, high = _bounds(xyz, poses[:, :3, 3])
    middle, radius, margin = (low + high) / 2, float(np.linalg.norm(high - low) / 2), 0.1 * (high - low)
    inside = np.flatnonzero(((xyz >= low - margin) & (xyz <= high + margin)).all(axis=1))
    chosen = inside[np.linspace(0, len(inside) - 1, min(len(inside), VIEWER_POINTS)).astype(np.int64)]
    low, size = xyz[chosen].min(axis=0), np.maximum(np.ptp(xyz[chosen], axis=0), 1e-6)
    points = np.round((xyz[chosen] - low) / size * 65535).astype('<u2')
    cameras = frusta(poses, report.aspect).reshape(-1, 3) if len(poses) else np.zeros((0, 3))
    path = np.repeat(poses[:, :3, 3], 2, axis=0)[1:-1] if len(poses) > 1 else np.zeros((0, 3))
    lines = np.concatenate([cameras, path]).astype('<f4')
    forward = poses[0][:3, 2] if len(poses) else np.array([1.0, 0.0, 0.0])
    data = {
        'points': base64.b64encode(points.tobytes()).decode(),
        'colours': base64.b64encode(rgb[chosen].tobytes()).decode(),
        'count': len(chosen),
        'lines': base64.b64encode(lines.tobytes()).decode(),
        'line_points': len(lines),
        'camera_points': len(cameras),
        'low': low.tolist(),
        'size': size.tolist(),
        'target': middle.tolist(),
        'radius': radius,
        'spacing': max(report.config.cloud.voxel_size, float(np.cbrt(size.prod() / len(chosen)) / 8)),
        'turn': math.atan2(-forward[1], -forward[0]) + 0.5,  # from behind the first camera, a little to the side
    }
    return f'<script type="application/json" id="cloud-data">{json.dumps(data)}</script>'

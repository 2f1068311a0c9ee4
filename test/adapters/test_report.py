"""The report page, read by a parser."""

from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from recordings import FRAME_NS, START_NS, placed_frame, update_of

from vggt_ros.core.config import Config
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.core.placement import SeamStatus
from vggt_ros.encode import Encoder
from vggt_ros.messages import MessageTypes, bag_messages
from vggt_ros.results.report import PICTURES, Check, Report
from vggt_ros.results.report_page import render

RNG = np.random.default_rng(0)
XYZ = RNG.uniform(-1, 1, (500, 3)).astype(np.float32)
RGB = RNG.integers(0, 256, (500, 3), dtype=np.uint8)


def filled(messages: MessageTypes | None = None, windows: int = 12, **values: object) -> Report:
    """A report of windows of two frames, filled by messages and updates as a run does."""
    config = Config().with_values(values)
    report = Report('clip.mcap', config, 'nano', 'cpu')
    encoder = Encoder(config, messages or bag_messages(), lambda: (XYZ, RGB))
    for i in range(windows):
        frames = [placed_frame(2 * i + k, seed=k) for k in range(2)]
        status = SeamStatus.FIRST if i == 0 else SeamStatus.HELD if i == 3 else SeamStatus.ALIGNED
        update = update_of(*frames, index=i, status=status, ratio=float('nan') if i == 0 else 0.8)
        for output in encoder.encode(update, BODY_FROM_OPTICAL):
            report.add_message(*output)
        report.add_update(update)
        report.timings.add('network', 0.2)
        report.timings.add('read', 0.05)
    return report


def test_a_report_collects_what_the_messages_say(messages: MessageTypes):
    report = filled(messages)
    assert report.stamps_ns == [START_NS + i * FRAME_NS for i in range(24)]
    np.testing.assert_allclose(report.poses[5], placed_frame(5).map_from_cam, atol=1e-12)
    assert report.path_length == pytest.approx(23 * 0.1)
    np.testing.assert_array_equal(report.cloud[0], XYZ)
    np.testing.assert_array_equal(report.cloud[1], RGB)
    assert report.aspect == pytest.approx((20 / 50, 15 / 51))
    assert report.messages['~/odom'] == 24


def test_pictures_are_pairs_of_one_stamp_spread_over_the_run(messages: MessageTypes):
    pictures = filled(messages, windows=60).pictures
    assert len(pictures) == PICTURES
    indices = [(picture.stamp_ns - START_NS) // FRAME_NS for picture in pictures]
    assert indices[0] == 0
    assert indices[-1] >= 100  # of 119
    assert max(np.diff(indices)) <= 2.5 * 119 / (PICTURES - 1)
    for picture, index in zip(pictures, indices, strict=True):
        truth = placed_frame(index, seed=index % 2)
        np.testing.assert_array_equal(picture.image, truth.image)
        np.testing.assert_array_equal(picture.depth, truth.depth)


def test_times_and_the_share_outside_the_network():
    report = filled(windows=10)
    assert report.timings.total('network') == pytest.approx(2.0)
    assert report.timings.outside_network == pytest.approx(0.5 / 2.5)
    assert json.loads(json.dumps(report.summary()))['timings']['per_frame_ms']['network'] == pytest.approx(100)


class Page(HTMLParser):
    """The page's tags, checked for balance, and its texts."""

    VOID = ('meta', 'img', 'link', 'br')

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ''
        self.feed(text)
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if self.stack and self.stack[-1] not in ('script', 'style'):
            self.text += data


def test_the_page_is_whole_and_needs_nothing_from_outside():
    report = filled()
    report.files = {'cloud.ply': 'the map'}
    text = render(report)
    page = Page(text)
    for tag, attributes in page.tags:
        for name in ('src', 'href'):
            value = attributes.get(name)
            assert value is None or value.startswith('data:') or value == 'cloud.ply', f'{tag} {name}={value[:60]}'
    assert not re.search(r'url\(|@import|https?://', text)
    assert not re.search(r'\bnan\b', page.text)
    for words in ('Input and depth', 'The map', 'Seams', 'Time', 'Files', 'Settings and counts'):
        assert words in page.text


def test_the_pictures_in_the_page_are_the_frames():
    page = Page(render(filled(windows=4)))
    images = [attributes['src'] for tag, attributes in page.tags if tag == 'img']
    assert len(images) == 2 * PICTURES
    data = base64.b64decode(images[0].split(',', 1)[1])
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert shown.shape[1] / shown.shape[0] == pytest.approx(40 / 30, rel=0.01)
    truth = cv2.resize(placed_frame(0).image, shown.shape[1::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shown.astype(int) - truth).mean() < 12  # JPEG of noise; another image would be 85 off


def test_the_viewer_gets_the_cloud_to_16_bits_and_the_cameras():
    text = render(filled(windows=4))
    data = json.loads(re.search(r'id="cloud-data">(.*?)</script>', text).group(1))
    points = np.frombuffer(base64.b64decode(data['points']), '<u2').reshape(-1, 3) / 65535
    xyz = points * data['size'] + data['low']
    np.testing.assert_allclose(xyz, XYZ[: data['count']], atol=2 / 65535)
    lines = np.frombuffer(base64.b64decode(data['lines']), '<f4').reshape(-1, 3)
    assert len(lines) == data['line_points'] == 8 * 2 * 8 + 2 * 7


def test_what_went_wrong_stands_on_top():
    report = filled()
    report.failure, report.notes = 'the bag <broke> off', ['no CameraInfo']
    report.checks = [Check('stamps', True, '8'), Check('sizes', False, 'differ')]
    text = Page(render(report)).text
    assert 'The run ended early: the bag <broke> off' in text  # escaped in the page
    assert '1 of 12 windows could not be placed' in text
    assert 'no CameraInfo' in text
    assert '1 of 2 hold' in text
    assert not report.is_good


def test_units_are_metres_only_where_scale_is_known():
    report = filled(windows=2)
    assert 'units of the network, not metres' in render(report)
    report.metric = True
    assert 'units of the network, not metres' not in render(report)
    assert ' m</b>' in render(report)


def test_an_empty_report_is_still_a_page():
    text = render(Report('nothing.mcap', Config(), failure='no frames'))
    assert 'no frames' in Page(text).text

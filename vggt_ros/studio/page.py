"""The page: Gradio's components, and what happens when one of them changes. All work is the workbench's."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from vggt_ros.core.errors import VggtRosError
from vggt_ros.studio.examples import EXAMPLES
from vggt_ros.studio.guard import token_of
from vggt_ros.studio.reconstruct import MODES
from vggt_ros.studio.scene import View
from vggt_ros.studio.sessions import Session, Sessions
from vggt_ros.studio.uploads import ACCEPTED
from vggt_ros.studio.workbench import DOWNLOADS, Choice, Workbench

log = logging.getLogger(__name__)

TITLE = 'vggt_ros studio'
INTRODUCTION = (
    '## vggt_ros studio\n'
    'Drop images, a video or a rosbag, press **Reconstruct**, look at the 3D. The pipeline is that of the robot.'
)
NOTHING = 'Nothing uploaded yet: drop images, a video or a bag, or take an example.'
BRANCHES = {'Depth and camera': 'depth', 'Point map': 'points'}
ALL_FRAMES = 'all frames'
CSS = (Path(__file__).parent / 'page.css').read_text()
THEME = gr.themes.Base(
    font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace'], primary_hue='orange', radius_size='sm'
).set(body_text_color_subdued='*neutral_600', block_info_text_color='*neutral_600')  # the default is hard to read


def build_page(workbench: Workbench, sessions: Sessions, models: Sequence[str], own_models: bool) -> gr.Blocks:
    """The Gradio app.

    Args:
        workbench: does the work.
        sessions: who asks.
        models: names to choose from.
        own_models: whether a visitor may type another name or path.
    """
    return _Page(workbench, sessions, models, own_models).blocks


class _Page:
    """Components by name, and their handlers."""

    def __init__(self, workbench: Workbench, sessions: Sessions, models: Sequence[str], own_models: bool) -> None:
        self.workbench, self.sessions = workbench, sessions
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as self.blocks:
            gr.Markdown(INTRODUCTION, elem_id='introduction')
            with gr.Row(elem_id='columns'):
                with gr.Column(scale=2, min_width=300):
                    self._add_inputs(models, own_models)
                with gr.Column(scale=5, min_width=300):
                    self._add_results()
            self._connect()

    def _add_inputs(self, models: Sequence[str], own_models: bool) -> None:
        self.files = gr.File(
            label='Images, a video or a bag', file_count='multiple', file_types=list(ACCEPTED), height=160,
            elem_id='files',
        )  # fmt: skip
        self.interval = gr.Slider(
            0, 10, 1.0, step=0.1, label='Seconds between frames', elem_id='interval',
            info='Video and bag; 0 takes all.',
        )  # fmt: skip
        self.inputs_text = gr.Markdown(NOTHING, elem_id='inputs')
        self.gallery = gr.Gallery(
            label='What is used', columns=3, height=250, object_fit='cover', elem_id='gallery', interactive=False,
            buttons=[],
        )  # fmt: skip
        with gr.Accordion('Network', open=False, elem_id='network'):
            self.model = gr.Dropdown(
                list(models), value=models[0], label='Model', allow_custom_value=own_models, elem_id='model',
                info='A shipped name, a hub id such as facebook/VGGT-1B, or a file.' if own_models else None,
            )  # fmt: skip
            self.device = gr.Dropdown(['auto', 'cpu', 'cuda:0'], value='auto', label='Device', elem_id='device')
            self.mode = gr.Radio(
                [(text, name) for name, text in MODES.items()], value='all', label='Frames', elem_id='mode',
                info='The sliding window gives what the node gives on a robot.',
            )  # fmt: skip
            with gr.Row():
                self.window_size = gr.Slider(2, 32, 8, step=1, label='Window size', elem_id='window_size')
                self.window_stride = gr.Slider(1, 32, 4, step=1, label='Window stride', elem_id='window_stride')
        self.go = gr.Button('Reconstruct', variant='primary', elem_id='reconstruct')
        gr.Markdown('**Examples**', elem_classes='caption')
        with gr.Row():
            self.examples = {
                name: gr.Button(example.title, size='sm', elem_id=f'example_{name}')
                for name, example in EXAMPLES.items()
            }
        gr.Markdown('  \n'.join(f'{one.title}: {one.credit}.' for one in EXAMPLES.values()), elem_classes='credit')

    def _add_results(self) -> None:
        self.status = gr.Markdown('Results appear here.', elem_id='status')
        self.scene = gr.Model3D(
            label='Scene: drag to turn', height=480, elem_id='scene',
            clear_color=(0.97, 0.97, 0.97, 1.0),
        )  # fmt: skip
        with gr.Accordion('Adjust: the network does not run again', open=True, elem_id='adjust'):
            with gr.Row():
                self.confidence = gr.Slider(
                    0, 100, 50, step=1, label='Confidence', elem_id='confidence', min_width=200,
                    info='Hide the lowest percent',
                )  # fmt: skip
                self.point_size = gr.Slider(
                    0, 30, 10, step=1, label='Point size', elem_id='point_size', min_width=200,
                    info='Thousandths of the scene; 0: one pixel',
                )  # fmt: skip
                self.voxel_size = gr.Slider(
                    0, 0.2, 0, step=0.005, label='Voxel size', elem_id='voxel_size', min_width=200,
                    info='One point a voxel; 0 keeps all',
                )  # fmt: skip
            with gr.Row():
                self.frame_filter = gr.Dropdown(
                    [ALL_FRAMES], value=ALL_FRAMES, label='Frames shown', elem_id='frame_filter', min_width=160
                )
                self.branch = gr.Radio(
                    list(BRANCHES), value=next(iter(BRANCHES)), label='Points from', elem_id='branch', min_width=240
                )
            with gr.Row(elem_id='boxes'):
                self.show_cameras = gr.Checkbox(True, label='Cameras', elem_id='show_cameras', min_width=110)
                self.show_path = gr.Checkbox(True, label='Path', elem_id='show_path', min_width=110)
                self.mask_sky = gr.Checkbox(False, label='Hide sky', elem_id='mask_sky', min_width=110)
                self.mask_black = gr.Checkbox(False, label='Hide black', elem_id='mask_black', min_width=110)
                self.mask_white = gr.Checkbox(False, label='Hide white', elem_id='mask_white', min_width=110)
        with gr.Accordion('Depth and confidence of a frame', open=True, elem_id='frames'):
            self.frame = gr.Slider(0, 1, 0, step=1, label='Frame', elem_id='frame')
            with gr.Row(elem_id='pictures'):
                look: dict[str, Any] = {'height': 210, 'min_width': 200, 'interactive': False, 'buttons': []}
                self.image = gr.Image(label='Image', elem_id='picture_image', **look)
                self.depth = gr.Image(label='Depth: near red, far blue', elem_id='picture_depth', **look)
                self.sure = gr.Image(label='Confidence: high yellow', elem_id='picture_confidence', **look)
        self.downloads = gr.File(label='Downloads', file_count='multiple', interactive=False, elem_id='downloads')
        gr.Markdown('  \n'.join(f'`{name}`: {text}.' for name, text in DOWNLOADS.items()), elem_classes='credit')

    def _connect(self) -> None:
        inputs = [self.inputs_text, self.gallery]
        self.controls = [
            self.branch, self.confidence, self.frame_filter, self.show_cameras, self.show_path, self.mask_sky,
            self.mask_black, self.mask_white, self.voxel_size, self.point_size,
        ]  # fmt: skip
        shown = [self.status, self.scene, self.downloads, self.frame_filter, self.frame]
        pictures = [self.image, self.depth, self.sure]
        hidden: dict[str, Any] = {'api_visibility': 'private', 'show_progress': 'minimal'}
        everything = [*inputs, *shown, *pictures]
        self._shown_count = len(everything)
        choice = [self.mode, self.model, self.device, self.window_size, self.window_stride]
        self.blocks.load(self._load, self.controls, [*everything, self.interval], **hidden)
        self.files.upload(self._upload, [self.files, self.interval], [self.files, *everything], **hidden)
        self.interval.release(self._thin, [self.interval], inputs, **hidden)
        self.go.click(
            self._reconstruct, [*choice, *self.controls], [*shown, *pictures],
            **{**hidden, 'show_progress': 'full', 'show_progress_on': [self.scene]},
        )  # fmt: skip
        for name, button in self.examples.items():
            button.click(self._open_example(name), self.controls, [*everything, self.interval, self.mode], **hidden)
        for control in self.controls:
            _chosen(control)(self._adjust, self.controls, [self.status, self.scene, self.downloads], **hidden)
        self.frame.release(self._pictures, [self.frame], pictures, **hidden)

    # Handlers. Gradio gives each the values of its inputs, and the request first, by its type.

    def _load(self, request: gr.Request, *controls: Any) -> list[Any]:
        session = self._session(request)
        interval = session.state.get('interval_s', 1.0)
        if not session.state.get('has_result'):
            return [*self._inputs(session), *self._empty(), interval]
        return [*self._inputs(session), *self._show_all(session, controls), interval]

    def _upload(self, request: gr.Request, files: list[str] | None, interval: float) -> list[Any]:
        """Take the upload; one that cannot be used leaves the page as it was, but for the list of files."""
        session = self._session(request)
        try:
            return self._in_words(self._take, session, files, interval)
        except gr.Error as error:  # raised, it would leave the bad file in the list, beside the next upload
            gr.Warning(error.message, duration=None, title=error.title)
            return [None, *[gr.skip()] * self._shown_count]

    def _take(self, session: Session, files: list[str] | None, interval: float) -> list[Any]:
        self.workbench.upload(session, [Path(file) for file in files or ()], interval)
        return [None, *self._inputs(session), *self._empty()]

    def _thin(self, request: gr.Request, interval: float) -> list[Any]:
        session = self._session(request)
        if session.upload is None:
            return [NOTHING, []]
        self._in_words(self.workbench.thin, session, interval)
        return self._inputs(session)

    def _reconstruct(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio asks for it
        *values: Any,
    ) -> list[Any]:
        session = self._session(request)
        (mode, model, device, size, stride), controls = values[:5], values[5:]
        chosen = Choice(mode, model, device, int(size), int(stride))
        self._in_words(self.workbench.reconstruct, session, chosen, lambda share, text: progress(share, desc=text))
        return self._show_all(session, controls)

    def _open_example(self, name: str) -> Callable[..., list[Any]]:
        def handler(request: gr.Request, *controls: Any) -> list[Any]:
            session = self._session(request)
            self._in_words(self.workbench.open_example, session, name)
            example = EXAMPLES[name]
            return [*self._inputs(session), *self._show_all(session, controls), example.interval_s, example.mode]

        return handler

    def _adjust(self, request: gr.Request, *controls: Any) -> list[Any]:
        session = self._session(request)
        if not session.state.get('has_result'):  # nothing to filter yet
            return [gr.skip()] * 3
        shown = self._in_words(self.workbench.show, session, _view(controls))
        return [shown.text, str(shown.glb), [str(file) for file in shown.downloads]]

    def _pictures(self, request: gr.Request, frame: float) -> list[Any]:
        session = self._session(request)
        if not session.state.get('has_result'):
            return [None] * 3
        return [str(file) for file in self._in_words(self.workbench.pictures, session, int(frame))]

    def _session(self, request: gr.Request) -> Session:
        return self._in_words(self.sessions.open, token_of(request.headers.get('cookie', '')))

    def _inputs(self, session: Session) -> list[Any]:
        gallery = self.workbench.gallery(session)
        return [gallery.text or NOTHING, [str(file) for file in gallery.pictures]]

    def _empty(self) -> list[Any]:
        frames = gr.Dropdown([ALL_FRAMES], value=ALL_FRAMES)
        return ['Press **Reconstruct**.', None, None, frames, gr.Slider(maximum=1, value=0), None, None, None]

    def _show_all(self, session: Session, controls: Sequence[Any]) -> list[Any]:
        """A new result: its scene with all frames, its frames to choose from, and the pictures of the first."""
        view = View(**{**vars(_view(controls)), 'frame': None})
        shown = self._in_words(self.workbench.show, session, view)
        pictures = self._in_words(self.workbench.pictures, session, 0)
        names = [ALL_FRAMES, *(f'{i}: {name}' for i, name in enumerate(shown.frames))]
        return [
            shown.text, str(shown.glb), [str(file) for file in shown.downloads],
            gr.Dropdown(names, value=ALL_FRAMES), gr.Slider(maximum=max(len(shown.frames) - 1, 1), value=0),
            *(str(file) for file in pictures),
        ]  # fmt: skip

    def _in_words(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do it; what goes wrong is shown in words, and stays until it is closed."""
        try:
            return work(*arguments)
        except VggtRosError as error:
            log.info('told a visitor: %s', error)
            raise gr.Error(str(error), duration=None, title='That did not work', print_exception=False) from error
        except Exception as error:
            log.exception('a visitor met a fault')
            text = 'something went wrong that was not foreseen; the log of the server says what'
            raise gr.Error(text, duration=None, title='That did not work', print_exception=False) from error


def _chosen(control: Any) -> Any:
    """The event of a visitor's choice: once a choice, and not when the page itself sets the value."""
    if isinstance(control, gr.Slider):
        return control.release
    return control.select if isinstance(control, gr.Dropdown) else control.input


def _view(controls: Sequence[Any]) -> View:
    """The values of _Page.controls -> a View; what cannot be read means all frames, as in the original."""
    branch, confidence, frame, cameras, path, sky, black, white, voxel, size = controls
    number = re.match('([0-9]{1,9})(:|$)', str(frame))
    return View(
        BRANCHES.get(branch, 'depth'), float(confidence), int(number[1]) if number else None, bool(cameras),
        bool(path), bool(sky), bool(black), bool(white), float(voxel), float(size),
    )  # fmt: skip

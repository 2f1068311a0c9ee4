"""Make the examples of the web page anew: python -m scripts.studio_examples. Run it when nano changes.

Renders the pictures of the room where they are missing, and stores the results that the page shows until Reconstruct is
pressed.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import cv2

from training.windows import HELD_BACK_SEED, make_window
from vggt_ros.core.config import Config
from vggt_ros.studio.examples import EXAMPLES, Example
from vggt_ros.studio.networks import Networks
from vggt_ros.studio.reconstruct import reconstruct, settings_for
from vggt_ros.studio.uploads import Upload, open_upload

ROOM_SEED = HELD_BACK_SEED + 22  # never trained on
ROOM_FRAMES, ROOM_SIZE = 8, (240, 320)  # height, width


def render_room(folder: Path) -> None:
    """Eight pictures of a rendered room, with the calibration that they were rendered with."""
    window = make_window(ROOM_SEED, ROOM_FRAMES, ROOM_SIZE)
    (folder / 'rgb').mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(window.images.permute(0, 2, 3, 1).numpy()):
        picture = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / 'rgb' / f'{i:06d}.jpg'), picture, [cv2.IMWRITE_JPEG_QUALITY, 92])
    height, width = ROOM_SIZE
    K = window.K[0].tolist()
    camera = {'width': width, 'height': height, 'fx': K[0][0], 'fy': K[1][1], 'cx': K[0][2], 'cy': K[1][2]}
    (folder / 'camera.json').write_text(json.dumps(camera, indent=2) + '\n')


def store(example: Example) -> None:
    """Compute an example's result and keep it beside its frames."""
    source = open_upload(Upload('example', example.title, example.source), example.interval_s)
    count = sum(1 for _ in source)
    config = settings_for(example.mode, count, Config())
    predictor = Networks().get(config)
    with tempfile.TemporaryDirectory() as folder:
        predictions, _ = reconstruct(source, count, Path(folder) / 'out', config, predictor, lambda *_: None)
    example.stored.write_bytes(predictions.to_npz(compact=True))
    print(f'{example.stored}: {example.stored.stat().st_size / 1e6:.2f} MB')


def main() -> None:
    room = EXAMPLES['room'].source
    if not (room / 'rgb').is_dir():
        render_room(room)
    for example in EXAMPLES.values():
        store(example)


if __name__ == '__main__':
    main()

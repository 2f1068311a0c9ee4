"""The command `vggt_ros`: run, batch, replay, evaluate, demo, studio, view, status, doctor."""

from __future__ import annotations

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from vggt_ros import __version__
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.memory import keep_freed_memory

# name -> module with add_arguments(parser) and main(args) -> exit code, and its sentence. A module is imported only
# when its command is asked for: some need torch, some need rclpy, and --help needs neither.
COMMANDS = {
    'run': ('vggt_ros.run', 'turn a bag, a video or a folder of images into depth, clouds and poses'),
    'batch': ('vggt_ros.batch.command', 'the same for many recordings, beside each other on Ray; can be resumed'),
    'replay': ('vggt_ros.replay', 'play a recording into live topics'),
    'evaluate': ('vggt_ros.results.evaluate', 'how good a result is, against a true trajectory and measured depth'),
    'demo': ('vggt_ros.demo', 'start the node, replay the clip that ships with the package, check what it publishes'),
    'studio': ('vggt_ros.studio.server', 'a web page: drop images, a video or a bag, look at the 3D'),
    'view': ('vggt_ros.studio.view', 'a running node or a bag of its results in the browser'),
    'status': ('vggt_ros.status', 'how a running node is, with an exit code for a supervisor'),
    'doctor': ('vggt_ros.doctor', 'what is missing on this machine, and the command that mends it'),
}
OUR_ERROR, INTERRUPTED = 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 2 an error said in one line, 130 an interruption."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = _parser(arguments[0] if arguments else '').parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if args.verbose else logging.INFO, format='%(levelname)s %(message)s')
    signal.signal(signal.SIGTERM, _interrupt)
    keep_freed_memory()
    try:
        return int(args.main(args))
    except VggtRosError as error:
        logging.debug('', exc_info=True)
        print(f'vggt_ros: {error}', file=sys.stderr)
        return OUR_ERROR
    except KeyboardInterrupt:
        print('vggt_ros: interrupted', file=sys.stderr)
        return INTERRUPTED


def _parser(command: str) -> argparse.ArgumentParser:
    """All commands by name; the arguments of the one that is asked for."""
    parser = argparse.ArgumentParser(prog='vggt_ros', description='Turn any RGB camera into 3D for a robot.')
    parser.add_argument('--version', action='version', version=f'vggt_ros {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)
    for name, (module, sentence) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=sentence, description=sentence[0].upper() + sentence[1:] + '.')
        subparser.add_argument('-v', '--verbose', action='store_true', help='log more')
        if name == command:
            implementation = importlib.import_module(module)
            implementation.add_arguments(subparser)
            subparser.set_defaults(main=implementation.main)
    return parser


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == '__main__':
    sys.exit(main())

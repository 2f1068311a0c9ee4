"""No program listens beyond this machine unless it is asked to: their sockets, as the system has them."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 90.0  # Gradio takes long to import on a machine that does much else
LISTENS = '0A'  # state TCP_LISTEN. Source: Linux, include/net/tcp_states.h


def listeners(pid: int) -> set[str]:
    """Addresses on which a process listens by TCP, from the system's tables. Source: proc(5), /proc/net/tcp."""
    held = set()
    for descriptor in Path(f'/proc/{pid}/fd').iterdir():
        with suppress(FileNotFoundError):  # the program may close it at any time; one that listens stays
            held.add(os.readlink(descriptor))
    found = set()
    for table in (Path(f'/proc/{pid}/net/tcp'), Path(f'/proc/{pid}/net/tcp6')):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            fields = line.split()
            if fields[3] == LISTENS and f'socket:[{fields[9]}]' in held:
                words = fields[1].partition(':')[0]
                number = b''.join(bytes.fromhex(words[i : i + 8])[::-1] for i in range(0, len(words), 8))
                found.add(str(ipaddress.ip_address(number)))
    return found


@pytest.fixture(params=['studio', 'view'])
def program(request: pytest.FixtureRequest, tmp_path: Path, material: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that serves a page, once it has told its address."""
    what = {'studio': ['--folder', str(tmp_path)], 'view': [str(material / 'bag')]}[request.param]
    with socket.socket() as one:
        one.bind(('127.0.0.1', 0))
        port = one.getsockname()[1]
    command = [sys.executable, '-m', 'vggt_ros.cli', request.param, '--port', str(port), *what]
    log = (tmp_path / 'log').open('w+')
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, text=True)
    deadline = time.monotonic() + DEADLINE_S
    while 'http://' not in (tmp_path / 'log').read_text():
        assert process.poll() is None, (tmp_path / 'log').read_text()
        assert time.monotonic() < deadline, (tmp_path / 'log').read_text()
        time.sleep(0.1)
    yield process
    process.kill()
    process.wait()
    log.close()


def test_pages_are_served_to_this_machine_alone(program: subprocess.Popen[str]) -> None:
    addresses = listeners(program.pid)
    assert addresses, 'it told an address and listens on none'
    assert all(ipaddress.ip_address(address).is_loopback for address in addresses), addresses

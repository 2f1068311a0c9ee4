"""The README's tables are what the code declares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_readme_tables_say_what_the_code_declares() -> None:
    done = subprocess.run([sys.executable, '-m', 'scripts.readme_tables', '--check'], cwd=ROOT, timeout=60)
    assert done.returncode == 0, 'README.md is behind the code; run: python -m scripts.readme_tables'

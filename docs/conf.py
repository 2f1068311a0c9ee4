"""The documentation site: make docs."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
ROOT = DOCS.parent
MANIFEST = ElementTree.parse(ROOT / 'package.xml').getroot()

project = 'vggt_ros'
author = 'vggt_ros developers'
copyright = f'{author}, Apache-2.0'
release = MANIFEST.findtext('version')
extensions = ['myst_parser']
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = 'vggt_ros'
html_static_path = ['_static']
html_css_files = ['site.css']
html_show_sphinx = False
myst_heading_anchors = 3
nitpicky = True
suppress_warnings = ['myst.header']  # a fact sheet may go from # to ###
highlight_language = 'none'

LINK_OUT_OF_DOCS = re.compile(r'\[([^\]]*)\]\(((?:\.\./)+)([^)#\s]*)(?:#[^)]*)?\)')
OTHER_PAGES = '<!-- other pages -->'


def setup(app: Any) -> None:
    """Sphinx's hook."""
    app.connect('source-read', read_page)


def read_page(app: Any, name: str, text: list[str]) -> None:
    """Links to files of the repository become their paths; pages that no list names are listed at the end."""

    def path(link: re.Match[str]) -> str:
        target = ((DOCS / f'{name}.md').parent / link[2] / link[3]).resolve()
        if not target.exists():
            raise FileNotFoundError(f'{name}.md links to {link[2]}{link[3]}, which does not exist')
        shown = target.relative_to(ROOT)
        return f'`{shown}`' if link[1].strip('`') in (str(shown), target.name) else f'{link[1]} (`{shown}`)'

    text[0] = LINK_OUT_OF_DOCS.sub(path, text[0])
    if name == 'index':
        listed = set(re.findall(r'^(\w+)$', text[0], re.MULTILINE)) | {'index'}
        others = sorted(page.stem for page in DOCS.glob('*.md') if page.stem not in listed)
        text[0] = text[0].replace(OTHER_PAGES, '\n'.join(others))

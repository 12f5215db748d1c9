"""Sphinx, for `make docs` (docs/site/build.py puts the pages together)."""

import re
from typing import Any

import certmix

project = "certmix"
author = "The certmix developers"
version = release = certmix.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"certmix {version}"
html_copy_source = False
html_show_sphinx = html_show_copyright = False
myst_heading_anchors = 4  # links to headings, as everywhere else
myst_enable_extensions = ["colon_fence"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
default_role = "code"  # `name` in a docstring
pygments_style = "friendly"
pygments_dark_style = "monokai"
highlight_language = "none"  # of blocks that do not say


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", as_written)


def as_written(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `names`: nothing in them is markup."""
    lines[:] = [re.sub(r"([*|])|(?<=\w)(_)(?!\w)", r"\\\1\2", line) for line in lines]

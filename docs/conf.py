"""Sphinx: the documentation as a site. `make docs` builds it into docs/_build/html.

The source folder is the repository, so that links between pages are the same on the site and in the
files.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # sphinx reads this file without its folder on the path

import resdet  # noqa: E402
from build_reference import write_pages  # noqa: E402

write_pages(HERE / "reference")

project = "resdet"
version = release = resdet.__version__
root_doc = "docs/index"
include_patterns = ["docs/**.md", "benchmarks/README.md", "*.md"]
exclude_patterns = [".*", "build", "data", "dist", "docs/_build", "runs", "tests"]  # not walked
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
# References in docstrings are single backquotes, as in Markdown: code, whatever they name.
default_role = "code"
highlight_language = "text"  # blocks that name no language are commands and what they print
html_theme = "furo"
html_title = f"resdet {version}"
html_copy_source = False
html_show_copyright = False

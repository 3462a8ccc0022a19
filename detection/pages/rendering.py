"""Self-contained HTML pages: jinja2 templates on one base, with one style, scripts and images.

The pages open offline. A content security policy allows only their own style and scripts, by their
hashes, and inline images. Every text is escaped: file and class names are data.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from markupsafe import Markup

#: At this JPEG quality, lines and small letters are legible.
_QUALITY = 82
#: Style of all pages, and the script that sorts tables and enlarges images.
_STYLE, _SCRIPT = "page.css", "page.js"


def render_html(
    template: Path,
    filters: dict[str, Callable[[Any], str]],
    *,
    scripts: Sequence[str] = (),
    **context: Any,
) -> str:
    """Render ``NAME.html.j2``, which extends ``base.html.j2``.

    ``scripts`` are files of this folder, run after the script of all pages.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # only pages need it

    environment = Environment(
        loader=FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"breakable": _breakable, **filters}

    def content(name: str) -> str:
        return environment.get_template(name).render()

    scripts = (_SCRIPT, *scripts)
    return environment.get_template(template.name).render(
        style=_STYLE,
        scripts=scripts,
        style_hash=_hash(content(_STYLE)),
        script_hashes=[_hash(content(name)) for name in scripts],
        **context,
    )


def _breakable(name: object) -> Markup:
    """The path with places for a line to end after its separators, escaped."""
    from markupsafe import Markup, escape

    parts = re.split(r"(?<=[/_-])(?=[^/_-])", str(name))
    return Markup("<wbr>").join(map(escape, parts))


def jpeg_data_uri(pixels: NDArray[np.uint8]) -> str:
    """``pixels`` (h, w, 3) RGB as ``data:image/jpeg;base64,...``."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{_base64(stream.getvalue())}"


def _hash(text: str) -> str:
    return f"sha256-{_base64(hashlib.sha256(text.encode('utf-8')).digest())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

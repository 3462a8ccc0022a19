"""Self-contained HTML pages: jinja2 templates with inline CSS and inline JPEG images.

The pages open offline. They have no scripts, and a content security policy allows only their own
style, by its hash. Every text is escaped: file and class names are data.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

#: At this JPEG quality, lines and small letters are legible.
_QUALITY = 82


def render_html(template: Path, filters: dict[str, Callable[[Any], str]], **context: Any) -> str:
    """Render ``NAME.html.j2``. It includes ``NAME.css`` and may use ``style_hash``, its hash."""
    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= filters
    style = environment.get_template(template.name.replace(".html.j2", ".css")).render()
    style_hash = f"sha256-{_base64(hashlib.sha256(style.encode('utf-8')).digest())}"
    return environment.get_template(template.name).render(style_hash=style_hash, **context)


def jpeg_data_uri(pixels: NDArray[np.uint8]) -> str:
    """``pixels`` (h, w, 3) RGB as ``data:image/jpeg;base64,...``."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{_base64(stream.getvalue())}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

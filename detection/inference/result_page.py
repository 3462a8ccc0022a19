"""The HTML of a result in a notebook: the drawn image and a table."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING, Any

from ..errors import ImageError
from ..printing import printable

if TYPE_CHECKING:
    from .image_results import ImageResult

#: The longest side of the image in pixels.
SIDE = 640
#: Rows of the table, and lines of a ``repr``.
SHOWN = 10


def result_page(result: ImageResult[Any]) -> str:
    """A fragment without scripts or references; names and paths are escaped. Without the image,
    if its file has gone."""
    rows = "".join(
        f"<tr><td>{escape(printable(name))}</td><td>{score:.3f}</td></tr>"
        for name, score in zip(result.names[:SHOWN], result.scores.tolist(), strict=False)
    )
    more = f"<p>… and {len(result) - SHOWN} more</p>" if len(result) > SHOWN else ""
    return (
        f"<div><p>{escape(result.title)}</p>{_image(result)}"
        f"<table><tr><th>class</th><th>score</th></tr>{rows}</table>{more}</div>"
    )


def _image(result: ImageResult[Any]) -> str:
    try:
        drawn = result.draw()
    except ImageError as error:
        return f"<p>{escape(printable(error))}</p>"
    drawn.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    drawn.save(file, "JPEG", quality=90)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}">'

"""Images and objects as annotation files describe them, before names become labels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: (x1, y1, x2, y2): absolute pixels, continuous, 0-based, as in `detection/structures.py`.
RawBox = tuple[float, float, float, float]


@dataclass(frozen=True)
class RawObject:
    """One annotated object. ``ignore``: neither right nor wrong (VOC difficult, COCO crowd).

    The box is what the file says; it may be non-finite, swapped or outside (see `catalog.py`).
    ``reference`` finds it in the file (``annotation 17``); "" means by its number in the image.
    ``area`` in square pixels is that of a mask, where the file has one (COCO).
    """

    name: str
    box: RawBox
    ignore: bool = False
    reference: str = ""
    area: float | None = None
    #: The confidence of a detection; annotations have none.
    score: float | None = None


@dataclass(frozen=True)
class RawImage:
    """One image of a source; ``size`` (h, w) as displayed, ``source`` the annotation file.

    ``image_class`` is the name of the whole image's class, where the source has one.
    """

    image_id: str
    path: Path
    size: tuple[int, int]
    objects: tuple[RawObject, ...]
    source: Path
    image_class: str | None = None

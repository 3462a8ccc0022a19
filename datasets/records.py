"""Images and objects as annotation files describe them, before names become labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
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

    ``image_class`` is the name of the whole image's class, where the source has one. ``left_out``
    counts the difficult objects that were not wanted.
    """

    image_id: str
    path: Path
    size: tuple[int, int]
    objects: tuple[RawObject, ...]
    source: Path
    image_class: str | None = None
    left_out: int = 0


def with_own_ids(images: Sequence[RawImage], earlier: Sequence[RawImage]) -> list[RawImage]:
    """The images of a further source. Ids that ``earlier`` images of other files have get a number
    before them (``2:17``): annotation tools count the images of each export from 0 or 1."""
    paths = {image.image_id: image.path for image in earlier}
    free = next(n for n in count(2) if not any(f"{n}:{each.image_id}" in paths for each in images))
    return [
        image
        if paths.get(image.image_id, image.path) == image.path
        else replace(image, image_id=f"{free}:{image.image_id}")
        for image in images
    ]

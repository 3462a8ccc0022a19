"""How is a data set written as YOLO text?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..records import RawObject
from .outgoing import Fit, Outgoing, Place, Splits, fit_box, number, write_new

#: Of a fraction of the image's side: 1e-8 px of a side of 10 000 px, so that the corners that
#: come back, rounded to `PIXEL_DECIMALS`, are those that went in.
FRACTION_DECIMALS = 12
#: Corners may exceed the image by this part of its side without being called clipped: YOLO files
#: usually have six decimals, and a corner is the sum of two.
ROUNDING = 1e-6


def fit_yolo(obj: RawObject, size: tuple[int, int]) -> Fit:
    """YOLO knows no ignored objects, and boxes inside the image only."""
    if obj.ignore:
        return None, "difficult and crowd objects are left out"
    held, loss = fit_box(obj)
    if held is None:
        return None, loss
    height, width = size
    x1, y1, x2, y2 = obj.box
    inside = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    clipped, _ = fit_box(replace(obj, box=inside))
    if clipped is None:
        return None, "objects outside the image are left out"
    cuts = zip(inside, obj.box, (width, height) * 2, strict=True)
    if any(abs(new - old) > ROUNDING * side for new, old, side in cuts):
        return clipped, "boxes that reach over the edge of the image are clipped"
    return clipped, ""


def write_yolo(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``images/<split>``, ``labels/<split>`` with a file for every image, and ``data.yaml``."""
    numbers = {name: index for index, name in enumerate(classes)}
    for split, images in splits.items():
        for image in images:
            place(image.source, out / "images" / split / image.name)
            lines = [_line(obj, numbers[obj.name], image) for obj in image.objects]
            label = out / "labels" / split / image.name.with_suffix(".txt")
            write_new(label, "".join(f"{line}\n" for line in lines))
    write_new(out / "data.yaml", _data_yaml(list(splits), classes))


def _line(obj: RawObject, label: int, image: Outgoing) -> str:
    height, width = image.size
    x1, y1, x2, y2 = obj.box
    fractions = (
        (x1 + x2) / 2 / width,
        (y1 + y2) / 2 / height,
        (x2 - x1) / width,
        (y2 - y1) / height,
    )
    return " ".join([str(label), *(number(part, FRACTION_DECIMALS) for part in fractions)])


def _data_yaml(splits: Sequence[str], classes: Sequence[str]) -> str:
    """Without ``path``, which would be relative to wherever the reader keeps its data sets."""
    # JSON's quotes are YAML's, and keep every reader from taking a name for a number or a truth.
    folders = [f"{split}: {json.dumps(f'images/{split}')}" for split in splits]
    names = [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(classes)]
    return "\n".join([*folders, "names:" if names else "names: {}", *names]) + "\n"

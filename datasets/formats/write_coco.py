"""How is a data set written as COCO instances JSON files?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..records import RawObject
from .outgoing import Fit, Outgoing, Place, Splits, extent, fit_box, rounded, write_new

_Entry = dict[str, Any]


def fit_coco(obj: RawObject, size: tuple[int, int]) -> Fit:
    return fit_box(obj)


def write_coco(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``annotations/instances_<split>.json``, and the images in ``<split>``.

    All ids count from 1, as pycocotools needs (an annotation 0 is never matched), categories in
    the order of ``classes``. ``ignore`` becomes ``iscrowd``; ``area`` is the box's.
    """
    for split, images in splits.items():
        for image in images:
            place(image.source, out / split / image.name)
        text = json.dumps(instances(images, classes), ensure_ascii=False, allow_nan=False)
        write_new(out / "annotations" / f"instances_{split}.json", text + "\n")


def instances(images: Sequence[Outgoing], classes: Sequence[str]) -> _Entry:
    """The content of one JSON file."""
    categories = {name: number for number, name in enumerate(classes, 1)}
    annotations: list[_Entry] = []
    for image_id, image in enumerate(images, 1):
        for obj in image.objects:
            place = {"id": len(annotations) + 1, "image_id": image_id}
            annotations.append(place | _instance(obj, categories[obj.name]))
    return {
        "info": {"description": "converted by resdet"},
        "licenses": [],
        "images": [_image(image_id, image) for image_id, image in enumerate(images, 1)],
        "annotations": annotations,
        "categories": [
            {"id": number, "name": name, "supercategory": ""} for name, number in categories.items()
        ],
    }


def _image(image_id: int, image: Outgoing) -> _Entry:
    height, width = image.size
    name = image.name.as_posix()
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def _instance(obj: RawObject, category: int) -> _Entry:
    width, height = extent(obj.box)
    return {
        "category_id": category,
        "bbox": [rounded(obj.box[0]), rounded(obj.box[1]), width, height],
        "area": rounded(width * height),
        "iscrowd": int(obj.ignore),
        "segmentation": [],
    }

"""Writing of COCO instances JSON."""

from __future__ import annotations

from collections.abc import Sequence

from ..records import RawObject
from .coco_json import Entry
from .writing import Outgoing, extent, rounded


def instances(images: Sequence[Outgoing], classes: Sequence[str]) -> Entry:
    """The content of one file.

    All ids count from 1, as pycocotools needs (an annotation 0 is never matched), categories in
    the order of ``classes``. ``ignore`` becomes ``iscrowd``; ``area`` is the object's, or else its
    box's.
    """
    categories = {name: number for number, name in enumerate(classes, 1)}
    annotations: list[Entry] = []
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


def _image(image_id: int, image: Outgoing) -> Entry:
    height, width = image.size
    name = image.name.as_posix()
    return {"id": image_id, "file_name": name, "width": width, "height": height}


def _instance(obj: RawObject, category: int) -> Entry:
    width, height = extent(obj.box)
    return {
        "category_id": category,
        "bbox": [rounded(obj.box[0]), rounded(obj.box[1]), width, height],
        "area": rounded(width * height) if obj.area is None else obj.area,
        "iscrowd": int(obj.ignore),
        "segmentation": [],
    }

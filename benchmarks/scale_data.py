"""Data sets of the size of COCO and ImageNet made of a few small images, and detections in memory.

Every image of a data set is a hard link to one of a few files, so that a million take no space.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from resdet.detection.structures import Annotation, Detections, Record

CLASSES = 80
#: (h, w) of the images; their contents are noise.
SIZES = ((48, 64), (64, 48), (48, 72), (64, 64))
#: ext4 allows 65,000 links of a file.
_LINKS = 60_000
#: Coordinates of a polygon; with these a COCO file has the 450 MB of train2017's.
_POLYGON = 44


def coco(folder: Path, images: int, objects: int) -> Path:
    """``train.json`` with the images of ``train/``, and ``val.json`` with the first eight in
    ``val/``."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        (folder / split).mkdir(parents=True)
    files = _image_files(folder / "files", images)
    entries = []
    for number in range(images):
        name, (height, width) = f"{number + 1:012d}.jpg", SIZES[number % len(SIZES)]
        for split in ("train", "val") if number < 8 else ("train",):
            os.link(files[number % len(files)], folder / split / name)
        entries.append({"id": number + 1, "file_name": name, "height": height, "width": width})
    owners = np.sort(rng.integers(images, size=objects)).tolist()
    corners = rng.uniform(0, 20, (objects, 2)).round(2).tolist()
    sides = rng.uniform(4, 26, (objects, 2)).round(2).tolist()
    polygon = rng.uniform(0, 48, _POLYGON).round(2).tolist()
    annotations = [
        {
            "segmentation": [polygon],
            "area": round(width * height * 0.7, 2),
            "iscrowd": 0,
            "image_id": owner + 1,
            "bbox": [x, y, width, height],
            "category_id": number % CLASSES + 1,
            "id": number + 1,
        }
        for number, (owner, (x, y), (width, height)) in enumerate(
            zip(owners, corners, sides, strict=True)
        )
    ]
    categories = [{"id": label + 1, "name": f"class {label:02d}"} for label in range(CLASSES)]
    few = [each for each in annotations if each["image_id"] <= 8]
    for split, of_images, of_objects in (
        ("train", entries, annotations),
        ("val", entries[:8], few),
    ):
        content = {"images": of_images, "annotations": of_objects, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
    return folder


def class_folders(folder: Path, images: int) -> Path:
    """``train`` with up to 1000 class folders and ``val`` with an image of each."""
    files, classes = _image_files(folder / "files", images), min(1000, images)
    for label in range(classes):
        for split, numbers in (("train", range(label, images, classes)), ("val", range(1))):
            place = folder / split / f"n{label:08d}"
            place.mkdir(parents=True)
            for number in numbers:
                os.link(files[number % len(files)], place / f"{place.name}_{number}.JPEG")
    return folder


def _image_files(folder: Path, images: int) -> list[Path]:
    """Files of each of `SIZES` in turn, as many as the links to them need."""
    folder.mkdir(parents=True)
    rng, files = np.random.default_rng(0), []
    for number in range(len(SIZES) * (1 + images // (_LINKS * len(SIZES)))):
        size = SIZES[number % len(SIZES)]
        files.append(folder / f"{number}.jpg")
        Image.fromarray(rng.integers(256, size=(*size, 3), dtype=np.uint8)).save(files[-1])
    return files


def found_in(images: int, detections: int) -> tuple[list[Record], dict[str, Detections]]:
    """Images of 480 x 640 px with 7 objects each, and detections: moved copies of the objects, and
    boxes at random."""
    generator = torch.Generator().manual_seed(0)
    records, found = [], {}
    for number in range(images):
        count = detections * (number + 1) // images - detections * number // images
        boxes, labels = _boxes(7, generator), torch.randint(CLASSES, (7,), generator=generator)
        records.append(
            Record(
                f"{number:06d}",
                Path(f"{number:06d}.jpg"),
                (480, 640),
                Annotation(boxes, labels, torch.zeros(7, dtype=torch.bool)),
            )
        )
        noise = torch.randn(min(count, 7), 4, generator=generator).clamp(-1.5, 1.5)
        moved = boxes[:count] + noise
        others = _boxes(count - len(moved), generator)
        random = torch.randint(CLASSES, (len(others),), generator=generator)
        found[records[-1].image_id] = Detections(
            torch.cat([moved, others]),
            torch.rand(count, generator=generator),
            torch.cat([labels[: len(moved)], random]),
        )
    return records, found


def _boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    corners = torch.rand(count, 2, generator=generator) * torch.tensor([500.0, 360.0])
    return torch.cat([corners, corners + 4 + torch.rand(count, 2, generator=generator) * 116], 1)

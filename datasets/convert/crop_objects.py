"""Crops of the annotated objects of a detection data set, as images for a classifier.

A classifier trained on them is a backbone for a detector of these objects, in particular if
background is one of its classes.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...detection.errors import ConfigError, DataError
from ...detection.ops.boxes import iou
from ...detection.structures import Record
from ..catalog import DataSplit
from ..image import DEFAULT_RULES, ImageRules, SkippedImage, read_image
from ..image_file import write_jpeg
from .placing import all_or_nothing

JPEG_QUALITY = 95
#: The class of regions without an object.
BACKGROUND = "background"
#: A region is background if its IoU with every object is below this.
BACKGROUND_IOU = 0.3
#: Sides of regions away from objects, as parts of the image's shorter side.
BACKGROUND_SIDES = (0.1, 0.6)
#: Random boxes that are tried for each background region.
_TRIES = 50

#: Rows and columns of an image.
Window = tuple[slice, slice]
#: x1, y1, x2, y2 in pixels.
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class CropRule:
    """How a box becomes a square crop.

    The side is the box's longer side plus ``margin`` times that on each side, at least
    ``min_side`` pixels. ``jitter`` shifts the square in each direction and scales it, by up to
    that fraction of its side. A square that leaves the image is moved back into it; one that is
    larger than the image is cut.

    Raises ConfigError for a negative value, a ``jitter`` of 1, or squares too small to be read.
    """

    margin: float = 0.15
    jitter: float = 0.0
    min_side: int = 32

    def __post_init__(self) -> None:
        if self.margin < 0:
            raise ConfigError(f"margin: {self.margin:g} is negative")
        if not 0 <= self.jitter < 1:
            raise ConfigError(f"jitter: {self.jitter:g} is not in [0, 1)")
        if self.min_side < DEFAULT_RULES.min_side:
            raise ConfigError(f"min_side: {self.min_side} is below {DEFAULT_RULES.min_side}")

    def part(
        self, box: Sequence[float], size: tuple[int, int], random: np.random.Generator
    ) -> Window:
        """Rows and columns of an image of ``size`` (h, w) for ``box`` (x1, y1, x2, y2)."""
        x1, y1, x2, y2 = box
        growth, *moves = random.uniform(-self.jitter, self.jitter, 3)
        side = max(x2 - x1, y2 - y1) * (1 + 2 * self.margin)
        moved = [((y1 + y2) / 2 + moves[0] * side), ((x1 + x2) / 2 + moves[1] * side)]
        side = max(side * (1 + growth), self.min_side)
        rows, columns = (
            _within(centre - side / 2, side, limit)
            for centre, limit in zip(moved, size, strict=True)
        )
        return rows, columns


def _within(start: float, length: float, limit: int) -> slice:
    whole = min(round(length), limit)
    first = min(max(round(start), 0), limit - whole)
    return slice(first, first + whole)


def write_object_crops(
    splits: Mapping[str, DataSplit],
    out: Path,
    rule: CropRule,
    *,
    background: int = 0,
    seed: int = 0,
    rules: ImageRules | None = None,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Counter[str]]:
    """Write ``out/<split>/<class>/<image>_<number>.jpg`` for every object, all or nothing.

    ``out`` is a new or empty folder. Objects marked ``ignore`` (VOC difficult, COCO crowd) are
    skipped. ``background`` adds that many regions of each image (`background_boxes`) as one more
    class. A crop depends on the seed, the image id and the object's number only. Returns the number
    of crops of each class by split; ``report`` is called after each image. Raises DataError for
    class names that cannot be folder names and for errors of the file system, and ImageError.
    """
    for split in splits.values():
        for name in split.classes:
            _expect_folder_name(name)
        if background and BACKGROUND in split.classes:
            raise DataError(f"the data have a class {BACKGROUND!r} already: leave out background")
    counts: dict[str, Counter[str]] = {}
    with all_or_nothing(out) as folder:
        for name, split in splits.items():
            counts[name] = Counter()
            for record in split.records:
                try:
                    crops = list(_crops(record, split.classes, rule, background, seed, rules))
                except SkippedImage as error:
                    warnings.warn(f"{error}; left out", stacklevel=2)
                    crops = []
                for crop in crops:
                    path = folder / name / crop.class_name / f"{crop.name}.jpg"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_jpeg(path, crop.pixels, quality=JPEG_QUALITY)
                    counts[name][crop.class_name] += 1
                report()
    return counts


def background_boxes(
    objects: Tensor, size: tuple[int, int], count: int, random: np.random.Generator
) -> list[Box]:
    """Up to ``count`` boxes inside an image of ``size`` (h, w) whose IoU with each of ``objects``
    (R, 4) is below BACKGROUND_IOU.

    Half of them are near an object and of about its size, like wrong proposals of a detector, the
    others anywhere. Fewer in a crowded image.
    """
    found: list[Box] = []
    for _ in range(count):
        for _ in range(_TRIES):
            box = _any_box(objects, size, random)
            large = min(box[2] - box[0], box[3] - box[1]) >= DEFAULT_RULES.min_side
            if large and not (iou(torch.tensor([box]), objects) >= BACKGROUND_IOU).any():
                found.append(box)
                break
    return found


def _any_box(objects: Tensor, size: tuple[int, int], random: np.random.Generator) -> Box:
    """A random square near an object or anywhere, cut to the image."""
    height, width = size
    if len(objects) and random.random() < 0.5:
        x1, y1, x2, y2 = objects[int(random.integers(len(objects)))].tolist()
        other = max(x2 - x1, y2 - y1)
        side = other * math.exp(random.uniform(-0.9, 0.9))
        x, y = (place + other * random.uniform(-1, 1) for place in ((x1 + x2) / 2, (y1 + y2) / 2))
    else:
        low, high = (math.log(part * min(size)) for part in BACKGROUND_SIDES)
        side = math.exp(random.uniform(low, high))
        x, y = random.uniform(0, width), random.uniform(0, height)
    half = side / 2
    return max(x - half, 0.0), max(y - half, 0.0), min(x + half, width), min(y + half, height)


@dataclass(frozen=True)
class _Crop:
    class_name: str
    name: str
    pixels: np.ndarray


def _crops(
    record: Record,
    classes: Sequence[str],
    rule: CropRule,
    background: int,
    seed: int,
    rules: ImageRules | None,
) -> Iterator[_Crop]:
    found = record.annotation
    if not background and bool(found.ignore.all()):
        return  # nothing to crop: the image need not be read
    pixels = read_image(record.path, rules or DEFAULT_RULES).pixels
    if pixels.shape[:2] != record.size:
        raise DataError(f"{record.path}: is not of the size {record.size} (h, w) of its annotation")
    identity = record.image_id.encode("utf-8", "surrogatepass")
    for number, (label, box) in enumerate(
        zip(found.labels.tolist(), found.boxes.tolist(), strict=True)
    ):
        if not found.ignore[number]:
            random = np.random.default_rng([seed, *identity, number])
            rows, columns = rule.part(box, record.size, random)
            name = f"{_file_name(record.image_id)}_{number:03d}"
            yield _Crop(classes[label], name, pixels[rows, columns])
    random = np.random.default_rng([seed, *identity])
    exact = replace(rule, jitter=0.0)  # shifted, it could show an object
    empty = background_boxes(found.boxes, record.size, background, random)
    for number, box in enumerate(empty, len(found.boxes)):
        rows, columns = exact.part(box, record.size, random)
        name = f"{_file_name(record.image_id)}_{number:03d}"
        yield _Crop(BACKGROUND, name, pixels[rows, columns])


def _file_name(image_id: str) -> str:
    """Ids may be paths; different ids get different names."""
    return image_id.replace("%", "%25").replace("/", "%2F").replace("\\", "%5C")


def _expect_folder_name(name: str) -> None:
    """Hidden folders are not classes, and a class must not lead out of the data set."""
    if not name or name.startswith(".") or set("/\\:\0") & set(name) or name != name.strip():
        raise DataError(f"class {name!r}: cannot be the name of a folder")

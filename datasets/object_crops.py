"""How do the annotated objects of a detection data set become pictures to classify?

A classifier trained on them is a backbone that has seen the detector's kind of object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ..detection.errors import ConfigError, DataError
from ..detection.structures import Record
from .catalog import DataSplit
from .image import DEFAULT_RULES, ImageRules, read_image
from .placing import all_or_nothing

JPEG_QUALITY = 95


@dataclass(frozen=True)
class CropRule:
    """How a box becomes a square part of its picture.

    The side is the box's longer side and ``margin`` times that on each side, but at least
    ``min_side`` pixels. ``jitter`` moves the square, each way by up to that part of its side, and
    grows or shrinks it by up to that part. A square that leaves the picture is moved back into it;
    a larger one is cut.

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
    ) -> tuple[slice, slice]:
        """Rows and columns of a picture of ``size`` (h, w) for ``box`` (x1, y1, x2, y2)."""
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
    seed: int = 0,
    rules: ImageRules | None = None,
    report: Callable[[], None] = lambda: None,
) -> dict[str, Counter[str]]:
    """Write ``out/<split>/<class>/<picture>_<number>.jpg`` for every object, all or nothing.

    ``out`` is a new or empty folder. Objects marked ``ignore`` (VOC difficult, COCO crowd) are left
    out. What is drawn for an object depends on the seed, its picture and its number alone. Returns
    how many objects of each class were written; ``report`` is called after each picture. Raises
    DataError for class names that are no folder's and for what the file system refuses, and
    ImageError.
    """
    for split in splits.values():
        for name in split.classes:
            _expect_folder_name(name)
    counts: dict[str, Counter[str]] = {}
    with all_or_nothing(out) as folder:
        for name, split in splits.items():
            counts[name] = Counter()
            for record in split.records:
                for obj in _objects(record, split.classes, rule, seed, rules):
                    _write(folder / name / obj.class_name / f"{obj.name}.jpg", obj.pixels)
                    counts[name][obj.class_name] += 1
                report()
    return counts


@dataclass(frozen=True)
class _Object:
    class_name: str
    name: str
    pixels: np.ndarray


def _objects(
    record: Record, classes: Sequence[str], rule: CropRule, seed: int, rules: ImageRules | None
) -> Iterator[_Object]:
    found = record.annotation
    if bool(found.ignore.all()):
        return  # nothing in it is wanted: the picture need not be read
    pixels = read_image(record.path, rules or DEFAULT_RULES).pixels
    if pixels.shape[:2] != record.size:
        raise DataError(f"{record.path}: is not of the size {record.size} (h, w) of its annotation")
    identity = record.image_id.encode("utf-8", "surrogatepass")
    for number, box in enumerate(found.boxes.tolist()):
        if not found.ignore[number]:
            random = np.random.default_rng([seed, *identity, number])
            rows, columns = rule.part(box, record.size, random)
            name = f"{_file_name(record.image_id)}_{number:03d}"
            yield _Object(classes[int(found.labels[number])], name, pixels[rows, columns])


def _file_name(image_id: str) -> str:
    """Ids may be paths; two ids never get one name."""
    return image_id.replace("%", "%25").replace("/", "%2F").replace("\\", "%5C")


def _write(path: Path, pixels: np.ndarray) -> None:
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise DataError(f"{path}: the picture could not be encoded as JPEG")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(encoded.tobytes())


def _expect_folder_name(name: str) -> None:
    """Hidden folders are no classes, and a class must not lead out of the data set."""
    if not name or name.startswith(".") or set("/\\:\0") & set(name) or name != name.strip():
        raise DataError(f"class {name!r}: cannot be the name of a folder")

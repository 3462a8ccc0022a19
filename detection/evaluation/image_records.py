"""``images.json``: what an evaluation found in each image, the worst first, for pages, other tools
and `compare`.

A JSON object with the ``version`` of its layout, ``task``, ``classes``, what all images share, and
``images``, one a line; docs/evaluation.md describes the entries. Undefined numbers are null.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..files import atomic_write, read_limited
from .columns import Columns, Floats, FoundColumns, TruthColumns, checked, id_order

#: The name of the file in the folder of an evaluation.
IMAGES = "images.json"
VERSION = 1


@dataclass(frozen=True, eq=False)
class ImageRecords:
    """The content of a file: ``header`` is all but the ``images``, which are in their order in the
    file, the worst first."""

    path: Path
    task: str
    classes: tuple[str, ...]
    images: Sequence[Mapping[str, Any]]
    header: Mapping[str, Any]

    @property
    def image_ids(self) -> tuple[str, ...]:
        """By `id_order`."""
        return tuple(sorted((each["image"] for each in self.images), key=id_order))

    def columns(self) -> Columns:
        """The objects and detections of a detector's file; raises DataError if it is damaged."""
        images = sorted(self.images, key=lambda each: id_order(each["image"]))
        try:
            _expect_even(images)
            truth = TruthColumns(
                _boxes(images, "objects"),
                _column(images, "objects", "labels", np.int64),
                _image_index(images, "objects"),
                _column(images, "objects", "ignore", np.bool_),
                _column(images, "objects", "areas", np.float64),
            )
            found = FoundColumns(
                _boxes(images, "detections"),
                _column(images, "detections", "labels", np.int64),
                _image_index(images, "detections"),
                _column(images, "detections", "scores", np.float64),
            )
            ids = tuple(each["image"] for each in images)
            return checked(Columns(ids, len(self.classes), truth, found), self.path)
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.path}: objects or detections are damaged: {error}") from error

    def values(self) -> dict[str, Floats]:
        """(N,) the contribution of each image to each number of a classifier or localizer, images
        by `id_order`; undefined ones are nan."""
        images = sorted(self.images, key=lambda each: id_order(each["image"]))
        try:
            names = list(images[0]["values"]) if images else []
            return {
                name: np.array([each["values"][name] for each in images], dtype=np.float64)
                for name in names
            }
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"{self.path}: values are damaged: {error}") from error


def write_images(
    path: Path, header: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]
) -> None:
    """Write the entries, each with ``image`` and ``wrong``, by which the worst are first."""
    ranked = sorted(entries, key=lambda each: (-each["wrong"], id_order(each["image"])))
    head = json.dumps({"version": VERSION, **header}, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as part, part.open("w", encoding="utf-8", newline="\n") as file:
        file.write(head[:-1] + ', "images": [\n')
        for number, each in enumerate(ranked):
            line = json.dumps(each, ensure_ascii=False, allow_nan=False)
            file.write((",\n" if number else "") + line)
        file.write("\n]}\n")


def read_images(path: str | Path) -> ImageRecords:
    """The file, or that of the folder of an evaluation.

    Raises:
        ConfigError: no such file.
        DataError: not written by an evaluation, or by a later version.
    """
    path = Path(path)
    path = path / IMAGES if path.is_dir() else path
    try:
        content = json.loads(read_limited(path).decode("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file; `resdet eval` writes it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or content.get("version") != VERSION:
        raise DataError(f"{path}: not the {IMAGES} of `resdet eval`, version {VERSION}")
    return records_of(path, content, content.get("images"))


def records_of(path: Path, header: Mapping[str, Any], images: Any) -> ImageRecords:
    """Entries with what they share, as they are in a file; raises DataError unless they are."""
    try:
        seen = Counter(each["image"] for each in images)
        if any(not isinstance(name, str) for name in seen):
            raise TypeError("an image id is no text")
        if twice := [name for name, count in seen.items() if count > 1]:
            raise TypeError(f"image {twice[0]!r:.80} is there more than once")
        if any(not isinstance(each["wrong"], int) for each in images):
            raise TypeError("an image without its number of errors")
        shared = {name: value for name, value in header.items() if name != "images"}
        classes = tuple(map(str, header["classes"]))
        return ImageRecords(path, str(header["task"]), classes, images, shared)
    except (LookupError, TypeError) as error:
        raise DataError(f"{path}: not the {IMAGES} of `resdet eval`: {error}") from error


def _expect_even(images: Sequence[Mapping[str, Any]]) -> None:
    """Raises ValueError for an image with, say, more boxes than labels."""
    for each in images:
        for part in ("objects", "detections"):
            if len({len(column) for column in dict(each[part]).values()}) > 1:
                raise ValueError(f"image {each['image']!r:.80}: {part} of several lengths")


def _boxes(images: Sequence[Mapping[str, Any]], part: str) -> Floats:
    boxes: Floats = _column(images, part, "boxes", np.float64)
    if len(boxes) and boxes.shape[1:] != (4,):
        raise ValueError("a box without four coordinates")
    return boxes.reshape(-1, 4)


def _column(images: Sequence[Mapping[str, Any]], part: str, name: str, dtype: Any) -> Any:
    column = np.array([value for each in images for value in each[part][name]], dtype=dtype)
    if column.ndim > (2 if name == "boxes" else 1):
        raise ValueError(f"{part}: a list in {name}")
    return column


def _image_index(images: Sequence[Mapping[str, Any]], part: str) -> Any:
    counts = [len(each[part]["labels"]) for each in images]
    return np.repeat(np.arange(len(counts)), counts)

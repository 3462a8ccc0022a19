"""Caltech-UCSD Birds 200-2011 as distributed: images with their classes and one box each.

Each line of the lists begins with the number of an image or class: ``images.txt`` has the path of
an image below ``images``, ``image_class_labels.txt`` the number of its class, ``classes.txt`` the
name of a class, ``train_test_split.txt`` 1 for training images, and ``bounding_boxes.txt`` x, y,
width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..listing import folder_with, image_files
from ..records import RawImage, RawObject
from .format import Format, Inspected, Reading, RootSource, checked_size
from .ilsvrc_files import TextLines
from .image_names import ImageFiles

_IMAGES, _LABELS, _CLASSES = "images.txt", "image_class_labels.txt", "classes.txt"
_SPLIT, _BOXES = "train_test_split.txt", "bounding_boxes.txt"


class CubSource(RootSource):
    """CUB-200-2011: the folder ``CUB_200_2011`` or the one that has it."""

    format: Literal["cub"] = "cub"


def inspect_cub(source: CubSource, reading: Reading) -> Inspected:
    """The usable images of a part, in the order of ``images.txt``, and all findings. The images of
    ``val`` are those of the data set's test part."""
    lists = _Lists(_home(source.root) or source.root)
    wanted = "1" if reading.part == "train" else "0"
    with_boxes = lists.has_boxes if reading.boxes is None else reading.boxes
    boxes = lists.read(_BOXES) if with_boxes else {}
    images, findings = [], lists.findings
    files = ImageFiles(lists.root / "images", allow_outside=reading.allow_outside)
    listed = lists.root / _IMAGES
    for number, name in lists.read(_IMAGES).items():
        where = f"image {number}"
        try:
            name_of_class = lists.class_of(number)
            if lists.part_of(number) != wanted:
                continue
            path = files.find(name, listed, where)
            size = checked_size(path, None, listed, reading.rules)
            objects = _objects(boxes.get(number), name_of_class, lists.root / _BOXES, number)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        if with_boxes and not objects:
            reason = f"{_BOXES} has no line of this image"
            findings.append(
                Finding("image_without_box", "warning", lists.root / _BOXES, reason, where, path)
            )
        images.append(RawImage(name, path, size, objects, listed, name_of_class))
    return images, [*findings, *files.notes(listed)]


class _Lists:
    """The lists of the data set in ``root``, read once each; ``findings`` are about their lines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.findings: list[Finding] = []
        self._tables: dict[str, dict[str, str]] = {}

    @property
    def has_boxes(self) -> bool:
        return (self.root / _BOXES).is_file()

    def read(self, name: str) -> dict[str, str]:
        """{number: the rest of its line}."""
        if name not in self._tables:
            lines = TextLines(self.root / name)
            table: dict[str, str] = {}
            for line, text in lines:
                number, _, rest = text.strip().partition(" ")
                if not number.isdecimal() or not rest.strip():
                    lines.bad(line, f"{text!r:.80}: expected a number and a value")
                elif number in table:
                    lines.bad(line, f"{number} is there already")
                else:
                    table[number] = rest.strip()
            self.findings += lines.findings
            self._tables[name] = table
        return self._tables[name]

    def class_of(self, image: str) -> str:
        """The name of an image's class; raises `Fault`."""
        number = self._of_image(_LABELS, image)
        if number not in self.read(_CLASSES):
            reason = f"{_CLASSES} has no class {number!r:.40}"
            raise Fault.of("unknown_class", self.root / _LABELS, reason, object=f"image {image}")
        return self.read(_CLASSES)[number]

    def part_of(self, image: str) -> str:
        """ "1" for training, "0" for testing; raises `Fault`."""
        part = self._of_image(_SPLIT, image)
        if part not in ("0", "1"):
            reason = f"{part!r:.40} is neither 1 (training) nor 0 (test)"
            raise Fault.of("malformed_file", self.root / _SPLIT, reason, object=f"image {image}")
        return part

    def _of_image(self, name: str, image: str) -> str:
        table = self.read(name)
        if image not in table:
            reason = f"{name} has no line of this image"
            raise Fault.of("missing_annotation", self.root / name, reason, object=f"image {image}")
        return table[image]


def _objects(text: str | None, name: str, path: Path, number: str) -> tuple[RawObject, ...]:
    if text is None:
        return ()
    try:
        x, y, width, height = map(float, text.split())
    except ValueError:
        reason = f"{text!r:.60}: expected x, y, width and height"
        where = f"image {number}"
        raise Fault.of("malformed_file", path, reason, object=where) from None
    return (RawObject(name, (x, y, x + width, y + height)),)


def _inspect_folder(sources: Sequence[CubSource]) -> list[Finding]:
    """A note about images that are not listed."""
    root = _home(sources[0].root) or sources[0].root
    if not (root / "images").is_dir():
        return []
    listed = {root / "images" / name for name in _Lists(root).read(_IMAGES).values()}
    alone = [path.name for path in image_files(root / "images") if path not in listed]
    if not alone:
        return []
    reason = f"{len(alone)} images are not listed: {first_few(alone)}"
    return [Finding("unlisted_image", "note", root / _IMAGES, reason)]


def _home(root: Path) -> Path | None:
    return folder_with(root, _IMAGES, _LABELS, _SPLIT)


def _recognise(root: Path) -> str:
    home = _home(root)
    reason = f"{_IMAGES}, {_LABELS} and {_SPLIT} are the lists of CUB-200-2011"
    return reason if home == root else f"{reason}, in {home.name}" if home else ""


def _splits(root: Path) -> dict[str, CubSource]:
    home = _home(root)
    return {name: CubSource(root=home) for name in ("train", "val")} if home else {}


FORMAT = Format(
    name="cub",
    source=CubSource,
    carries="both",
    layout="the lists of CUB-200-2011",
    recognise=_recognise,
    splits=_splits,
    inspect=inspect_cub,
    inspect_folder=_inspect_folder,
    boxed=lambda source: _Lists(_home(source.root) or source.root).has_boxes,
)

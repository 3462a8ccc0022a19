"""What formats share whose annotations of many images are in one file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from ...detection.files import expect_regular, read_limited
from ..findings import Fault, Finding
from ..image_file import is_file
from ..listing import files_with_suffix, split_order
from ..records import RawBox, RawImage, RawObject
from ..text import text_start, utf8_text
from .format import Inspected, Reading, Source, fit_all
from .image_names import ImageFiles

#: Files that are looked into to recognise a folder, and the bytes that are read of each.
_PROBED_FILES, PROBED_BYTES = 50, 2**16
#: Bytes of an annotation file; COCO's largest has 470 MB.
_LARGEST_FILE = 2**30


class FileSource(Source):
    """A file with the annotations of the images below a folder."""

    #: The folder of the images.
    images: Path
    #: The file.
    annotations: Path

    @property
    def title(self) -> str:
        return str(self.annotations)


F = TypeVar("F", bound=FileSource)


@dataclass(frozen=True)
class FileEntry:
    """An image in an annotation file: its ``name`` there, size (h, w) if stated, and objects;
    ``where`` is its place in the file."""

    name: str
    size: tuple[float, float] | None
    objects: tuple[RawObject, ...]
    where: str


def read_bytes(path: Path) -> bytes:
    """The content of an annotation file; raises `Fault`."""
    try:
        return read_limited(path, _LARGEST_FILE)
    except FileNotFoundError as error:
        raise Fault.of("missing_file", path, "no such file") from error
    except OSError as error:
        reason = f"cannot be read ({error.strerror or error})"
        raise Fault.of("malformed_file", path, reason) from error


def read_json(path: Path) -> Any:
    """The value in a JSON file; raises `Fault`."""
    try:
        return json.loads(utf8_text(read_bytes(path)))
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise Fault.of("malformed_json", path, error.msg, object=where) from error
    except (ValueError, RecursionError) as error:
        raise Fault.of("malformed_json", path, f"cannot be read ({error})") from error


def probe(path: Path) -> str:
    """The beginning of a file, "" if it cannot be read; see `text_start`."""
    try:
        expect_regular(path)
        with path.open("rb") as file:
            return text_start(file.read(PROBED_BYTES))
    except OSError:
        return ""


def inspect_entries(
    source: FileSource, reading: Reading, entries: Iterable[FileEntry], findings: list[Finding]
) -> Inspected:
    """The usable images, in the order of the file, and ``findings`` with those about the images.

    Ids are the paths of the images below ``source.images``.
    """
    listed, files = [], ImageFiles(source.images, allow_outside=reading.allow_outside)
    for entry in entries:
        try:
            path = files.find(entry.name, source.annotations, entry.where)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        image = RawImage(files.id_of(path), path, (0, 0), entry.objects, source.annotations)
        listed.append((image, entry.size, entry.where))
    images, faults = fit_all(listed, reading)
    findings += faults
    if not images and not findings:
        findings.append(Finding("no_images", "error", source.annotations, "names no images"))
    return images, findings + files.notes(source.annotations)


def bounding_box(points: Sequence[tuple[float, float]]) -> RawBox:
    """The smallest box around the points of a polygon; raises ValueError without points."""
    across, down = zip(*points, strict=True) if points else ((), ())
    return min(across), min(down), max(across), max(down)


def rotated_box(box: RawBox, degrees: float, centre: tuple[float, float]) -> RawBox:
    """The smallest box around ``box`` turned clockwise around ``centre``."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (x1, y1, x2, y2), (x, y) = box, centre
    corners = ((x1 - x, y1 - y), (x2 - x, y1 - y), (x2 - x, y2 - y), (x1 - x, y2 - y))
    return bounding_box([(x + a * cos - b * sin, y + a * sin + b * cos) for a, b in corners])


def outlines_note(source: Path, count: int) -> list[Finding]:
    """A note about objects whose boxes are those around an outline."""
    reason = f"{count} objects are outlines or rotated: the boxes around them are used"
    return [Finding("outline", "note", source, reason)] if count else []


# ---------------------------------------------------------------------------------- folders


@dataclass(frozen=True)
class FileLayout(Generic[F]):
    """Functions of a `Format` whose files have ``suffix`` and are told by ``is_format``.

    ``what`` describes such a file; ``names(path)`` returns the names of images in it, and may raise
    `Fault`.
    """

    source: type[F]
    suffix: str
    is_format: Callable[[Path], bool]
    what: str
    names: Callable[[Path], Iterable[str]] = lambda path: ()

    def recognise(self, root: Path) -> str:
        found = next(self._files(root), None)
        return f"{found.relative_to(root)} is {self.what}" if found else ""

    def recognise_file(self, path: Path) -> bool:
        return path.suffix.lower() == self.suffix and self.is_format(path)

    def splits(self, root: Path) -> dict[str, F]:
        """By the names of the files, or of their folders where names begin with ``_``
        (``train/_annotations.csv``)."""
        found: dict[str, Path] = {}
        for path in self._files(root):
            own = path.stem if not path.stem.startswith("_") or path.parent == root else ""
            name = own.strip("_") or path.parent.name
            found[name if name not in found else path.relative_to(root).as_posix()] = path
        return {split: self._source(root, found[split]) for split in sorted(found, key=split_order)}

    def named(self, root: Path, split: str | None, annotations: Path | None) -> F:
        if annotations is not None:
            return self._source(root, annotations)
        found = self.splits(root) if root.is_dir() else {}
        return found.get(str(split)) or self._source(root, root / f"{split}{self.suffix}")

    def _files(self, root: Path) -> Iterator[Path]:
        files = islice(files_with_suffix(root, self.suffix), _PROBED_FILES)
        return filter(self.is_format, files)

    def _source(self, root: Path, path: Path) -> F:
        """The images are in the folder that the first name is relative to: the file's, ``images``,
        or ``root``, below which names are searched for."""
        try:
            first = next(iter(self.names(path)), "")
        except Fault:  # reported by the reader
            first = ""
        places = (path.parent, root / path.stem, root / "images", root)
        images = next((place for place in places if first and is_file(place / first)), root)
        return self.source.model_validate({"images": images, "annotations": path})

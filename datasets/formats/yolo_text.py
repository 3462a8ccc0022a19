"""The texts of a YOLO folder: label files and lists of images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...detection.files import read_limited
from ..findings import Fault, Finding
from ..listing import is_image_name
from ..records import RawObject
from ..text import NotUtf8, text_start, utf8_text
from .file_source import bounding_box
from .values import Values, key_of
from .writing import number, rounded

#: Decimals of fractions: 1e-8 px of a side of 10 000 px, so that corners, rounded to
#: `PIXEL_DECIMALS`, are the same when read back.
FRACTION_DECIMALS = 12
#: Corners that exceed the image by at most this fraction of its side are on its edge: YOLO files
#: usually have six decimals, and a corner is the sum of two values.
ROUNDING = 1e-6
#: Larger coordinates are pixels. Smaller ones may be outside 0..1: their boxes leave the image.
LARGEST_FRACTION = 2.0

#: An image with 20 000 objects, or 30 000 class names.
_LARGEST_FILE = 2**20
#: Names of texts beside label files; an image of such a name has its labels all the same.
_OTHER_TEXTS = frozenset({"classes", "labels", "names", "notes", "train", "valid", "val", "test"})
_COLUMNS = ("class", "cx", "cy", "w", "h")


def read_text(path: Path) -> str:
    """The text of a file of names or labels; raises `Fault`."""
    try:
        text = utf8_text(read_limited(path, _LARGEST_FILE))
        return text.replace("\r\n", "\n").replace("\r", "\n")  # as files opened as text
    except (OSError, NotUtf8) as error:
        raise malformed(path, f"cannot be read ({error})") from error


def malformed(path: Path, reason: str) -> Fault:
    return Fault.of("malformed_file", path, reason)


def read_lines(path: Path) -> list[str]:
    """The non-empty lines, stripped; raises `Fault`."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def is_image_list(path: Path) -> bool:
    """Whether the first line is the path of an image."""
    return is_image_name(_first_line(path).replace("\\", "/").rpartition("/")[2])


def is_label_file(path: Path) -> bool:
    """Whether the first line has a class number and at least four numbers."""
    try:
        numbers = [Values(texts=True).stated("", word) for word in _first_line(path).split()]
        return len(numbers) >= len(_COLUMNS)
    except ValueError:
        return False


def _first_line(path: Path) -> str:
    """The first that is not empty, in any encoding; "" of a file that cannot be read."""
    try:
        lines = text_start(read_limited(path, _LARGEST_FILE)).splitlines()
    except OSError:
        return ""
    return next(filter(None, map(str.strip, lines)), "")


def is_other_text(path: Path) -> bool:
    """Whether a text among label files is a list of class names or images, or a description."""
    named = path.stem.lower() in _OTHER_TEXTS or path.stem.lower().startswith("readme")
    return named and not is_label_file(path)


# ---------------------------------------------------------------------------------- labels


def read_labels(
    path: Path, size: tuple[int, int], names: Mapping[int, str], values: Values
) -> tuple[list[RawObject], list[Finding], int]:
    """The objects of an image of ``size`` (h, w), the errors of the other lines, and how many of
    the objects are outlines; raises `Fault` for an unreadable file."""
    objects, findings, outlines = [], [], 0
    for index, line in enumerate(read_text(path).split("\n"), 1):
        columns = line.split()
        try:
            if columns:
                place = _Place(path, f"line {index}", size, values)
                objects.append(_object(columns, place, names))
                outlines += _is_outline(columns)
        except Fault as fault:
            findings.append(fault.finding)
    return objects, findings, outlines


def _is_outline(columns: list[str]) -> bool:
    """Whether a line has three or more points: a polygon, or the corners of an oriented box."""
    return len(columns) >= 7 and len(columns) % 2 == 1


@dataclass(frozen=True)
class _Place:
    """A line of a label file, for an image of ``size`` (h, w)."""

    path: Path
    line: str
    size: tuple[int, int]
    values: Values

    def fault(self, kind: str, reason: str) -> Fault:
        return Fault.of(kind, self.path, reason, object=self.line)


def _object(columns: list[str], place: _Place, names: Mapping[int, str]) -> RawObject:
    if _is_outline(columns):
        return _outline(columns, place, names)
    if len(columns) != len(_COLUMNS):
        reason = f"{len(columns)} columns, expected 5 ({' '.join(_COLUMNS)})"
        raise place.fault("malformed_object", reason + _other_format(len(columns)))
    name = _class_name(columns[0], place, names)
    middle_x, middle_y, part_x, part_y = (
        _fraction(text, place, column)
        for column, text in zip(_COLUMNS[1:], columns[1:], strict=True)
    )
    height, width = place.size
    box = (
        _corner(middle_x - part_x / 2, width),
        _corner(middle_y - part_y / 2, height),
        _corner(middle_x + part_x / 2, width),
        _corner(middle_y + part_y / 2, height),
    )
    return RawObject(name, box, reference=place.line)


def _outline(columns: list[str], place: _Place, names: Mapping[int, str]) -> RawObject:
    """The object with the box around ``class x1 y1 x2 y2 x3 y3 ...``."""
    name = _class_name(columns[0], place, names)
    sides = [_fraction(text, place, "xy"[n % 2]) for n, text in enumerate(columns[1:])]
    x1, y1, x2, y2 = bounding_box(list(zip(sides[::2], sides[1::2], strict=True)))
    height, width = place.size
    corners = (_corner(x1, width), _corner(y1, height), _corner(x2, width), _corner(y2, height))
    return RawObject(name, corners, reference=place.line)


def _corner(fraction: float, side: int) -> float:
    """The corner in pixels; rounding errors outside the image are moved to its edge."""
    inside = min(max(fraction, 0.0), 1.0)
    return rounded((inside if abs(fraction - inside) <= ROUNDING else fraction) * side)


def _other_format(columns: int) -> str:
    """A guess at the format of a line with this many columns."""
    if columns == len(_COLUMNS) + 1:
        return ": a prediction with its score?"
    return ": keypoints are not read" if columns > len(_COLUMNS) else ""


def _class_name(text: str, place: _Place, names: Mapping[int, str]) -> str:
    number = key_of(text) or ""
    if not (number.isascii() and number.isdigit()):
        raise place.fault("not_a_number", f"class is {text!r:.40}, expected a whole number")
    if len(number) > 9 or int(number) not in names:
        first = f" (from {min(names)})" if names else ""
        reason = f"class {text:.40} is outside the {len(names)} names{first}"
        raise place.fault("unknown_category", reason)
    place.values.key("class", text)
    return names[int(number)]


def _fraction(text: str, place: _Place, column: str) -> float:
    try:
        value = place.values.stated(column, text)
    except ValueError as error:
        raise place.fault("not_a_number", str(error)) from None
    if abs(value) > LARGEST_FRACTION and math.isfinite(value):
        raise place.fault("not_a_fraction", f"{column} is {text:.40}, outside 0..1: in pixels?")
    return value


def format_line(obj: RawObject, label: int, size: tuple[int, int]) -> str:
    """The line of an object in an image of ``size`` (h, w)."""
    height, width = size
    x1, y1, x2, y2 = obj.box
    fractions = (
        (x1 + x2) / 2 / width,
        (y1 + y2) / 2 / height,
        (x2 - x1) / width,
        (y2 - y1) / height,
    )
    return " ".join([str(label), *(number(part, FRACTION_DECIMALS) for part in fractions)])

"""Boxes in CSV files: one object a row.

Read are files with a header (``filename,width,height,class,xmin,ymin,xmax,ymax`` and usual other
names of these columns), Open Images (``ImageID,LabelName,XMin,XMax,YMin,YMax``: fractions, class
codes) and files without a header (``path,x1,y1,x2,y2,class``). Written is the first kind.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..listing import is_hidden
from ..records import RawImage, RawObject
from ..text import NotUtf8, utf8_text
from .file_source import (
    FileEntry,
    FileLayout,
    FileSource,
    inspect_entries,
    probe,
    read_bytes,
)
from .format import Contents, Format, Inspected, Reading
from .values import Values
from .writing import Place, Splits, Writer, fit_known_box, number, write_new

#: {column: its usual names, in lower case}.
_NAMES = {
    "image": ("filename", "file_name", "image", "image_path", "path", "img", "imageid", "image_id"),
    "name": ("class", "label", "name", "category", "class_name", "labelname"),
    "x1": ("xmin", "x_min", "x1", "left"),
    "y1": ("ymin", "y_min", "y1", "top"),
    "x2": ("xmax", "x_max", "x2", "right"),
    "y2": ("ymax", "y_max", "y2", "bottom"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
    "group": ("isgroupof",),
}
_BOX = ("x1", "y1", "x2", "y2")
_NEEDED = ("image", "name", *_BOX)
#: Columns of files without a header.
_BARE = {"image": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "name": 5}
_DESCRIPTIONS = "*class-descriptions*.csv"
_HEADER = ("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")


class CsvSource(FileSource):
    """A CSV file of boxes, whose image names are resolved below ``images``."""

    format: Literal["csv"] = "csv"


@dataclass(frozen=True)
class _Table:
    """The rows of a file as (line, cells); ``columns`` {column: index}. In Open Images boxes are
    ``fractions``."""

    columns: dict[str, int]
    rows: list[tuple[int, list[str]]]
    fractions: bool = False
    header: Sequence[str] = ()

    def cell(self, cells: Sequence[str], column: str) -> str:
        index = self.columns.get(column, len(cells))
        return cells[index].strip() if index < len(cells) else ""


def _read_table(path: Path) -> _Table:
    try:
        return _parse_table(utf8_text(read_bytes(path)), path)
    except NotUtf8 as error:
        raise Fault.of("malformed_file", path, f"cannot be read ({error})") from error


def _parse_table(text: str, path: Path) -> _Table:
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    rows = []
    try:
        rows = [(reader.line_num, cells) for cells in reader if any(cells)]
    except csv.Error as error:
        reason = f"line {reader.line_num}: {error}"
        raise Fault.of("malformed_file", path, reason) from error
    if not rows:
        raise Fault.of("malformed_file", path, "is empty")
    header = [cell.strip().lower() for cell in rows[0][1]]
    columns = {
        column: header.index(name)
        for column, names in _NAMES.items()
        for name in reversed(names)
        if name in header
    }
    if all(column in columns for column in _NEEDED):
        return _Table(columns, rows[1:], "labelname" in header and "imageid" in header, header)
    if _is_bare(rows[0][1]):
        return _Table(_BARE, rows)
    missing = [_NAMES[column][0] for column in _NEEDED if column not in columns]
    reason = f"line 1: no column {first_few(missing)}; expected {','.join(_HEADER)}"
    raise Fault.of("malformed_file", path, reason)


def _is_bare(cells: Sequence[str]) -> bool:
    """``path,x1,y1,x2,y2,class``, or ``path,,,,,`` of an image without objects."""
    if len(cells) != len(_BARE) or "." not in cells[0]:
        return False
    try:
        values = Values(texts=True)
        return not any(cells[1:]) or all(values.stated("", cell) is not None for cell in cells[1:5])
    except ValueError:
        return False


def _is_csv(path: Path) -> bool:
    start = probe(path)
    if "\0" in start:
        return False
    try:
        _parse_table("\n".join(start.split("\n")[:2]), path)
    except Fault:
        return False
    return True


def inspect_csv(source: CsvSource, reading: Reading) -> Inspected:
    """The images in the order of their first rows, and all findings."""
    try:
        table = _read_table(source.annotations)
        names = _descriptions(source.annotations) if table.fractions else {}
    except Fault as fault:
        return [], [fault.finding]
    findings: list[Finding] = []
    values = Values(texts=True)
    objects: dict[str, list[RawObject]] = {}
    sizes: dict[str, tuple[tuple[float, float] | None, str]] = {}
    for line, cells in table.rows:
        where, image = f"line {line}", table.cell(cells, "image")
        try:
            if not image:
                raise Fault.of("bad_image", source.annotations, "has no image", object=where)
            found = objects.setdefault(image, [])
            if image not in sizes:
                sizes[image] = None, where
                sizes[image] = _size(table, cells, source.annotations, where, values), where
            obj = _object(table, cells, source.annotations, where, values)
        except Fault as fault:
            findings.append(fault.finding)
            continue
        if obj is not None:
            found.append(obj)
    entries = (
        FileEntry(image, size, tuple(objects[image]), where)
        for image, (size, where) in sizes.items()
    )
    images, findings = inspect_entries(source, reading, entries, findings)
    findings += values.notes(source.annotations)
    return ([_in_pixels(image, names) for image in images] if table.fractions else images), findings


def _size(
    table: _Table, cells: Sequence[str], path: Path, where: str, values: Values
) -> tuple[float, float] | None:
    try:
        return values.size(table.cell(cells, "height"), table.cell(cells, "width"))
    except ValueError as error:
        raise Fault.of("bad_image", path, str(error), object=where) from None


def _object(
    table: _Table, cells: Sequence[str], path: Path, where: str, values: Values
) -> RawObject | None:
    """The object of a row; None if all its cells are empty, as for images without objects."""
    name, sides = table.cell(cells, "name"), [table.cell(cells, side) for side in _BOX]
    if not name and not any(sides):
        return None
    if not name:
        raise Fault.of("unnamed_object", path, "has no class", object=where)
    try:
        x1, y1, x2, y2 = (values.stated(_NAMES[side][0], table.cell(cells, side)) for side in _BOX)
        stated = table.cell(cells, "group")  # -1 in Open Images where it is not known
        group = values.flag(_NAMES["group"][0], "" if stated == "-1" else stated)
    except ValueError as error:
        raise Fault.of("not_a_number", path, str(error), object=where) from None
    return RawObject(name, (x1, y1, x2, y2), group, where)


def _descriptions(path: Path) -> dict[str, str]:
    """{code: class name} of the file of Open Images beside ``path``; {} if there is none."""
    places = sorted([*path.parent.glob(_DESCRIPTIONS), *path.parent.parent.glob(_DESCRIPTIONS)])
    found = [place for place in places if not is_hidden(place.name)]
    if not found:
        return {}
    try:
        text = utf8_text(read_bytes(found[0]))
    except NotUtf8 as error:
        raise Fault.of("malformed_file", found[0], f"cannot be read ({error})") from error
    return {row[0]: row[1] for row in csv.reader(io.StringIO(text)) if len(row) > 1}


def _in_pixels(image: RawImage, names: dict[str, str]) -> RawImage:
    height, width = image.size
    objects = []
    for obj in image.objects:
        x1, y1, x2, y2 = obj.box
        box = (x1 * width, y1 * height, x2 * width, y2 * height)
        objects.append(RawObject(names.get(obj.name, obj.name), box, obj.ignore, obj.reference))
    return RawImage(image.image_id, image.path, image.size, tuple(objects), image.source)


def _contents(source: CsvSource, images: Sequence[RawImage]) -> Contents:
    """Extras are the other columns, with the number of their cells that are not empty."""
    table = _read_table(source.annotations)
    other = {n: name for n, name in enumerate(table.header) if n not in table.columns.values()}
    filled = ((n, cell) for _, cells in table.rows for n, cell in enumerate(cells) if n in other)
    return Contents(source.images, Counter(f"column {other[n]}" for n, cell in filled if cell))


def _image_names(path: Path) -> Iterator[str]:
    table = _read_table(path)
    return (table.cell(cells, "image") for _, cells in table.rows)


# ---------------------------------------------------------------------------------- writing


def _write(out: Path, splits: Splits, classes: Sequence[str], place: Place) -> None:
    """``<split>.csv`` with the images in ``<split>``; an image without objects has one row."""
    for split, images in splits.items():
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_HEADER)
        for image in images:
            place(image.source, out / split / image.name)
            height, width = image.size
            start = (f"{split}/{image.name.as_posix()}", width, height)
            rows = [(obj.name, *map(number, obj.box)) for obj in image.objects] or [("",) * 5]
            writer.writerows((*start, *row) for row in rows)
        write_new(out / f"{split}.csv", text.getvalue())


_LAYOUT = FileLayout(CsvSource, ".csv", _is_csv, "a table of boxes", _image_names)

FORMAT = Format(
    name="csv",
    source=CsvSource,
    carries="boxes",
    layout="a CSV file with one box a row",
    recognise=_LAYOUT.recognise,
    recognise_file=_LAYOUT.recognise_file,
    splits=_LAYOUT.splits,
    named=_LAYOUT.named,
    inspect=inspect_csv,
    contents=_contents,
    writer=Writer(fit=fit_known_box, write=_write, pairs_by_stem=False, keeps_class_list=False),
)

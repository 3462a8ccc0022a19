"""The text files of ILSVRC: class names, lists of images, and predictions or boxes as CSV.

Readers continue after an invalid line and return it as a finding.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

from ...detection.files import read_limited
from ..findings import Fault, Finding
from ..records import RawBox
from ..text import utf8_text

#: Bytes; a bound for files without end.
_LARGEST_FILE = 2**30

#: Header of ``LOC_val_solution.csv`` and of submissions.
HEADER = ["ImageId", "PredictionString"]
#: A class and its box as written.
Row = tuple[str, RawBox]


class TextLines:
    """Iterates over (number, line) of the non-blank lines of a text file; collects findings."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.findings: list[Finding] = []

    def __iter__(self) -> Iterator[tuple[int, str]]:
        try:
            lines = _read(self.path).splitlines()
        except Fault as fault:
            self.findings.append(fault.finding)
            return
        yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())

    def bad(self, number: int, reason: str) -> None:
        reason = f"line {number}: {reason}"
        self.findings.append(Finding("malformed_file", "error", self.path, reason))


def read_mapping(path: Path) -> tuple[dict[str, str], list[Finding]]:
    """{wnid: names} of ``LOC_synset_mapping.txt``; lines are ``n01440764 tench, Tinca tinca``."""
    lines = TextLines(path)
    mapping: dict[str, str] = {}
    for number, line in lines:
        wnid, _, names = line.strip().partition(" ")
        if not names.strip():
            lines.bad(number, f"{line!r:.80}: expected a wnid and names")
        elif wnid in mapping:
            lines.bad(number, f"{wnid} is there twice")
        else:
            mapping[wnid] = names.strip()
    return mapping, lines.findings


def read_list(path: Path) -> tuple[list[str], list[Finding]]:
    """The ids of an image set, each once; lines are ``n01440764/n01440764_10026 1``."""
    lines = TextLines(path)
    ids: dict[str, int] = {}
    for number, line in lines:
        name, *rest = line.split()
        if len(rest) > 1 or not all(word.isdecimal() for word in rest):
            lines.bad(number, f"{line!r:.80}: expected an id and a number")
        elif name in ids:
            reason = f"line {number}: is there already in line {ids[name]}"
            lines.findings.append(Finding("listed_twice", "error", path, reason, name))
        else:
            ids[name] = number
    if not ids and not lines.findings:
        lines.findings.append(Finding("empty_image_set", "error", path, "lists no images"))
    return list(ids), lines.findings


def read_solution(path: Path) -> tuple[dict[str, list[Row]], list[Finding]]:
    """{id: the class and box of each object} of ``LOC_val_solution.csv``.

    Rows are ``ILSVRC2012_val_00000001,n01751748 111 108 441 193 n01751748 ...``: one class an
    image, and one or more boxes.
    """
    lines = TextLines(path)
    solution: dict[str, list[Row]] = {}
    try:
        for number, row in csv_rows(path):
            try:
                if number == 1 and row != HEADER:
                    raise ValueError(f"header is {row!r:.80}, expected {HEADER}")
                if number > 1:
                    name, objects = _solution_row(row)
                    if name in solution:
                        raise ValueError(f"{name} is there twice")
                    solution[name] = objects
            except ValueError as error:
                lines.bad(number, str(error))
    except Fault as fault:
        lines.findings.append(fault.finding)
    return solution, lines.findings


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, with the number of their last line; raises `Fault`."""
    rows = csv.reader(io.StringIO(_read(path)))
    try:
        yield from ((rows.line_num, row) for row in rows if row)
    except csv.Error as error:
        raise Fault.of("malformed_file", path, f"line {rows.line_num}: {error}") from error


def prediction_groups(row: list[str]) -> tuple[str, list[tuple[str, list[str]]]]:
    """(image id, (class, four coordinates) of each object); raises ValueError with the reason."""
    if len(row) != 2 or not row[0].strip():
        raise ValueError(f"{row!r:.80}: expected an id and a prediction string")
    words = row[1].split()
    if len(words) % 5:
        raise ValueError(f"{len(words)} words, expected groups of a class and four coordinates")
    starts = range(0, len(words), 5)
    return row[0].strip(), [(words[start], words[start + 1 : start + 5]) for start in starts]


def _solution_row(row: list[str]) -> tuple[str, list[Row]]:
    image_id, groups = prediction_groups(row)
    if not groups:
        raise ValueError("0 words, expected groups of a class and four coordinates")
    classes = sorted({name for name, _ in groups})
    if len(classes) > 1:
        raise ValueError(f"{row[0]}: several classes: {', '.join(classes)}")
    return image_id, [(name, _box(words)) for name, words in groups]


def _box(words: list[str]) -> RawBox:
    x1, y1, x2, y2 = (float(word) for word in words)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError(f"coordinates {' '.join(words)} are not finite")
    return x1, y1, x2, y2


def _read(path: Path) -> str:
    if not path.is_file():
        raise Fault.of("missing_file", path, "no such file")
    try:
        text = utf8_text(read_limited(path, _LARGEST_FILE))
        return text.replace("\r\n", "\n").replace("\r", "\n")  # as files opened as text
    except (OSError, ValueError) as error:
        raise Fault.of("malformed_file", path, f"cannot be read ({error})") from error

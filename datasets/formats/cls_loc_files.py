"""What do the text files of ILSVRC CLS-LOC say: class names, lists of images, val's solution?

Each reader goes on after a bad line and returns it as a finding.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from ..findings import Finding
from ..records import RawBox

_HEADER = ["ImageId", "PredictionString"]


def read_mapping(path: Path) -> tuple[dict[str, str], list[Finding]]:
    """{wnid: names} of ``LOC_synset_mapping.txt``; lines are ``n01440764 tench, Tinca tinca``."""
    text, findings = _read(path)
    mapping: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        wnid, _, names = line.strip().partition(" ")
        if not line.strip():
            continue
        if not names.strip():
            findings.append(_bad(path, number, f"{line!r:.80}: expected a wnid and names"))
        elif wnid in mapping:
            findings.append(_bad(path, number, f"{wnid} is there twice"))
        else:
            mapping[wnid] = names.strip()
    return mapping, findings


def read_list(path: Path) -> tuple[list[str], list[Finding]]:
    """The ids of an image set, each once; lines are ``n01440764/n01440764_10026 1``."""
    text, findings = _read(path)
    ids: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        if len(words) > 2 or (len(words) == 2 and not words[1].isdecimal()):
            findings.append(_bad(path, number, f"{line!r:.80}: expected an id and a number"))
        elif words[0] in ids:
            reason = f"line {number}: is there already in line {ids[words[0]]}"
            findings.append(Finding("listed_twice", "error", path, reason, words[0]))
        else:
            ids[words[0]] = number
    if not ids and not findings:
        findings.append(Finding("empty_image_set", "error", path, "lists no images"))
    return list(ids), findings


def read_solution(path: Path) -> tuple[dict[str, list[tuple[str, RawBox]]], list[Finding]]:
    """{id: (wnid, box as written) of each object} of ``LOC_val_solution.csv``.

    Rows are ``ILSVRC2012_val_00000001,n01751748 111 108 441 193 n01751748 ...``: one class an
    image, and one or more boxes.
    """
    text, findings = _read(path)
    solution: dict[str, list[tuple[str, RawBox]]] = {}
    rows = csv.reader(io.StringIO(text))
    try:
        for row in rows:
            if rows.line_num == 1 and row != _HEADER:
                findings.append(_bad(path, 1, f"header is {row!r:.80}, expected {_HEADER}"))
            if not row or rows.line_num == 1:
                continue
            try:
                name, objects = _solution_row(row)
                if name in solution:
                    raise ValueError(f"{name} is there twice")
                solution[name] = objects
            except ValueError as error:
                findings.append(_bad(path, rows.line_num, str(error)))
    except csv.Error as error:
        findings.append(_bad(path, rows.line_num, str(error)))
    return solution, findings


def _solution_row(row: list[str]) -> tuple[str, list[tuple[str, RawBox]]]:
    """Raises ValueError with the reason."""
    if len(row) != 2 or not row[0].strip():
        raise ValueError(f"{row!r:.80}: expected an id and a prediction string")
    words = row[1].split()
    if not words or len(words) % 5:
        raise ValueError(f"{len(words)} words, expected groups of a class and four coordinates")
    objects = [
        (words[start], _box(words[start + 1 : start + 5])) for start in range(0, len(words), 5)
    ]
    classes = sorted({name for name, _ in objects})
    if len(classes) > 1:
        raise ValueError(f"{row[0]}: several classes: {', '.join(classes)}")
    return row[0].strip(), objects


def _box(words: list[str]) -> RawBox:
    x1, y1, x2, y2 = (float(word) for word in words)
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError(f"coordinates {' '.join(words)} are not finite")
    return x1, y1, x2, y2


def _read(path: Path) -> tuple[str, list[Finding]]:
    if not path.is_file():
        return "", [Finding("missing_file", "error", path, "no such file")]
    try:
        return path.read_text("utf-8-sig"), []
    except (OSError, ValueError) as error:
        return "", [Finding("malformed_file", "error", path, f"cannot be read ({error})")]


def _bad(path: Path, line: int, reason: str) -> Finding:
    return Finding("malformed_file", "error", path, f"line {line}: {reason}")

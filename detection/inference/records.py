"""The records of a run: one JSON line per image, appended in order, repairable after a crash.

A run's folder holds ``meta.json`` (what the results depend on) and ``detections.jsonl``, or
``classes.jsonl`` of a classifier. A line is written whole or not at all, so that after a crash
everything but a cut last line is valid.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ...datasets.text import lines_of
from ..errors import ConfigError, DataError
from ..files import append_file, expect_regular, read_limited, write_file
from ..structures import Detections
from .ranked_classes import RankedClasses

RECORDS = "detections.jsonl"
CLASS_RECORDS = "classes.jsonl"
META = "meta.json"
#: The entry of META that names the inputs of a run, which may grow from one resume to the next.
INPUTS = "inputs"

#: Bytes of a record: over two million detections.
_LONGEST_LINE = 2**28
#: The entries of `stamp`.
STAMP = {"bytes", "modified"}
Json = Mapping[str, Any]


class RecordedImage(Protocol):
    """What a record says about an image: `LoadedImage` and `ResultImage` have it."""

    @property
    def size(self) -> tuple[int, int]: ...

    @property
    def orientation(self) -> int: ...

    @property
    def warnings(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class ResultEntry:
    """One line of the file of records: its image, error, number of detections or classes, the byte
    it ends at, whether its image has warnings, and the `stamp` of its file, if that is recorded."""

    file: str
    error: str | None
    found: int
    end: int
    warned: bool = False
    stamp: tuple[object, object] | None = None


def keep_records(path: Path, end: int) -> None:
    """Drop everything after byte ``end`` of a file of records, which is created if missing."""
    path.touch()
    os.truncate(path, end)


def append_record(path: Path, record: Json) -> None:
    """Append one line; after an OSError (disk full) the file is as before."""
    append_file(path, record_line(record))


def record_line(record: Json) -> bytes:
    """The line of a record, with its line end."""
    return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one at a time. Raises DataError for a damaged line."""
    for record, _ in _lines(path, repair=False):
        yield record


def scan(path: Path) -> list[ResultEntry]:
    """The entries of a file of records, without a last line that was cut by a crash.

    Raises DataError for damage anywhere else.
    """
    if not path.exists():
        return []
    return [
        ResultEntry(
            record["file"],
            record.get("error"),
            found_in(record),
            end,
            bool(record.get("warnings")),
            (record["bytes"], record["modified"]) if record.keys() >= STAMP else None,
        )
        for record, end in _lines(path, repair=True)
    ]


def stamp(path: Path) -> dict[str, int | float]:
    """Size and time of modification (seconds since 1970) of an image, for its record; empty where
    there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return {}
    return {"bytes": status.st_size, "modified": round(status.st_mtime, 3)}


def found_in(record: Json) -> int:
    """The number of detections or classes in a record; 0 for a failed image."""
    return len(record.get("detections", record.get("classes", ())))


def write_meta(folder: Path, meta: Json) -> None:
    """Write ``meta.json`` whole or not at all."""
    text = json.dumps(meta, ensure_ascii=False, indent=2) + "\n"
    write_file(folder / META, text)


def read_meta(folder: Path) -> dict[str, Any]:
    """Raises ConfigError when ``folder`` holds no readable ``meta.json`` with class names, or with
    inputs that are no list of names."""
    path = folder / META
    try:
        meta = json.loads(read_limited(path).decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read, so this is no folder of results") from error
    settings: dict[str, Any] = {INPUTS: [], **meta} if isinstance(meta, dict) else {}
    for key in ("classes", INPUTS):
        names = settings.get(key)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError(f"{path}: expected an object of settings with a list of {key}")
    return dict(meta)


def recorded_inputs(folder: Path) -> list[str]:
    """The inputs that the run in ``folder`` was last given; those of older runs are not kept."""
    return list(read_meta(folder).get(INPUTS, ()))


def check_same_run(folder: Path, meta: Json) -> None:
    """Raises ConfigError naming each setting of the run in ``folder`` that ``meta`` changes."""
    before = {key: value for key, value in read_meta(folder).items() if key != INPUTS}
    expect_same(str(folder), before, meta)


def expect_same(place: str, before: Json, meta: Json) -> None:
    """Raises ConfigError naming each of the settings ``before``, of the run at ``place``, that
    ``meta`` changes."""
    now = json.loads(json.dumps(meta))
    changed = [
        f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(f"{place}: cannot resume with other settings: {'; '.join(changed)}")


def expect_unchanged(
    entries: Sequence[ResultEntry], paths: Mapping[str, Path], folder: Path
) -> None:
    """Raise ConfigError for images at ``paths`` of another size in bytes than when they were
    recorded in ``folder``; warn where only their time differs, as that of a copy."""
    resized, touched = [], []
    for entry in entries:
        now = tuple(stamp(paths[entry.file]).values()) if entry.file in paths else ()
        if entry.stamp and now and entry.stamp[0] != now[0]:
            resized.append(entry.file)
        elif entry.stamp and now and entry.stamp != now:
            touched.append(entry.file)
    if resized:
        raise ConfigError(
            f"{folder}: cannot resume: replaced after they were recorded: {_some(resized)}; choose "
            "another folder"
        )
    if touched:
        warnings.warn(
            f"{folder}: modified after they were recorded: {_some(touched)}; if these are other "
            "images, choose another folder",
            stacklevel=2,
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def detection_record(
    name: str, image: RecordedImage, found: Detections, classes: Sequence[str]
) -> dict[str, Any]:
    """The record of an image with its detections, rounded to 1/1000 px; see `run_folder`."""
    columns = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return {
        **_image(name, image),
        "detections": [
            {
                "label": classes[label],
                "score": round(score, 6),
                "box": [round(side, 3) for side in box],
            }
            for label, score, box in columns
        ],
    }


def class_record(
    name: str, image: RecordedImage, found: RankedClasses, classes: Sequence[str]
) -> dict[str, Any]:
    """The record of an image with its classes, best first; see `run_folder`."""
    columns = zip(found.labels.tolist(), found.scores.tolist(), strict=True)
    return {
        **_image(name, image),
        "classes": [
            {"label": classes[label], "score": round(score, 6)} for label, score in columns
        ],
    }


def _image(name: str, image: RecordedImage) -> dict[str, Any]:
    height, width = image.size
    return {
        "file": name,
        "width": width,
        "height": height,
        "orientation": image.orientation,
        "warnings": list(image.warnings),
    }


def _lines(path: Path, *, repair: bool) -> Iterator[tuple[dict[str, Any], int]]:
    expect_regular(path)
    end, size = 0, path.stat().st_size
    with path.open("rb") as file:
        for number, line in enumerate(lines_of(file, _LONGEST_LINE, str(path)), start=1):
            record = _parse(line)
            if record is None and repair and end + len(line) == size:
                return
            if record is None:
                raise DataError(f"{path}: line {number} is damaged")
            end += len(line)
            yield record, end


def _parse(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if _is_record(record) else None


def _is_record(record: object) -> bool:
    """Whether a record has the fields described in `run_folder` that are read back."""
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        return False
    if record.get("error") is not None:
        return isinstance(record["error"], str)
    found, ranked = record.get("detections", []), record.get("classes", [])
    return (
        all(type(record.get(side)) is int for side in ("width", "height"))
        and isinstance(record.get("drawn", ""), str)
        and isinstance(found, list)
        and all(map(_is_detection, found))
        and isinstance(ranked, list)
        and all(map(_is_scored_class, ranked))
    )


def _is_detection(found: object) -> bool:
    box = found.get("box") if isinstance(found, dict) else None
    is_box = isinstance(box, list) and len(box) == 4 and all(map(_is_sane, box))
    return is_box and _is_scored_class(found)


def _is_scored_class(found: object) -> bool:
    return (
        isinstance(found, dict)
        and isinstance(found.get("label"), str)
        and _is_sane(found.get("score"))
    )


def _is_sane(value: object) -> bool:
    """Whether it is a number within the range of floats, neither NaN nor infinite."""
    return isinstance(value, int | float) and abs(value) < 1e30

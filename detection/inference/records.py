"""How do results survive a crash? One JSON line an image, in order, appended and repairable.

A run's folder holds ``meta.json`` (what the results depend on) and ``detections.jsonl``. A line is
written whole or not at all, so that after a crash everything but a cut last line is valid.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigError, DataError
from ..files import write_file

RECORDS = "detections.jsonl"
META = "meta.json"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file of records: its image, what went wrong, and the byte it ends at."""

    file: str
    error: str | None
    detections: int
    end: int


class RecordWriter:
    """Appends records to a file; each is with the system when `write` returns.

    There must be one writer only: `files.folder_lock` sees to that.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def __enter__(self) -> RecordWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def keep(self, end: int) -> None:
        """Drop everything after byte ``end``."""
        self._file.truncate(end)

    def write(self, record: Json) -> None:
        """Append one line; after an OSError (disk full) the file is as before."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        start = self._file.seek(0, os.SEEK_END)
        rest = memoryview(line.encode("utf-8"))
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(start)
            raise

    def sync(self) -> None:
        """Wait until the records would survive a power cut."""
        os.fsync(self._file.fileno())


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file, one at a time. Raises DataError for a damaged line."""
    for record, _ in _lines(path, repair=False):
        yield record


def scan(path: Path) -> list[Entry]:
    """What a file of records holds; a last line that was cut by a crash does not count.

    Raises DataError for damage anywhere else.
    """
    if not path.exists():
        return []
    return [
        Entry(record["file"], record.get("error"), len(record.get("detections", ())), end)
        for record, end in _lines(path, repair=True)
    ]


def write_meta(folder: Path, meta: Json) -> None:
    """Write ``meta.json`` at once or not at all."""
    text = json.dumps(meta, ensure_ascii=False, indent=2) + "\n"
    write_file(folder / META, text)


def read_meta(folder: Path) -> dict[str, Any]:
    """Raises ConfigError when ``folder`` holds no readable ``meta.json`` with class names."""
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read, so this is no folder of results") from error
    classes = meta.get("classes") if isinstance(meta, dict) else None
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise ConfigError(f"{path}: expected an object of settings with a list of classes")
    return dict(meta)


def check_same_run(folder: Path, meta: Json) -> None:
    """Raises ConfigError naming each setting of the run in ``folder`` that ``meta`` changes."""
    before, now = read_meta(folder), json.loads(json.dumps(meta))
    changed = [
        f"{key} was {_short(before.get(key))}, is {_short(now.get(key))}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise ConfigError(f"{folder}: cannot resume with other settings: {'; '.join(changed)}")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _lines(path: Path, *, repair: bool) -> Iterator[tuple[dict[str, Any], int]]:
    end = 0
    size = path.stat().st_size
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
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
    """Whether those who read records find what they read: see `run_folder` for the fields."""
    if not isinstance(record, dict) or not isinstance(record.get("file"), str):
        return False
    if record.get("error") is not None:
        return isinstance(record["error"], str)
    found = record.get("detections", [])
    return (
        all(type(record.get(side)) is int for side in ("width", "height"))
        and isinstance(record.get("drawn", ""), str)
        and isinstance(found, list)
        and all(map(_is_detection, found))
    )


def _is_detection(found: object) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("label"), str):
        return False
    box = found.get("box")
    numbers = [found.get("score"), *(box if isinstance(box, list) else ())]
    return len(numbers) == 5 and all(map(_is_sane, numbers))


def _is_sane(value: object) -> bool:
    """Whether one can calculate with it: NaN, infinity and integers beyond floats are not."""
    return isinstance(value, int | float) and abs(value) < 1e30

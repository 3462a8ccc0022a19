"""How do results survive a crash? One JSON line a picture, in order, appended and repairable.

A run's folder holds ``meta.json`` (what the results depend on) and ``detections.jsonl``. A line is
written whole or not at all, so that after a crash everything but a cut last line is valid.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ConfigError, DataError

RECORDS = "detections.jsonl"
META = "meta.json"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the file of records: its picture, what went wrong, and the byte it ends at."""

    file: str
    error: str | None
    detections: int
    end: int


class RecordWriter:
    """Appends records to a file that it holds for itself; each is on disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)
        try:
            _lock(self._file.fileno())
        except BlockingIOError as error:
            self._file.close()
            raise ConfigError(f"{path}: another run is writing to this folder") from error

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
    part = folder / f"{META}.part"
    part.write_text(text, encoding="utf-8")
    part.replace(folder / META)


def read_meta(folder: Path) -> dict[str, Any]:
    """Raises ConfigError when ``folder`` holds no readable ``meta.json``."""
    path = folder / META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read, so this is no folder of results") from error
    if not isinstance(meta, dict):
        raise ConfigError(f"{path}: expected an object of settings")
    return meta


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
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("file"), str) else None


def _lock(descriptor: int) -> None:
    """Take the file for this process until it is closed; Windows has no such lock."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

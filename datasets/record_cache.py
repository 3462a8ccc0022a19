"""A cache of the records of large data sets: what the same files gave before.

An entry is found by the content of the annotation files that a config names, by the path, size and
times of change of every file in its data folders, by the settings of reading, and by the code of
this package. A change of any of them reads everything again. Entries are in ``records`` of the
cache folder (`default_cache`), which may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from PIL import __version__ as pillow

from ..detection.errors import DataError
from ..detection.files import atomic_write, default_cache, sha256_of
from .catalog import DataSplit
from .findings import Finding
from .formats import FORMATS
from .formats.format import Source
from .listing import walk_folders
from .record_columns import COLUMNS, Records

#: Files of a data set; fewer are read in a few seconds.
LEAST_FILES = 2_000
#: Seconds that all files must be old: file systems that count whole seconds, and FAT, which counts
#: two, show no second change within them.
_LEAST_AGE = 2.0
#: Seconds to wait for another process that reads the same data.
_PATIENCE = 3600
#: Entries that are kept, the last used ones.
_MOST_ENTRIES = 20
_PACKAGE = Path(__file__).parents[1]
_LOG = logging.getLogger(__name__)


def cached(
    sources: Sequence[Source],
    options: object,
    read: Callable[[], Sequence[DataSplit]],
    *,
    enabled: bool = True,
) -> tuple[DataSplit, ...]:
    """The splits that ``read`` gives for the ``sources`` and ``options``, from an earlier reading
    where there was one; raises what ``read`` does.

    ``options`` must name, in its ``repr``, everything else that the result depends on. Small data
    sets, and sources whose format does not say where all of their content is, are always read.
    """
    found = _fingerprint(sources) if enabled else None
    if found is None:
        return tuple(read())
    path = _place(found, options)
    if splits := _load(path):
        return splits
    with _alone(path) as waited:
        if splits := _load(path):  # of the process that was waited for
            return splits
        if not waited:
            splits = tuple(read())
            if _fingerprint(sources) == found:  # else the files changed meanwhile
                _save(path, splits)
                return _load(path) or splits  # mapped from the file, which all processes share
            return splits
    return tuple(read())  # with the others that waited: no entry can be kept


# ---------------------------------------------------------------------------------- the key


def _place(fingerprint: str, options: object) -> Path:
    whole = repr((_code(), pillow, fingerprint, options))
    name = hashlib.sha256(os.fsencode(whole)).hexdigest()[:32]
    return default_cache() / "records" / f"{name}.pt"


@cache
def _code() -> str:
    """Of the package, whose records, defaults and readers stand in several folders."""
    digest = hashlib.sha256()
    for folder in ("backbones", "datasets", "detection", "tools"):
        for path in sorted((_PACKAGE / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _fingerprint(sources: Sequence[Source]) -> str | None:
    """Of the sources and all of their files; None for those that are not cached."""
    digest, count, newest = hashlib.sha256(), 0, 0.0
    for source in sources:
        places = FORMATS[source.format].places(source)
        if places is None:
            return None
        digest.update(os.fsencode(repr(source)))
        for place in places:
            try:
                lines, changed = _listed(place)
            except (DataError, OSError):  # reported by the reader
                return None
            digest.update(os.fsencode("\n".join([str(place.absolute()), *lines])))
            count, newest = count + len(lines), max(newest, changed)
    if count < LEAST_FILES or time.time() - newest < _LEAST_AGE:
        return None
    return digest.hexdigest()


def _listed(place: Path) -> tuple[list[str], float]:
    """A file's checksum, or a line for each file in a folder; and the newest time of change."""
    if place.is_file():
        return [sha256_of(place)], 0.0
    lines, newest = [], 0
    for folder, names in walk_folders(place):
        for name in names:
            path = f"{folder}/{name}"
            try:
                status = os.stat(path)  # noqa: PTH116 (a Path takes longer than the call)
            except OSError:  # a link to nothing
                lines.append(f"{path} -")
                continue
            # Archives give their times to the files that they replace; no program sets the other.
            times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
            lines.append(f"{path} {status.st_size} {times}")
            newest = max(newest, status.st_mtime_ns)
    return lines, newest / 1e9


# ---------------------------------------------------------------------------------- the entry


def _save(path: Path, splits: Sequence[DataSplit]) -> None:
    parts = [
        {
            **vars(split),
            "findings": json.dumps([asdict(each) for each in split.findings], default=str),
            # As bytes: torch takes empty columns of several types for one.
            "records": {
                name: torch.from_numpy(np.ascontiguousarray(each).reshape(-1).view(np.uint8))
                for name, each in split.records.columns.items()
            },
        }
        for split in splits
    ]
    try:
        with atomic_write(path) as part:
            torch.save({"splits": parts, "digest": _digest(parts)}, part)
        _remove_old(path.parent)
    except (OSError, RuntimeError) as error:  # torch's writer raises the latter for a full disk
        _LOG.warning("%s: the records are not kept for the next start: %s", path, error)


def _load(path: Path) -> tuple[DataSplit, ...]:
    """The splits of an entry; none where there is no entry, or a damaged one."""
    if not path.is_file():
        return ()
    try:
        content = torch.load(path, mmap=True, weights_only=True)
        if content["digest"] != _digest(content["splits"]):
            raise ValueError("its checksum is wrong")
        splits = tuple(map(_split, content["splits"]))
    except Exception as error:  # whatever a damaged file makes the readers raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        _LOG.warning("%s: the records are read again: %s", path, reason)
        return ()
    with suppress(OSError):
        os.utime(path)
    return splits


def _split(part: Mapping[str, Any]) -> DataSplit:
    columns = {
        name: part["records"][name].numpy().view(kind).reshape(-1, *shape)
        for name, (kind, shape) in COLUMNS.items()
    }
    findings = tuple(map(_finding, json.loads(part["findings"])))
    return DataSplit(**{**part, "records": Records(columns), "findings": findings})


def _finding(values: dict[str, Any]) -> Finding:
    paths = {name: Path(values[name]) for name in ("file", "image", "original") if values[name]}
    box = values["box"] and tuple(values["box"])
    return Finding(**{**values, **paths, "box": box})


def _digest(parts: Sequence[Mapping[str, Any]]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(repr({**part, "records": None}).encode())
        for name in COLUMNS:
            digest.update(part["records"][name].numpy())
    return digest.hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Wait for other processes that make the same entry, and yield whether there were any; without
    a lock where there can be none."""
    lock, waited = FileLock(f"{path}.lock"), False
    with suppress(OSError, Timeout):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            waited = True
            lock.acquire(timeout=_PATIENCE)
    try:
        yield waited
    finally:
        lock.release()


def _remove_old(folder: Path) -> None:
    entries = sorted(folder.glob("*.pt"), key=lambda path: path.stat().st_mtime)
    for path in entries[:-_MOST_ENTRIES]:
        path.unlink(missing_ok=True)
        Path(f"{path}.lock").unlink(missing_ok=True)

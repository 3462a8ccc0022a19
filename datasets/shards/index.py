"""The index of a folder of tar shards, as `resdet write-shards` writes it.

``index.jsonl`` has a header line, then a line for each shard, added when the shard is written. It
is complete when it has as many shards as the header says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...detection.errors import DataError, ResdetError, first_few, quoted
from ...detection.files import read_limited
from ...detection.structures import Annotation, Record
from ..catalog import DataSplit
from ..manifests.storage import is_remote, join, read_bytes, reason_of, size_of
from ..record_columns import Records
from ..text import utf8_text

INDEX = "index.jsonl"
FORMAT = "resdet-shards-1"
_LARGEST_INDEX = 2**28
#: Shards whose sizes are looked up at once.
_LOOKING = 16
_NAME = re.compile(r"[\w-]+\.tar")


@dataclass(frozen=True)
class Shard:
    """A tar file of ``size`` bytes, with the keys and labels of its images in order."""

    name: str
    size: int
    sha256: str
    keys: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class ShardSet:
    """One split of a data set, its ``classes`` in label order; ``folder`` is a path or address."""

    folder: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return sum(map(len, self.shards))

    def place(self, shard: Shard) -> str:
        """The path or address of a shard."""
        return join(self.folder, shard.name)

    def split(self) -> ShardSplit:
        """A record for each image; its path is the shard, its size unknown."""
        empty = Annotation.empty()
        records = Records.of(
            Record(key, Path(self.place(shard)), (0, 0), empty, label)
            for shard in self.shards
            for key, label in zip(shard.keys, shard.labels, strict=True)
        )
        return ShardSplit(records, self.classes, shards=self)


@dataclass(frozen=True, kw_only=True)
class ShardSplit(DataSplit):
    """A split whose images are read as a stream from ``shards``."""

    shards: ShardSet


@dataclass(frozen=True)
class Header:
    """The first line; ``source`` is a checksum of the plan of the shards."""

    classes: tuple[str, ...]
    shards: int
    count: int
    source: str

    def line(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}) + "\n"


def shard_line(shard: Shard) -> str:
    return json.dumps(asdict(shard)) + "\n"


def read_shards(folder: Path | str, *, classes: Sequence[str] | None = None) -> ShardSet:
    """The shards at a path or address, which must be complete and as long as the index says.

    ``classes`` renumbers the labels by name; None keeps the order of the index. Raises DataError,
    naming the file, also for a class that ``classes`` lacks. Contents are not read
    (`verify_shards`).
    """
    path = join(str(folder), INDEX)
    header, shards = read_index(path)
    if len(shards) < header.shards:
        raise DataError(
            f"{path}: {len(shards)} of {header.shards} shards are written; run "
            "`resdet write-shards` again to go on"
        )
    if len(shards) > header.shards or sum(map(len, shards)) != header.count or not shards:
        raise DataError(f"{path}: its shards do not add up to what its first line says")
    found = ShardSet(str(folder), header.classes, tuple(shards))
    with ThreadPoolExecutor(_LOOKING) as pool:
        for shard, size in zip(shards, pool.map(_size, map(found.place, shards)), strict=True):
            _expect_size(found.place(shard), size, shard.size)
    return found if classes is None else _renumbered(found, tuple(classes))


def _size(place: str) -> int | None:
    """Bytes of a shard; None if it is missing."""
    try:
        return size_of(place)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever the storage raises
        raise DataError(f"{place}: {reason_of(error)}") from error


def _expect_size(place: str, found: int | None, size: int) -> None:
    if found is None:
        raise DataError(f"{place}: the shard is missing")
    if found != size:
        raise DataError(
            f"{place}: has {found} bytes, {INDEX} says {size}: the copy is "
            "incomplete, or the file has changed"
        )


def _renumbered(found: ShardSet, classes: tuple[str, ...]) -> ShardSet:
    if unknown := sorted(set(found.classes) - set(classes)):
        raise DataError(
            f"{join(found.folder, INDEX)}: {len(unknown)} classes that training lacks: "
            f"{first_few(map(quoted, unknown))}"
        )
    numbers = [classes.index(name) for name in found.classes]
    shards = tuple(
        replace(shard, labels=tuple(numbers[label] for label in shard.labels))
        for shard in found.shards
    )
    return ShardSet(found.folder, classes, shards)


def read_index(path: str) -> tuple[Header, list[Shard]]:
    """The header and the shards; an incomplete last line, left by a crash, is ignored."""
    try:
        content = (
            read_bytes(path, 0, _LARGEST_INDEX)
            if is_remote(path)
            else read_limited(Path(path), _LARGEST_INDEX)
        )
        lines = utf8_text(content).splitlines(keepends=True)
    except ResdetError:
        raise
    except Exception as error:  # whatever the storage raises
        raise DataError(f"{path}: {reason_of(error)}") from error
    whole = [line for line in lines if line.endswith("\n")]
    if not whole:
        raise DataError(f"{path}: is empty")
    header = _header(path, _parsed(path, 1, whole[0]))
    shards = [
        _shard(path, number, _parsed(path, number, line), len(header.classes))
        for number, line in enumerate(whole[1:], 2)
    ]
    if len({shard.name for shard in shards}) < len(shards):
        raise DataError(f"{path}: lists a shard twice")
    return header, shards


def _parsed(path: str, number: int, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: line {number}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: line {number}: expected an object")
    return content


def _header(path: str, content: dict[str, Any]) -> Header:
    if content.pop("format", None) != FORMAT:
        raise DataError(f"{path}: line 1: expected format {FORMAT!r}")
    match content:
        case {"classes": [*classes], "shards": int(shards), "count": int(count), "source": source}:
            names = tuple(map(str, classes))
            if names and len(set(names)) == len(names):
                return Header(names, shards, count, str(source))
    raise DataError(f"{path}: line 1: expected distinct classes, shards, count and source")


def _shard(path: str, number: int, content: dict[str, Any], classes: int) -> Shard:
    match content:
        case {
            "name": str(name),
            "size": int(size),
            "sha256": str(digest),
            "keys": [*keys],
            "labels": [*labels],
        } if (
            # webdataset would run a name with a scheme as a command; a folder would lead elsewhere.
            _NAME.fullmatch(name)
            and 0 < len(keys) == len(labels)
            and all(isinstance(label, int) and 0 <= label < classes for label in labels)
        ):
            return Shard(name, size, digest, tuple(map(str, keys)), tuple(labels))
    raise DataError(f"{path}: line {number}: not a shard's name, size, sha256, keys and labels")

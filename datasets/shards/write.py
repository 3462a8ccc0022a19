"""Writing the images of a split into tar shards; an interrupted run can be continued.

The plan (which image goes where) follows from the records alone. A shard is written to a temporary
file, renamed when complete, and then added to the index; another run with the same plan continues
after the last shard in the index. The same records give the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from ...detection.errors import ConfigError, DataError
from ...detection.files import atomic_write, part_of, read_limited, sha256_of, write_file
from ..catalog import DataSplit
from ..memory import MAX_FILE
from .index import INDEX, Header, Shard, read_index, shard_line

#: Size of a tar header and of a block.
_BLOCK = 512
#: Maximum size of the end of a tar file: two empty blocks, and padding to a record of 20.
_END = 22 * _BLOCK
_SUFFIXES = {".jpeg": "jpg", ".jpe": "jpg", ".jfif": "jpg", ".tiff": "tif"}


@dataclass(frozen=True)
class ShardEntry:
    """One image to be written, as the files ``key.suffix`` and ``key.cls`` of a shard."""

    path: Path
    key: str
    suffix: str
    label: int
    size: int


@dataclass(frozen=True)
class ShardPlan:
    """The class names, and the images of each shard in order."""

    classes: tuple[str, ...]
    shards: tuple[tuple[ShardEntry, ...], ...]

    @property
    def count(self) -> int:
        return sum(map(len, self.shards))

    @property
    def header(self) -> Header:
        """The first line of the index, with a checksum of everything in the plan."""
        digest = hashlib.sha256()
        for number, shard in enumerate(self.shards):
            for entry in shard:
                row = (number, entry.key, entry.suffix, entry.label, entry.size)
                digest.update(repr(row).encode("utf-8", "surrogatepass"))
        return Header(self.classes, len(self.shards), self.count, digest.hexdigest())


def plan_shards(split: DataSplit, *, max_bytes: int, seed: int = 0) -> ShardPlan:
    """The images in a seeded random order (a stream is shuffled locally only), in shards of at most
    ``max_bytes``, or of one larger image.

    Raises DataError for an image that has no class or cannot be found; ConfigError for a size below
    a megabyte, which would make more files than it saves.
    """
    if max_bytes < 2**20:
        raise ConfigError(f"shard size: {max_bytes} bytes, expected at least a megabyte")
    if not split.records:
        raise DataError("no images to write")
    entries = list(_entries(split))
    order = np.random.default_rng(seed).permutation(len(entries))
    shards: list[list[ShardEntry]] = [[]]
    filled = _END
    for entry in (entries[index] for index in order):
        space = _space(entry)
        if shards[-1] and filled + space > max_bytes:
            shards.append([])
            filled = _END
        shards[-1].append(entry)
        filled += space
    return ShardPlan(split.classes, tuple(map(tuple, shards)))


def _space(entry: ShardEntry) -> int:
    """Bytes in the tar file: two headers, and two contents in whole blocks; names of over 100
    characters take two blocks more."""
    names = 2 * 2 * _BLOCK if len(entry.key) > 90 else 0
    return names + 3 * _BLOCK + -(-entry.size // _BLOCK) * _BLOCK


def _entries(split: DataSplit) -> Iterator[ShardEntry]:
    used: set[str] = set()
    for record in split.records:
        if record.image_label is None:
            raise DataError(f"{record.path}: the image has no class")
        try:
            size = record.path.stat().st_size
        except OSError as error:
            raise DataError(f"{record.path}: {error.strerror or error}") from error
        suffix = record.path.suffix.lower()
        key = _free(_key(record.image_id), used)
        used.add(key)
        yield ShardEntry(
            record.path, key, _SUFFIXES.get(suffix, suffix[1:]), record.image_label, size
        )


def _key(image_id: str) -> str:
    """``n01440764/n01440764_10026`` of ``n01440764/n01440764_10026.JPEG``.

    webdataset ends a key at the first dot of its last part and leaves out names that begin with two
    underscores; tar names are ASCII here, so that all readers agree on them.
    """
    stem = image_id.rpartition(".")[0] or image_id
    return re.sub(r"^_+", "", re.sub(r"[^A-Za-z0-9_/-]", "_", stem)).strip("/") or "image"


def _free(key: str, used: set[str]) -> str:
    number, free = 1, key
    while free in used:
        number += 1
        free = f"{key}-{number}"
    return free


# ------------------------------------------------------------------------------------- writing


def write_shards(
    plan: ShardPlan, folder: Path, *, report: Callable[[Shard], None] = lambda shard: None
) -> int:
    """Write the missing shards into ``folder``; returns the number of existing ones.

    ``report`` is called after each new shard. Raises DataError if the folder has other shards,
    for an image that has changed meanwhile, and for errors of the file system; shards written
    before that are kept.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        done = _started(plan, folder)
        with (folder / INDEX).open("a", encoding="utf-8", newline="\n") as index:
            for number in range(done, len(plan.shards)):
                shard = _write_shard(folder, f"{number:06d}.tar", plan.shards[number])
                index.write(shard_line(shard))
                index.flush()
                os.fsync(index.fileno())
                report(shard)
    except OSError as error:
        raise DataError(f"{error.filename or folder}: {error.strerror or error}") from error
    return done


def _started(plan: ShardPlan, folder: Path) -> int:
    """The number of complete shards; truncates the index after them."""
    for left in folder.glob(part_of(Path("*")).name):
        left.unlink()
    path = folder / INDEX
    if not path.exists():
        if any(folder.glob("*.tar")):
            raise DataError(f"{folder}: has tar files but no {INDEX}; choose another folder")
        write_file(path, plan.header.line(), sync=True)
        return 0
    header, shards = read_index(str(path))
    if header != plan.header:
        raise DataError(
            f"{path}: is of other images, classes, sizes or another seed; choose another folder"
        )
    # After a crash of the machine the index may list shards that are not on disk.
    whole = list(takewhile(lambda shard: _is_there(folder, shard), shards))
    write_file(path, header.line() + "".join(map(shard_line, whole)), sync=True)
    return len(whole)


def _is_there(folder: Path, shard: Shard) -> bool:
    path = folder / shard.name
    return path.is_file() and path.stat().st_size == shard.size


def _write_shard(folder: Path, name: str, entries: Sequence[ShardEntry]) -> Shard:
    with atomic_write(folder / name, sync=True) as part:
        with tarfile.open(part, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for entry in entries:
                _add(archive, f"{entry.key}.{entry.suffix}", _content(entry))
                _add(archive, f"{entry.key}.cls", str(entry.label).encode())
        digest = sha256_of(part)
        size = part.stat().st_size
    keys, labels = zip(*((entry.key, entry.label) for entry in entries), strict=True)
    return Shard(name, size, digest, keys, labels)


def _content(entry: ShardEntry) -> bytes:
    try:
        content = read_limited(entry.path, MAX_FILE)
    except OSError as error:
        raise DataError(f"{entry.path}: {error.strerror or error}") from error
    if len(content) != entry.size:
        raise DataError(f"{entry.path}: has changed while the shards were written")
    return content


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a member without owner and time, so that the same images give the same bytes."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = len(content), 0o644
    archive.addfile(member, io.BytesIO(content))


def verify_shards(folder: Path, shards: Sequence[Shard]) -> Iterator[Shard]:
    """Yield each shard after its checksum was verified.

    Raises DataError, naming the file.
    """
    for shard in shards:
        path = folder / shard.name
        try:
            digest = sha256_of(path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror or error}") from error
        if digest != shard.sha256:
            raise DataError(f"{path}: its contents are not those that were written (sha256)")
        yield shard

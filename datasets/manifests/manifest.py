"""Manifests: the images of a large run, listed once into Parquet files of a few thousand each.

A manifest is a folder with ``manifest.json`` and ``shard-00000.parquet``, ``shard-00001.parquet`` …
It is complete once ``manifest.json`` says so, which is written last.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from ...detection.errors import ConfigError, DataError
from ...detection.extras import require_extra
from ...detection.files import folder_lock
from .entries import Entry, from_parquet, to_parquet
from .sources import ImageSource, absolute, find_sources
from .storage import Store, is_remote, reason_of

INDEX = "manifest.json"
FORMAT = "resdet manifest 1"
#: Kinds of files in the count of what was left out.
_KINDS = 20
#: Shards that are read at once.
_READERS = 16


def shard_name(number: int) -> str:
    return f"shard-{number:05}.parquet"


@dataclass(frozen=True)
class Manifest:
    """A manifest: where it is, what it was made of, and how many images and shards it has.

    ``digest`` is a SHA-256 of all entries and of how they are divided into shards; empty in
    manifests that other programs made.
    """

    sources: tuple[str, ...]
    per_shard: int
    hidden: bool = False
    images: int = 0
    shards: int = 0
    complete: bool = False
    left_out: dict[str, int] = field(default_factory=dict)
    digest: str = ""

    @property
    def is_well_typed(self) -> bool:
        """Whether every field has its type, which a file need not respect."""
        left_out = self.left_out if isinstance(self.left_out, dict) else {"": None}
        counts = (self.per_shard, self.images, self.shards, *left_out.values())
        return (
            all(isinstance(each, str) for each in (*self.sources, self.digest, *left_out))
            and all(type(each) is int and each >= 0 for each in counts)
            and all(isinstance(each, bool) for each in (self.hidden, self.complete))
        )

    def text(self) -> str:
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def read_manifest(folder: str) -> Manifest:
    """The manifest in a folder or at an address. Raises ConfigError for one that is missing or
    incomplete, DataError for anything else."""
    require_extra("remote")
    manifest = _existing(Store(folder))
    if manifest is None:
        raise ConfigError(f"{folder}: has no {INDEX}; `resdet manifest` makes one")
    if not manifest.complete:
        raise ConfigError(f"{folder}: is not complete; run the same `resdet manifest` again")
    return manifest


def read_entries(folder: str, number: int) -> list[Entry]:
    """The images of one shard. Raises DataError."""
    return from_parquet(_content(folder, number), Store(folder).address(shard_name(number)))[0]


def expect_ids(folder: str, number: int, first: int) -> None:
    """Raise DataError unless the ids of a shard count from ``first``."""
    import pyarrow.parquet as pq

    content = _content(folder, number)
    ids = pq.read_table(io.BytesIO(content), columns=["id"]).column("id").to_pylist()
    if ids != list(range(first, first + len(ids))):
        address = Store(folder).address(shard_name(number))
        raise DataError(f"{address}: ids must count from {first}, and from 0 in the first shard")


def digest_of(folder: str) -> str:
    """A SHA-256 that differs for other images or shards: that of the listing, or, of a manifest
    without one, that of its Parquet files. Raises as `read_manifest` and `read_entries`."""
    manifest = read_manifest(folder)
    if manifest.digest:
        return manifest.digest
    with ThreadPoolExecutor(_READERS) as pool:
        digests: list[str] = []
        for first in range(0, manifest.shards, _READERS):  # the first missing shard ends it
            numbers = range(first, min(first + _READERS, manifest.shards))
            digests += pool.map(lambda number: _sha256(_content(folder, number)), numbers)
        return _sha256("".join(digests).encode())


def _content(folder: str, number: int) -> bytes:
    store, name = Store(folder), shard_name(number)
    try:
        return store.read(name)
    except Exception as error:  # whatever the storage raises
        raise DataError(f"{store.address(name)}: {reason_of(error)}") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write_manifest(
    inputs: Sequence[str],
    out: str,
    *,
    per_shard: int = 2000,
    hidden: bool = False,
    report: Callable[[int], None] = lambda images: None,
) -> Manifest:
    """List the images of ``inputs`` (see `find_sources`) into ``out``, a folder or an address; an
    interrupted listing goes on after its last shard. ``report(images)`` is called for each shard.

    Raises ConfigError for wrong inputs, for other inputs than those of the manifest in ``out``, and
    where there is no image; DataError for what cannot be read.
    """
    require_extra("remote")
    if per_shard < 1:
        raise ConfigError(f"images per shard must be at least 1, got {per_shard}")
    sources = find_sources(inputs, hidden=hidden)
    wanted = Manifest(tuple(map(absolute, inputs)), per_shard, hidden)
    store = Store(out)
    with ExitStack() as stack:
        if not is_remote(out):
            stack.enter_context(folder_lock(Path(out)))
        before = _existing(store)
        others = [name for name in store.names() if name != INDEX and name[0] != "."]
        if before is None and others:
            raise ConfigError(f"{out}: is not empty; choose another folder")
        if before is None or not others:
            store.write(INDEX, wanted.text().encode())
        elif _asked(before) != wanted:
            raise ConfigError(f"{out}: is the manifest of other inputs or options")
        elif before.complete:
            return before
        return _list(sources, wanted, store, report)


def _list(
    sources: Sequence[ImageSource], wanted: Manifest, store: Store, report: Callable[[int], None]
) -> Manifest:
    where = _Position.of(store)
    images, shards, digest = where.images, where.shards, where.digest
    entries = _entries(sources, where)
    while piece := list(islice(entries, wanted.per_shard)):
        digest = _sha256(digest.encode() + json.dumps(piece).encode())
        about = {
            "digest": digest,
            "images": images + len(piece),
            "source": where.source,
            "done": where.done,
            "left_out": _largest(where.left_out, *(source.left_out for source in sources)),
        }
        store.write(shard_name(shards), to_parquet(piece, images, about))
        images, shards = images + len(piece), shards + 1
        report(images)
    left_out = _largest(where.left_out, *(source.left_out for source in sources))
    if not images:
        others = ", ".join(f"{count} {kind}" for kind, count in left_out.items())
        raise ConfigError(f"{' '.join(wanted.sources)}: no images" + f" ({others})" * bool(others))
    counts: dict[str, Any] = {"images": images, "shards": shards, "left_out": left_out}
    complete = replace(wanted, complete=True, digest=digest, **counts)
    store.write(INDEX, complete.text().encode())
    return complete


def _asked(manifest: Manifest) -> Manifest:
    """A manifest before its listing."""
    return Manifest(manifest.sources, manifest.per_shard, manifest.hidden)


@dataclass
class _Position:
    """How far a listing is: ``last`` is number ``done`` of source number ``source``;
    ``digest`` is that of all entries before."""

    images: int = 0
    shards: int = 0
    source: int = 0
    done: int = 0
    last: Entry | None = None
    left_out: dict[str, int] = field(default_factory=dict)
    digest: str = ""

    @staticmethod
    def of(store: Store) -> _Position:
        shards = sum(name.startswith("shard-") for name in store.names())
        if not shards:
            return _Position()
        name = shard_name(shards - 1)
        entries, about = from_parquet(store.read(name), store.address(name))
        try:
            images, source, done = about["images"], about["source"], about["done"]
            left_out, digest = about["left_out"], about["digest"]
            return _Position(images, shards, source, done, entries[-1], left_out, digest)
        except (LookupError, TypeError) as error:
            raise DataError(
                f"{store.address(name)}: not of `resdet manifest`, which cannot go on after it"
            ) from error


def _entries(sources: Sequence[ImageSource], where: _Position) -> Iterator[Entry]:
    """All entries from a position on, which is kept up to date."""
    for number in range(where.source, len(sources)):
        if number > where.source:
            where.source, where.done, where.last = number, 0, None
        for entry in sources[number].entries(where.last, where.done):
            where.done += 1
            yield entry


def _largest(*counts: Any) -> dict[str, int]:
    return dict(sum(map(Counter, counts), Counter()).most_common(_KINDS))


def _existing(store: Store) -> Manifest | None:
    address = store.address(INDEX)
    try:
        content = json.loads(store.read(INDEX))
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever the storage or the parser raises
        raise DataError(f"{address}: {reason_of(error)}") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise DataError(f"{address}: no manifest in the format {FORMAT!r}")
    try:
        found = Manifest(**content | {"sources": tuple(content["sources"])})
    except (KeyError, TypeError) as error:
        raise DataError(f"{address}: fields are missing or unknown ({error})") from error
    if not isinstance(content["sources"], list) or not found.is_well_typed:
        raise DataError(f"{address}: damaged: fields have other types than `resdet manifest` wrote")
    return found

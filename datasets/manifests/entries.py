"""The images of a manifest, and the Parquet files that list them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...detection.errors import DataError, one_line

_ABOUT = b"resdet"
_REQUIRED = ("id", "path")


class Entry(NamedTuple):
    """An image: ``path`` or address, bytes (None: unknown), ETag ("": none), the ``name`` that
    results have, and where it begins in a tar file: ``tar://NAME::TAR`` is its path there."""

    path: str
    size: int | None
    etag: str
    name: str
    offset: int | None = None

    @property
    def place(self) -> str:
        """The path or address of the file that holds it: its own, or that of its tar file."""
        return self.path if self.offset is None else self.path.rpartition("::")[2]


def to_parquet(entries: Sequence[Entry], first: int, about: Mapping[str, Any]) -> bytes:
    """A Parquet file with the columns ``id``, ``path``, ``size``, ``etag``, ``name``, ``offset``;
    ids count from ``first``, ``about`` is kept in its metadata."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = zip(*entries, strict=True)
    types = (pa.string(), pa.int64(), pa.string(), pa.string(), pa.int64())
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
    ids = pa.array(range(first, first + len(entries)), pa.int64())
    table = pa.table([ids, *arrays], names=["id", *Entry._fields])
    table = table.replace_schema_metadata({_ABOUT: json.dumps(about).encode()})
    file = io.BytesIO()
    pq.write_table(table, file, compression="zstd")
    return file.getvalue()


def from_parquet(content: bytes, address: str) -> tuple[list[Entry], dict[str, Any]]:
    """The entries of a file, and what `to_parquet` kept. All columns but ``id`` and ``path`` may be
    missing; names are then the paths. Raises DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content))
        about = json.loads((table.schema.metadata or {}).get(_ABOUT, b"{}"))
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
    except (pa.ArrowException, OSError, ValueError, KeyError, RecursionError) as error:
        raise DataError(f"{address}: cannot be read as Parquet ({one_line(error)})") from error
    if lacking := [name for name in _REQUIRED if name not in columns]:
        raise DataError(f"{address}: has no column {', '.join(lacking)}")
    paths = columns["path"]
    unknown = [None] * len(paths)
    named = columns.get("name", paths)
    for row, (path, name) in enumerate(zip(paths, named, strict=True)):
        if not isinstance(path, str) or not isinstance(name, str):
            raise DataError(f"{address}: row {row}: path and name must be text")
    for name, kind in (("size", int), ("etag", str), ("offset", int)):
        if not all(value is None or type(value) is kind for value in columns.get(name, ())):
            raise DataError(f"{address}: column {name}: expected {kind.__name__} values or null")
    rows = zip(
        paths,
        columns.get("size", unknown),
        (etag or "" for etag in columns.get("etag", unknown)),
        named,
        columns.get("offset", unknown),
        strict=True,
    )
    return [Entry(*row) for row in rows], about

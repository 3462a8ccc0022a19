"""Records as Parquet: one row an image, its detections or classes as a list of structs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

_ROWS = 2000


def schema(ranks: bool) -> Any:
    """The columns of the records of a detector, or of a classifier."""
    import pyarrow as pa

    scored = [("label", pa.string()), ("score", pa.float64())]
    boxed = [*scored, ("box", pa.list_(pa.float64()))]
    return pa.schema(
        [
            ("file", pa.string()),
            ("bytes", pa.int64()),
            ("modified", pa.float64()),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("orientation", pa.int8()),
            ("warnings", pa.list_(pa.string())),
            ("classes", pa.list_(pa.struct(scored)))
            if ranks
            else ("detections", pa.list_(pa.struct(boxed))),
            ("error", pa.string()),
        ]
    )


def to_table(records: list[dict[str, Any]], ranks: bool) -> Any:
    """A pyarrow table of records; what one lacks is null."""
    import pyarrow as pa

    return pa.Table.from_pylist(records, schema=schema(ranks))


def write_records(path: Path, ranks: bool) -> None:
    """Replace a file of records by the same as Parquet."""
    import pyarrow.parquet as pq

    new = path.with_suffix(".parquet")
    with pq.ParquetWriter(new, schema(ranks), compression="zstd") as writer:
        for records in _pieces(path):
            writer.write_table(to_table(records, ranks))
    new.replace(path)


def _pieces(path: Path) -> Iterator[list[dict[str, Any]]]:
    with path.open("rb") as file:
        while lines := list(islice(file, _ROWS)):
            yield [json.loads(line) for line in lines]

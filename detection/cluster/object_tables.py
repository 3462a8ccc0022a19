"""Objects in columns: the Parquet and CSV files at an address, and their rows in batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from csv import reader
from pathlib import Path
from typing import IO, Any

from ...datasets.formats import voc_layout
from ...datasets.listing import is_hidden
from ...datasets.manifests.storage import is_remote, join, open_stream, reason_of, size_of
from ...datasets.manifests.walk import walk
from ..errors import ConfigError, DataError, first_few
from ..files import is_part

BOX = ("x1", "y1", "x2", "y2")
_NEEDED = ("id", "label", *BOX)
_SUFFIXES = (".parquet", ".csv")
#: Bytes of a CSV that are read at once.
_BLOCK = 1 << 22


def tables_at(path: str) -> list[str]:
    """The Parquet or CSV files at ``path``, a file or a folder; none if it is something else, such
    as a VOC folder. Raises ConfigError for tables in folders below it, DataError for a folder that
    cannot be read."""
    local = None if is_remote(path) else Path(path)
    if path.lower().endswith(_SUFFIXES) and not (local and local.is_dir()):
        return [path]
    if local and (not local.is_dir() or voc_layout.recognise(local)):
        return []
    found: list[str] = []
    below: list[str] = []
    for folder, files in walk(path, enter=lambda folder: not is_hidden(folder.split("/")[-1])):
        names = [each.name for each in files if each.name.lower().endswith(_SUFFIXES)]
        places = [join(folder, name) for name in names if not (is_hidden(name) or is_part(name))]
        (below if folder else found).extend(places)
    if below:
        raise ConfigError(
            f"{path}: has tables in folders below it, {first_few(below, 3)}; give --annotations "
            "one folder with all tables"
        )
    return [join(path, name) for name in found]


def batches_of(path: str) -> Iterator[Any]:
    """The columns of a table, a part of its rows at a time; those that may be missing are null.

    Raises ConfigError for a missing file, DataError for a malformed one.
    """
    import pyarrow as pa

    types = {
        "id": pa.int64(),
        "label": pa.string(),
        **dict.fromkeys((*BOX, "area"), pa.float64()),
        "ignore": pa.bool_(),
    }
    try:
        with open_stream(path, size_of(path)) as file:
            read = _csv if path.lower().endswith(".csv") else _parquet
            for batch in read(file, path, types):
                there = set(batch.schema.names)
                yield pa.table(
                    {
                        name: batch.column(name).cast(kind)
                        if name in there
                        else pa.nulls(batch.num_rows, kind)
                        for name, kind in types.items()
                    }
                )
    except (ConfigError, DataError):
        raise
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file") from error
    except Exception as error:  # of pyarrow, of the packages of remote file systems
        raise DataError(f"{path}: {reason_of(error)}") from error


def _parquet(file: IO[bytes], path: str, types: Mapping[str, Any]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    yield from table.iter_batches(columns=_read_of(table.schema_arrow.names, path, types))


def _csv(file: IO[bytes], path: str, types: Mapping[str, Any]) -> Iterator[Any]:
    from pyarrow import csv

    line = file.readline().decode("utf-8-sig")
    columns = _read_of(next(reader([line])), path, types) if line else []  # which pyarrow refuses
    file.seek(0)
    yield from csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=_BLOCK),
        convert_options=csv.ConvertOptions(
            column_types=types,
            include_columns=columns,
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _read_of(names: Sequence[str], path: str, types: Mapping[str, Any]) -> list[str]:
    """The columns to read of those that a table has."""
    if lacking := [name for name in _NEEDED if name not in names]:
        raise DataError(f"{path}: has no column {', '.join(lacking)}")
    if repeated := [name for name in types if names.count(name) > 1]:
        raise DataError(f"{path}: has more than one column {', '.join(repeated)}")
    return [name for name in types if name in names]

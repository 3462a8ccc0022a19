"""Tables in MATLAB files of version 5: struct arrays whose fields are numbers and texts.

They are read here because scipy's reader crashes on some damaged files. MathWorks publishes the
format as "MAT-File Format".
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from ...detection.files import read_limited

#: Bytes of a file, and of a compressed part of it; that of ILSVRC has 1 MB.
_LARGEST = 2**26
_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _TEXT = 2, 4
#: {type of an element: its letter in `struct`}.
_NUMBERS = {1: "b", 2: "B", 3: "h", 4: "H", 5: "i", 6: "I", 7: "f", 9: "d", 12: "q", 13: "Q"}
#: {type of an element: its encoding, where the order of bytes does not matter}.
_ENCODINGS = {1: "latin-1", 2: "latin-1", 16: "utf-8"}

Value = str | float | None
#: The type of an element and its content.
_Element = tuple[int, memoryview]


def read_table(path: Path, name: str, fields: Sequence[str]) -> list[tuple[Value, ...]]:
    """The ``fields`` of each element of the struct array ``name``; None for a value that is neither
    text nor one number.

    Raises OSError, or ValueError with the reason for a file that is damaged or has no such array.
    """
    content = memoryview(read_limited(path, _LARGEST))
    order = {b"IM": "<", b"MI": ">"}.get(bytes(content[_HEADER - 2 : _HEADER]))
    if order is None:
        raise ValueError("not a MATLAB file of version 5")
    for element in _elements(content[_HEADER:], order):
        matrix = _inflated(element[1], order) if element[0] == _COMPRESSED else element
        if matrix[0] == _MATRIX:
            kind, label, parts = _matrix(matrix[1], order)
            if label == name and kind == _STRUCT:
                return list(_rows(parts, order, fields))
    raise ValueError(f"has no table {name}")


def _elements(data: memoryview, order: str) -> Iterator[_Element]:
    at = 0
    while at < len(data):
        kind, size = _unpack(order + "II", data[at : at + 8])
        start = at + 8
        if small := kind >> 16:  # up to four bytes stand in the tag itself
            kind, size, start = kind & 0xFFFF, small, at + 4
        if size > len(data) - start or (small and small > 4):
            raise ValueError("ends within an element")
        yield kind, data[start : start + size]
        at = at + 8 if small else start + size + (0 if kind == _COMPRESSED else -size % 8)


def _inflated(data: memoryview, order: str) -> _Element:
    unpacker = zlib.decompressobj()
    try:
        content = unpacker.decompress(data, _LARGEST)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if not unpacker.eof:
        raise ValueError("a compressed part is cut or too large")
    return _next(_elements(memoryview(content), order))


def _matrix(data: memoryview, order: str) -> tuple[int, str, Iterator[_Element]]:
    """The class of an array, its name, and the elements of its content."""
    parts = _elements(data, order)
    (_, flags), _, (_, label) = _next(parts), _next(parts), _next(parts)
    (first,) = _unpack(order + "I", flags[:4])
    return first & 0xFF, bytes(label).decode("latin-1"), parts


def _rows(
    parts: Iterator[_Element], order: str, fields: Sequence[str]
) -> Iterator[tuple[Value, ...]]:
    (width,) = _unpack(order + "i", _next(parts)[1][:4])
    labels = bytes(_next(parts)[1])
    if width < 1:
        raise ValueError("fields without names")
    starts = range(0, len(labels), width)
    names = [labels[at : at + width].partition(b"\0")[0].decode("latin-1") for at in starts]
    if missing := [field for field in fields if field not in names]:
        raise ValueError(f"the table has no field {missing[0]}")
    columns = [names.index(field) for field in fields]
    while row := list(islice(parts, len(names))):
        if len(row) < len(names):
            raise ValueError("the last row is cut")
        yield tuple(_value(row[column], order) for column in columns)


def _value(element: _Element, order: str) -> Value:
    kind, _, parts = _matrix(element[1], order)
    part, data = next(parts, (0, memoryview(b"")))
    if kind == _TEXT:
        usual = "utf-16-le" if order == "<" else "utf-16-be"
        return bytes(data).decode(_ENCODINGS.get(part, usual))
    letter = _NUMBERS.get(part, "")
    if not letter or len(data) != struct.calcsize(order + letter):
        return None
    return float(_unpack(order + letter, data)[0])


def _next(parts: Iterator[_Element]) -> _Element:
    found = next(parts, None)
    if found is None:
        raise ValueError("an array lacks its parts")
    return found


def _unpack(layout: str, data: memoryview) -> tuple[int, ...]:
    try:
        return struct.unpack(layout, data)
    except struct.error as error:
        raise ValueError("ends within an element") from error

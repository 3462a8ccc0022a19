"""Reading of PyTorch's files: zip archives, and the streams of pickles before version 1.6.

They are read here and not by `torch.load`, which neither compares the checksums of an archive nor
the sizes that a file states with those that it has. Entries must be stored, not compressed, so
that no file takes more memory than its size.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...detection.errors import quoted
from .pickles import ARRAYS, checked_shape
from .unpickling import BoundedFile, Budget, Function, Unpickler

ZIP = b"PK\x03\x04"
#: The pickled magic number that every file of torch.save before version 1.6 starts with.
STREAM = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
#: Bytes of the index of an archive; that of ResNet-101 with its optimizer has 55,000.
_LARGEST_INDEX = 32 << 20
#: The fixed part of the header in front of an entry, and its signature.
_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")

DTYPES = {
    torch.float64: "Double",
    torch.float32: "Float",
    torch.float16: "Half",
    torch.bfloat16: "BFloat16",
    torch.int64: "Long",
    torch.int32: "Int",
    torch.int16: "Short",
    torch.int8: "Char",
    torch.uint8: "Byte",
    torch.bool: "Bool",
}


def read_zip(path: Path) -> object:
    """The content of what `torch.save` writes.

    Raises:
        ValueError and many others: damaged, or more than dense tensors and plain values.
    """
    with BoundedFile(path) as file:
        _check_index(file)
        with zipfile.ZipFile(file) as archive:
            entries = {info.filename: info for info in archive.infolist()}
        folders = [name[:-8] for name in entries if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise ValueError("a zip archive that torch.save did not write")
        folder = folders[0]
        budget = Budget(file.size)

        def read(name: str) -> memoryview:
            if folder + name not in entries:
                raise ValueError(f"it lacks the entry {quoted(name)}")
            return _read_entry(file, entries[folder + name], budget)

        if f"{folder}byteorder" in entries and bytes(read("byteorder")) != b"little":
            raise ValueError("its numbers are big-endian")
        storages = Storages(lambda key, size: read(f"data/{key}"), budget)
        return storages.unpickler.load(BytesIO(read("data.pkl")))


def read_stream(path: Path) -> object:
    """The content of what PyTorch wrote before version 1.6; raises as `read_zip`."""
    with BoundedFile(path) as file:
        budget = Budget(file.size)

        def allocate(key: str, size: int) -> memoryview:
            budget.spend(size)
            return _memory(size)

        storages = Storages(allocate, budget)
        load = storages.unpickler.load
        _, version, system = load(file), load(file), load(file)
        if version != 1001 or not isinstance(system, dict) or not system.get("little_endian"):
            raise ValueError("a PyTorch file of an unknown version")
        content, keys = load(file), load(file)
        unread = dict(storages.read)
        for key in _expect(keys, list):
            if not isinstance(key, str) or key not in unread:
                raise ValueError(f"a storage {quoted(key)} that no tensor has")
            storage = unread.pop(key)
            (count,) = struct.unpack("<q", file.read(8))
            if count * storage.dtype.itemsize != len(storage.data):
                raise ValueError(f"a tensor of {count} values in place of {storage.count}")
            if file.readinto(storage.data) != len(storage.data):
                raise ValueError("it ends within a tensor")
        if unread:
            raise ValueError(f"it lacks the storage {quoted(next(iter(unread)))}")
        return content


@dataclass(frozen=True, eq=False)
class Storage:
    """The memory of one or several tensors: ``data`` are its bytes."""

    dtype: torch.dtype
    data: memoryview

    @property
    def count(self) -> int:
        return len(self.data) // self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class StorageType:
    """Stands for ``torch.FloatStorage`` and the others in a pickle."""

    dtype: torch.dtype


class Storages:
    """The storages of a file, read as its pickle refers to them, and the tensors made of them.

    ``data(key, size)`` gives the bytes of a storage.
    """

    def __init__(self, data: Callable[[str, int], memoryview], budget: Budget) -> None:
        self._data, self._budget = data, budget
        self.read: dict[str, Storage] = {}
        self.unpickler = Unpickler({**ARRAYS, **self._names()}, budget, self.storage)

    def _names(self) -> Mapping[tuple[str, str], object]:
        parameter = Function(lambda data, *_: _expect(data, Tensor))
        return {
            **{("torch", f"{name}Storage"): StorageType(dtype) for dtype, name in DTYPES.items()},
            **{("torch", str(dtype).removeprefix("torch.")): dtype for dtype in DTYPES},
            ("torch._utils", "_rebuild_tensor"): Function(self.tensor),
            ("torch._utils", "_rebuild_tensor_v2"): Function(self.tensor),
            ("torch._utils", "_rebuild_parameter"): parameter,
            ("torch._utils", "_rebuild_parameter_with_state"): parameter,
            ("torch._tensor", "_rebuild_from_type_v2"): Function(
                lambda make, kind, arguments, state: _expect(make, Function).call(*arguments)
            ),
            ("torch.nn.parameter", "Parameter"): None,
            ("torch", "Tensor"): None,
            ("torch", "Size"): Function(lambda sides=(): checked_shape(tuple(sides))),
            ("torch", "device"): Function(lambda *_: None),
        }

    def storage(self, reference: Any) -> Storage:
        """The storage of a persistent id: ("storage", type, key, device, number of values)."""
        kind, storage_type, key, _, count, *views = _expect(reference, tuple)
        if kind != "storage" or any(view is not None for view in views):
            raise ValueError("a reference that is no storage")
        dtype = _expect(storage_type, StorageType).dtype
        name = _expect(key, str)
        (size,) = checked_shape((count,))
        size *= dtype.itemsize
        if name not in self.read:
            self.read[name] = Storage(dtype, self._data(name, size))
        storage = self.read[name]
        if storage.dtype != dtype or len(storage.data) != size:
            raise ValueError(f"a storage of {size} bytes that has {len(storage.data)}")
        return storage

    def tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Tensor:
        """A tensor of the given size and stride in ``storage``, without a copy."""
        own = _expect(storage, Storage)
        sides, steps = checked_shape(size), checked_shape(stride)
        (start,) = checked_shape((offset,))
        count, last = 1, start
        for side, step in zip(sides, steps, strict=True):
            count *= side
            last += (side - 1) * step
        if count and (last >= own.count or count > own.count - start):
            raise ValueError(f"a tensor of {sides} outside its {own.count} values")
        self._budget.spend(count * own.dtype.itemsize)
        if not count:
            return torch.empty(sides, dtype=own.dtype)
        values = torch.frombuffer(own.data, dtype=own.dtype)
        return values.as_strided(sides, steps, start)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{quoted(value)} in place of a {kind.__name__}")
    return value


def _check_index(file: BoundedFile) -> None:
    """Refuse an index of hundreds of megabytes, which `zipfile` would read into objects."""
    file.seek(max(0, file.size - 2**16 - _END.size))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if not 0 <= at <= len(tail) - _END.size:
        raise ValueError("truncated: a zip archive without its index")
    size = _END.unpack_from(tail, at)[5]
    if tail[at - 20 : at - 16] == b"PK\x06\x07" and at >= 20 + _END64.size:
        size = _END64.unpack_from(tail, at - 20 - _END64.size)[8]
    if size > min(_LARGEST_INDEX, file.size):
        raise ValueError(f"an index of {size} bytes")


def _read_entry(file: BoundedFile, info: zipfile.ZipInfo, budget: Budget) -> memoryview:
    """The bytes of an entry, which is stored and has its checksum."""
    size = info.file_size
    if info.compress_type != zipfile.ZIP_STORED or size != info.compress_size:
        raise ValueError(f"its entry {quoted(info.filename)} is compressed")
    budget.spend(size)
    file.seek(info.header_offset)
    signature, _, flags, *_, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    expected = info.orig_filename.encode(encoding)
    if signature != ZIP or flags & 1 or file.read(name) != expected:
        raise ValueError(f"damaged: no entry {quoted(info.filename)} where the index says")
    file.seek(extra, 1)
    if size > file.size - file.tell():
        raise ValueError(f"truncated within {quoted(info.filename)}")
    data = _memory(size)
    if file.readinto(data) != size or zlib.crc32(data) != info.CRC:
        raise ValueError(f"damaged: the checksum of {quoted(info.filename)} differs")
    return data


def _memory(size: int) -> memoryview:
    return np.empty(size, np.uint8).data

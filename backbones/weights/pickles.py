"""Reading the tensors of a weights file without running code that the file names.

Three kinds of files, recognised by their first bytes: PyTorch's (zip or the older stream of
pickles), safetensors, and plain pickles of NumPy arrays (Caffe2, detectron2). PyTorch reads its
own with ``weights_only=True`` and nothing else is tried; plain pickles are read by an unpickler
that allows arrays only, and even those are rebuilt here from checked bytes.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from ...detection.errors import WeightsError

#: Keys under which training programs save the weights, beside the optimizer and others.
#: ``average`` is this package's moving average, which it evaluates and exports.
WRAPPERS = ("average", "model", "state_dict", "blobs")
#: Entries of detectron2's converters that are no tensors.
LABELS = ("__author__", "matching_heuristics")

_ZIP = b"PK\x03\x04"
#: The pickled magic number that every file of torch.save before version 1.6 starts with.
_TORCH_STREAM = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PICKLE = b"\x80"

_DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weights file by name, on the CPU, in the file's precision.

    Of a training checkpoint only the weights are read (`WRAPPERS`). A ``module.`` in front of all
    names (of DataParallel) is removed.

    Raises:
        WeightsError: missing, damaged or of another kind; asks for code to be run; no tensors.
    """
    try:
        tensors = _flat(_unwrap(_reader(path)(path)))
    except Exception as error:  # three parsers on any bytes: struct, zip, assertion errors ...
        raise WeightsError(f"{path}: cannot read weights: {_one_line(error)}") from error
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _reader(path: Path) -> Callable[[Path], object]:
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith((_ZIP, _TORCH_STREAM)):
        return _read_torch
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return safetensors.torch.load_file
    if path.suffix == ".pkl" or head.startswith(_PICKLE):
        return _read_pickle
    raise ValueError("neither a PyTorch file, nor safetensors, nor a pickle")


def _read_torch(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def _read_pickle(path: Path) -> object:
    data = path.read_bytes()
    _scan(data)
    return _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()


def _scan(data: bytes) -> None:
    """Refuse lengths and memo slots beyond the file: loading would first allocate that memory."""
    for opcode, argument, _ in pickletools.genops(data):
        if "PUT" in opcode.name and int(argument or 0) >= len(data):
            raise pickle.UnpicklingError(f"memo slot {argument} in {len(data)} bytes")


def _one_line(error: BaseException) -> str:
    """The reason in one line. PyTorch's refusals are a page that advises to run the file's code."""
    text = str(error).strip()
    refused = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", text)
    if refused:
        return f"it asks for {refused[1]}, which could run code; save its state dict alone"
    text = text.partition("WeightsUnpickler error: ")[2] or text
    if not text or text.startswith("Weights only load failed"):
        return "damaged, or more than tensors, numbers and text"
    return text.splitlines()[0]


def _unwrap(content: object) -> object:
    while isinstance(content, Mapping):
        inner = [content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        content = inner[0]
    return content


def _flat(content: object) -> dict[str, Tensor]:
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"it holds a {type(content).__name__} and no tensors by name")
    tensors = {}
    for name, value in content.items():
        if name in LABELS:
            continue
        if not isinstance(name, str) or not isinstance(value, Tensor | _Array):
            raise ValueError(f"its {name!r} is a {type(value).__name__}, not a tensor")
        tensors[name] = value.tensor() if isinstance(value, _Array) else value.detach()
        if tensors[name].layout != torch.strided or tensors[name].is_quantized:
            raise ValueError(f"its {name!r} is sparse or quantized")
    if not tensors:
        raise ValueError("it holds no tensors")
    return tensors


class _Dtype:
    """Replaces ``numpy.dtype`` in a pickle."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if code not in _DTYPES:
            raise pickle.UnpicklingError(f"it holds an array of type {code!r}, which is no number")
        self.numpy = np.dtype(code).newbyteorder("<")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] not in ("<", ">", "|"):
            raise pickle.UnpicklingError(f"unknown byte order {state[1]!r}")
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """Replaces ``numpy.ndarray`` in a pickle; created empty and filled by its state."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(
        self, data: bytes | str, dtype: _Dtype, shape: tuple[int, ...] = (), order: str = "C"
    ) -> _Array:
        """``data`` is text where Python 2 wrote it: one latin-1 character for each byte."""
        raw = data.encode("latin1") if isinstance(data, str) else bytes(data)
        if any(type(side) is not int or side < 0 for side in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape!r}")
        if math.prod(shape) * dtype.numpy.itemsize != len(raw):
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array of shape {shape!r}")
        values = np.frombuffer(raw, dtype.numpy)
        native = values.astype(dtype.numpy.newbyteorder("="))
        self.values = native.reshape(shape, order="F" if order == "F" else "C")
        return self

    def tensor(self) -> Tensor:
        if self.values is None:
            raise ValueError("it holds an array without contents")
        return torch.from_numpy(np.ascontiguousarray(self.values)).reshape(self.values.shape)


def _encode(text: str, encoding: str) -> bytes:
    """Replaces ``_codecs.encode``, by which older pickle protocols store bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}")
    return text.encode("latin1")


_ADMITTED: dict[tuple[str, str], object] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): _encode,
    ("builtins", "bytes"): lambda: b"",
    ("__builtin__", "bytes"): lambda: b"",
}
for _core in ("numpy.core", "numpy._core"):  # before and since NumPy 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = _Array
    _ADMITTED[f"{_core}.multiarray", "scalar"] = lambda dtype, data: _Array().fill(
        data, dtype, (), "C"
    )
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = lambda *parts: _Array().fill(*parts)


class _ArrayUnpickler(pickle.Unpickler):
    """Loads containers, numbers, text and arrays; any other name in the file is an error."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which could run code; save its arrays alone"
            )
        return _ADMITTED[module, name]

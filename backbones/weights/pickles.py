"""Reading of pickles of NumPy arrays (Caffe2, detectron2), which are rebuilt from checked bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...detection.errors import quoted
from .unpickling import PLAIN, BoundedFile, Budget, Filled, Function, Unpickler

_DTYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})
#: The largest number of dimensions and of elements in one of them.
_DIMS, _SIDE = 16, 2**48


def read_pickle(path: Path) -> object:
    """The content of a pickle; arrays in it are `PickledArray`.

    Raises:
        ValueError, IndexError, TypeError, OSError: damaged, or more than arrays and plain values.
    """
    with BoundedFile(path) as file:
        return Unpickler(ARRAYS, Budget(file.size)).load(file)


def checked_shape(shape: Any) -> tuple[int, ...]:
    """``shape`` if it is one of an array; raises ValueError."""
    if not isinstance(shape, tuple) or len(shape) > _DIMS:
        raise ValueError(f"an array of shape {quoted(shape)}")
    for side in shape:
        if type(side) is not int or not 0 <= side < _SIDE:
            raise ValueError(f"an array with {quoted(side)} elements along a side")
    return shape


class _Dtype(Filled):
    """Stands for a ``numpy.dtype`` in a pickle."""

    def __init__(self, code: str, align: object = False, copy: object = False) -> None:
        if code not in _DTYPES:
            raise ValueError(f"it holds an array of type {quoted(code)}, which is no number")
        self.numpy = np.dtype(code).newbyteorder("<")

    def fill_from(self, state: Any) -> None:
        if state[1] not in ("<", ">", "|"):
            raise ValueError(f"unknown byte order {quoted(state[1])}")
        self.numpy = self.numpy.newbyteorder(state[1])


class PickledArray(Filled):
    """Stands for a ``numpy.ndarray`` in a pickle; created empty and filled by its state."""

    def __init__(self, *_: object) -> None:
        self.values: np.ndarray | None = None

    def fill_from(self, state: Any) -> None:
        shape, dtype, fortran, data = state[-4:]
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(
        self, data: bytes | str, dtype: _Dtype, shape: Any = (), order: str = "C"
    ) -> PickledArray:
        """``data`` is text where Python 2 wrote it: one latin-1 character for each byte."""
        raw = data.encode("latin1") if isinstance(data, str) else bytes(memoryview(data))
        if not isinstance(dtype, _Dtype):
            raise ValueError(f"an array of type {quoted(dtype)}")
        sides = checked_shape(shape)
        if math.prod(sides) * dtype.numpy.itemsize != len(raw):
            raise ValueError(f"{len(raw)} bytes for an array of shape {sides}")
        values = np.frombuffer(raw, dtype.numpy)
        native = values.astype(dtype.numpy.newbyteorder("="))
        self.values = native.reshape(sides, order="F" if order == "F" else "C")
        return self

    def tensor(self) -> Tensor:
        if self.values is None:
            raise ValueError("it holds an array without contents")
        return torch.from_numpy(np.ascontiguousarray(self.values)).reshape(self.values.shape)


def _scalar(dtype: _Dtype, data: bytes | str) -> PickledArray:
    return PickledArray().fill(data, dtype)


def _from_buffer(data: bytes | str, dtype: _Dtype, shape: Any, order: str) -> PickledArray:
    return PickledArray().fill(data, dtype, shape, order)


#: All that a pickle of arrays may name; NumPy 2 has moved its modules.
ARRAYS: Mapping[tuple[str, str], object] = {
    **PLAIN,
    ("numpy", "ndarray"): Function(PickledArray),
    ("numpy", "dtype"): Function(_Dtype),
    **{
        (f"{core}.{module}", name): function
        for core in ("numpy.core", "numpy._core")
        for module, name, function in (
            ("multiarray", "_reconstruct", Function(PickledArray)),
            ("multiarray", "scalar", Function(_scalar)),
            ("numeric", "_frombuffer", Function(_from_buffer)),
        )
    },
}

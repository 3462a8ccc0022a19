"""Reading of weights files from strangers: what they hold is judged before anything uses it.

Three kinds of files, recognised by their first bytes: PyTorch's (zip or the older stream of
pickles), safetensors, and plain pickles of NumPy arrays (Caffe2, detectron2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ...detection.errors import WeightsError, one_line, quoted
from ...detection.files import expect_regular
from .pickles import PickledArray, read_pickle
from .torch_files import DTYPES, STREAM, ZIP, read_stream, read_zip

#: Keys under which training programs save the weights, beside the optimizer and others.
#: ``average`` is this package's moving average, which it evaluates and exports.
WRAPPERS = ("average", "model", "state_dict", "blobs")
#: Entries of detectron2's converters that are no tensors.
LABELS = ("__author__", "matching_heuristics")
#: Limits of a file's content: values in all, values within values, characters in all, bits of an
#: integer. ResNet-101 with its optimizer has 2,859 values, 5 within each other.
MAX_VALUES, MAX_DEPTH, MAX_TEXT, MAX_BITS = 1_000_000, 32, 16_000_000, 128

#: Characters in the name of a tensor.
MAX_NAME = 300
_PICKLE = b"\x80"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a weights file by name, on the CPU, in the file's precision.

    Of a training checkpoint only the weights are read (`WRAPPERS`). A ``module.`` in front of all
    names (of DataParallel) is removed.

    Raises:
        WeightsError: missing, damaged or of another kind; asks for code to be run; no tensors.
    """
    try:
        tensors = _flat(_unwrap(_reader(path)(path)))
        judge(tensors)
    except Exception as error:  # parsers on any bytes: struct, zip, index and type errors ...
        raise WeightsError(f"{path}: cannot read weights: {reason(error)}") from error
    if all(name.startswith("module.") for name in tensors):
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def read_state(path: Path) -> object:
    """The whole content of a PyTorch file, judged.

    Raises:
        WeightsError: missing, damaged, or more than dense tensors and plain values.
    """
    try:
        reader = _reader(path)
        if reader not in (read_zip, read_stream):
            raise ValueError("not a PyTorch file")
        content = reader(path)
        judge(content)
    except Exception as error:
        raise WeightsError(f"{path}: {reason(error)}") from error
    return content


def judge(content: object) -> None:
    """Expect plain values and dense tensors of numbers on the CPU, of bounded depth and size.

    A value is counted wherever it is referred to, so that those within themselves end too.

    Raises:
        ValueError: names what is found instead.
    """
    values = text = 0
    todo: list[tuple[object, int]] = [(content, 0)]
    while todo:
        value, depth = todo.pop()
        values += 1
        text += len(value) if isinstance(value, str | bytes | bytearray) else 0
        if values > MAX_VALUES or depth > MAX_DEPTH or text > MAX_TEXT:
            raise ValueError("it holds more values, or deeper ones, than any checkpoint")
        if isinstance(value, Mapping):
            todo += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple | set | frozenset):
            todo += [(part, depth + 1) for part in value]
        else:
            _judge_leaf(value)


def _judge_leaf(value: object) -> None:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in DTYPES:
            raise ValueError(f"it holds a tensor that is {value.layout}, {value.dtype}")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("it holds text that is no Unicode") from error
    elif isinstance(value, int):
        if value.bit_length() > MAX_BITS:
            raise ValueError(f"it holds a number of {value.bit_length()} bits")
    elif not isinstance(value, float | bytes | bytearray | None):
        raise ValueError(f"it holds a {type(value).__name__}")


def reason(error: BaseException) -> str:
    """The message of a parser in one line of bounded length."""
    return one_line(error)[:200]


def _reader(path: Path) -> Callable[[Path], object]:
    expect_regular(path)
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(ZIP):
        return read_zip
    if head.startswith(STREAM):
        return read_stream
    if path.suffix == ".safetensors" or head[8:9] == b"{":
        return safetensors.torch.load_file
    if path.suffix == ".pkl" or head.startswith(_PICKLE):
        return read_pickle
    raise ValueError("neither a PyTorch file, nor safetensors, nor a pickle")


def _unwrap(content: object) -> object:
    for _ in range(MAX_DEPTH):
        if not isinstance(content, Mapping):
            break
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
        if not isinstance(name, str) or len(name) > MAX_NAME:
            raise ValueError(f"the name {quoted(name)} of a tensor is too long or no text")
        if not isinstance(value, Tensor | PickledArray):
            raise ValueError(f"its {quoted(name)} is a {type(value).__name__}, not a tensor")
        tensors[name] = value.tensor() if isinstance(value, PickledArray) else value
    if not tensors:
        raise ValueError("it holds no tensors")
    return tensors

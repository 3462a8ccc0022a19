"""What is in a converted weights file? Tensors in our names and, in its header, what they need."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from safetensors import SafetensorError

from ..detection.errors import WeightsError
from .convert import Converted
from .pixels import PIXELS
from .resnet import DEPTHS

#: Raised when a header changes its meaning.
VERSION = "1"
_HEADER = tuple(field.name for field in fields(Converted) if field.name != "tensors")


def write_converted(converted: Converted, path: Path) -> None:
    """Write a safetensors file; it appears under its name when complete.

    The header holds each field of `Converted` as JSON.

    Raises:
        WeightsError: the file cannot be written.
    """
    header = {name: json.dumps(getattr(converted, name)) for name in _HEADER}
    tensors = {name: tensor.contiguous() for name, tensor in converted.tensors.items()}
    data = safetensors.torch.save(tensors, {"resdet": VERSION, **header})
    try:
        write_whole(path, data)
    except OSError as error:
        raise WeightsError(f"{path}: cannot write: {error.strerror}") from error


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a safetensors file with our header."""
    return path.suffix == ".safetensors" and "resdet" in _header(path)


def read_converted(path: Path) -> Converted:
    """What `write_converted` wrote, with the same numbers.

    Raises:
        WeightsError: damaged, not ours, or of another version.
    """
    header = _header(path)
    if header.get("resdet") != VERSION:
        raise WeightsError(f"{path}: not a converted weights file of version {VERSION}")
    try:
        values: dict[str, Any] = {name: json.loads(header[name]) for name in _HEADER}
        for name in ("mapped", "unused"):
            values[name] = tuple((first, second) for first, second in values[name])
        for name in ("classes", "notes"):
            values[name] = tuple(values[name])
        tensors = safetensors.torch.load_file(path)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise WeightsError(f"{path}: damaged header or contents: {error}") from error
    if values["pixels"] not in PIXELS or values["depth"] not in DEPTHS:
        raise WeightsError(f"{path}: unknown pixels {values['pixels']!r} or depth")
    return Converted(tensors=tensors, **values)


def write_whole(path: Path, data: bytes) -> None:
    """All of ``data`` under ``path`` or nothing, whatever happens on the way."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _header(path: Path) -> dict[str, str]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise WeightsError(f"{path}: cannot read weights: {error}") from error

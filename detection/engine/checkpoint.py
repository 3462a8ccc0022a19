"""Checkpoint files: written atomically, and judged before anything uses what they hold.

A checkpoint is a dict of tensors and primitives: ``format_version``, ``model``, ``config``,
``classes``, ``task``, ``step``, ``metric``, ``images`` (the number trained on), ``threads``,
``winograd_channels`` and what training needs to resume. Without ``task`` it is a detector's, from a
version without other tasks.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import shutil
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from ...backbones.weights.load import header_of
from ...backbones.weights.reading import judge, read_state, read_tensors
from ..config.paths import without_paths
from ..errors import WeightsError, one_line, quoted
from ..files import atomic_write, write_file

FORMAT_VERSION = 1
#: ``hf://owner/name`` on the Hugging Face Hub, perhaps with ``@revision``; a `Path` has made one
#: slash of two.
HUB_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
#: The file of the weights, as the Hub expects it.
HUB_FILE = "model.safetensors"
#: The entries that every checkpoint has, and their types.
KEYS: Mapping[str, type] = {"model": dict, "config": dict, "classes": list, "step": int}
#: The key of a checkpoint in the header of a safetensors file, as JSON, and its entries there.
_PORTABLE = "resdet_checkpoint"
_SHARED = ("format_version", "task", "classes", "images", "step")
#: What people name in place of weights.
_OF_RESULTS = (".json", ".jsonl", ".csv", ".txt", ".yaml", ".yml")


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Write ``state`` to ``path`` atomically: a temporary file, fsync, rename.

    With ``keep_previous`` the old file is kept as ``<name>-1<suffix>``. If the process is killed at
    any moment, or the disk is full, ``path`` is the complete old or new file.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path, sync=True) as part:
            with part.open("wb") as file:
                torch.save({"format_version": FORMAT_VERSION, **state}, file)
            if keep_previous and path.exists():
                _link_over(path, previous_of(path))
    except RuntimeError as error:  # torch's writer raises it over the OSError of a full disk
        if isinstance(error.__context__, OSError):
            raise OSError(error.__context__.errno, error.__context__.strerror) from error
        raise OSError(str(error)) from error


def previous_of(path: Path) -> Path:
    """Where ``keep_previous`` keeps the old file: ``last-1.pt`` for ``last.pt``."""
    return path.with_name(f"{path.stem}-1{path.suffix}")


def _link_over(source: Path, target: Path) -> None:
    with atomic_write(target) as part:
        try:
            part.hardlink_to(source)
        except OSError:  # FAT and some network disks have no links
            shutil.copyfile(source, part)


def _hint_at_previous(path: Path) -> str:
    previous = previous_of(path)
    return f"; {previous} is the previous one" if previous.is_file() else ""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this toolkit onto the CPU.

    Raises:
        WeightsError: missing, truncated, of another format, or containing more than tensors and
            primitives (it is then not read further).
    """
    if not path.exists():
        if address := HUB_ADDRESS.fullmatch(str(path)):
            repo, revision = address.groups()
            words = f"hf download {repo} {HUB_FILE}" + f" --revision {revision}" * bool(revision)
            raise WeightsError(f"hf://{repo}: here a file is needed: `{words}` fetches it")
        raise WeightsError(f"{path}: no such checkpoint")
    if path.suffix.lower() in _OF_RESULTS:
        raise WeightsError(
            f"{path}: {path.suffix} is text, not weights; if these are detections, "
            f"`resdet eval --predictions {path} --annotations FILE` scores them"
        )
    try:
        state = _read_portable(path) if is_portable(path) else read_state(path)
    except WeightsError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise WeightsError(
            f"{path}: damaged, or holds more than tensors and plain values ({reason})"
            f"{_hint_at_previous(path)}"
        ) from error
    missing = [key for key in KEYS if not isinstance(state, dict) or key not in state]
    if missing or not isinstance(state, dict):
        raise WeightsError(
            f"{path}: not a checkpoint of this toolkit (lacks {', '.join(missing)}); "
            "`resdet convert-weights` imports other layouts"
        )
    version = state.get("format_version")
    if version != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: checkpoint format {quoted(version)}, expected {FORMAT_VERSION}"
        )
    _check_types(state, path)
    return state


def free(*contents: object) -> None:
    """Empty dicts of large tensors and give their memory back to the system: glibc would keep what
    lies below anything that is still in use."""
    for content in contents:
        if isinstance(content, dict):
            content.clear()
    gc.collect()  # the reader of a file and what it has read refer to each other
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def write_portable(path: Path, state: Mapping[str, Any]) -> None:
    """A checkpoint for other people as safetensors: the moving average, or the weights, and what
    `_SHARED` names, without the paths in its config. Raises WeightsError."""
    tensors = {key: value.contiguous() for key, value in weights_of(state).items()}
    about = {key: state[key] for key in _SHARED if key in state}
    about["config"] = without_paths(state["config"])
    header = {_PORTABLE: json.dumps(about, ensure_ascii=False)}
    write_file(path, safetensors.torch.save(tensors, header), error=WeightsError)


def weights_of(state: Mapping[str, Any]) -> Mapping[str, Tensor]:
    """The moving average of a checkpoint, or its weights if it has none."""
    tensors: Mapping[str, Tensor] = state.get("average") or state["model"]
    return tensors


def is_portable(path: Path) -> bool:
    """Whether `write_portable` wrote the file."""
    return path.suffix == ".safetensors" and _PORTABLE in header_of(path)


def _read_portable(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(header_of(path)[_PORTABLE])
        judge(state)
        return {**state, "model": read_tensors(path)}
    except (ValueError, TypeError, RecursionError) as error:
        raise WeightsError(f"{path}: {one_line(error)}") from error


def _check_types(state: Mapping[str, Any], path: Path) -> None:
    for key, kind in KEYS.items():
        if type(state[key]) is not kind:
            raise WeightsError(f"{path}: damaged: its {key} is {quoted(state[key])}")
    if state["step"] < 0:
        raise WeightsError(f"{path}: damaged: its step is {quoted(state['step'])}")
    classes = state["classes"]
    odd = [name for name in classes if not isinstance(name, str)]
    if odd or len(set(classes)) != len(classes):
        named = quoted(odd[0]) if odd else "a list with repeats"
        raise WeightsError(f"{path}: damaged: one of its classes is {named}")
    held_out = state.get("held_out")
    if held_out is not None and not (
        isinstance(held_out, list) and all(isinstance(name, str) for name in held_out)
    ):
        raise WeightsError(f"{path}: damaged: its held_out is {quoted(held_out)}")
    images = state.get("images", 1)
    if type(images) is not int or not 1 <= images < 2**53:
        raise WeightsError(f"{path}: damaged: its images is {quoted(images)}")
    for key in ("model", "average"):
        tensors = state.get(key)
        if key == "average" and tensors is None:
            continue
        if not isinstance(tensors, dict):
            raise WeightsError(f"{path}: damaged: its {key} is {quoted(tensors)}")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise WeightsError(
                    f"{path}: damaged: {quoted(name)} in its {key} is {quoted(tensor)}"
                )

"""Checkpoint files: written atomically, read without executing code in them.

A checkpoint is a dict of tensors and primitives: ``format_version``, ``model``, ``config``,
``classes``, ``task``, ``step``, ``metric`` and what training needs to resume. Without ``task`` it
is a detector's, from a version without other tasks.
"""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError
from ..files import atomic_write

FORMAT_VERSION = 1
#: The entries that every checkpoint has, and their types.
KEYS: Mapping[str, type] = {"model": dict, "config": dict, "classes": list, "step": int}


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Write ``state`` to ``path`` atomically: a temporary file, fsync, rename.

    With ``keep_previous`` the old file is kept as ``<name>-1<suffix>``. If the process is killed at
    any moment, or the disk is full, ``path`` is the complete old or new file.

    Raises:
        OSError: it cannot be written; the old file is unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as part:
            with part.open("wb") as file:
                torch.save({"format_version": FORMAT_VERSION, **state}, file)
                file.flush()
                os.fsync(file.fileno())
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
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load the file without this check.
        raise WeightsError(
            f"{path}: damaged, or holds more than tensors and plain values; it was not opened"
            f"{_hint_at_previous(path)}"
        ) from error
    except Exception as error:  # damaged files raise many types of errors
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(
            f"{path}: cannot be read as a checkpoint ({reason}){_hint_at_previous(path)}"
        ) from error
    missing = [key for key in KEYS if not isinstance(state, dict) or key not in state]
    if missing:
        raise WeightsError(
            f"{path}: not a checkpoint of this toolkit (lacks {', '.join(missing)}); "
            "`resdet convert-weights` imports other layouts"
        )
    if state.get("format_version") != FORMAT_VERSION:
        raise WeightsError(
            f"{path}: checkpoint format {state.get('format_version')!r:.40}, "
            f"expected {FORMAT_VERSION}"
        )
    _check_types(state, path)
    return state


def _check_types(state: Mapping[str, Any], path: Path) -> None:
    wrong = [key for key, kind in KEYS.items() if not isinstance(state[key], kind)]
    if not wrong and not all(isinstance(name, str) for name in state["classes"]):
        wrong = ["classes"]
    if not wrong and not isinstance(state.get("average"), dict | None):
        wrong = ["average"]
    if wrong:
        raise WeightsError(f"{path}: damaged: its {wrong[0]} is {state[wrong[0]]!r:.60}")

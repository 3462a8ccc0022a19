"""Training state on disk: written whole or not at all, read without running anything.

A checkpoint is a dict of tensors and primitives: ``format_version``, ``model``, ``config``,
``classes``, ``task``, ``step``, ``metric`` and what training needs to go on. Without ``task`` it
is a detector's, from before there were others.
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
#: What every checkpoint holds, and as what.
KEYS: Mapping[str, type] = {"model": dict, "config": dict, "classes": list, "step": int}
#: Each task, what its checkpoint holds, and the command that trains it.
TASKS: Mapping[str, tuple[str, str]] = {
    "detection": ("a detector", "train-det"),
    "classification": ("a classifier", "train-cls"),
    "localization": ("a localizer", "train-loc"),
    "localization_rcnn": ("the second stage of a localizer", "train-loc"),
}


def save_checkpoint(path: Path, state: Mapping[str, Any], *, keep_previous: bool = False) -> None:
    """Write ``state`` to ``path`` atomically: a temporary file, fsync, rename.

    With ``keep_previous`` the file that stood there stays as ``<name>-1<suffix>``. Killed at any
    moment, or out of disk, ``path`` is the old or the new file, whole.

    Raises:
        OSError: when it cannot be written; what stood at ``path`` is untouched.
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
    except RuntimeError as error:  # torch's writer puts one of its own before a full disk's
        if isinstance(error.__context__, OSError):
            raise OSError(error.__context__.errno, error.__context__.strerror) from error
        raise OSError(str(error)) from error


def previous_of(path: Path) -> Path:
    """Where ``keep_previous`` leaves the file before: ``last-1.pt`` for ``last.pt``."""
    return path.with_name(f"{path.stem}-1{path.suffix}")


def _link_over(source: Path, target: Path) -> None:
    with atomic_write(target) as part:
        try:
            part.hardlink_to(source)
        except OSError:  # FAT and some network disks have no links
            shutil.copyfile(source, part)


def _the_one_before(path: Path) -> str:
    previous = previous_of(path)
    return f"; {previous} is the one before it" if previous.is_file() else ""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this toolkit onto the CPU.

    Raises:
        WeightsError: missing, cut short, of another format, or holding more than tensors and
            primitives (it is then not opened any further).
    """
    if not path.is_file():
        raise WeightsError(f"{path}: no such checkpoint")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message advises to load the file all the same.
        raise WeightsError(
            f"{path}: damaged, or holds more than tensors and plain values; it was not opened"
            f"{_the_one_before(path)}"
        ) from error
    except Exception as error:  # damaged bytes end the reader in more ways than can be listed
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise WeightsError(
            f"{path}: cannot be read as a checkpoint ({reason}){_the_one_before(path)}"
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


def task_of(state: Mapping[str, Any], path: Path) -> str:
    """What a checkpoint was trained for, a key of `TASKS`; raises WeightsError for another."""
    task = state.get("task", "detection")
    if not isinstance(task, str) or task not in TASKS:
        raise WeightsError(f"{path}: of an unknown task {task!r:.60}; known: {', '.join(TASKS)}")
    return task


def read_task(path: Path) -> str:
    """The task of a weights file; a converted one, no checkpoint, is taken for a detector's.

    Raises:
        WeightsError: unreadable, or of an unknown task.
    """
    return "detection" if path.suffix == ".safetensors" else task_of(load_checkpoint(path), path)


def expect_task(state: Mapping[str, Any], task: str, path: Path) -> None:
    """Raises WeightsError unless the checkpoint was trained for ``task``."""
    found = task_of(state, path)
    if found != task:
        (held, command), (wanted, _) = TASKS[found], TASKS[task]
        raise WeightsError(
            f"{path}: holds {held}, made by `resdet {command}`; {wanted} is needed here"
        )


def _check_types(state: Mapping[str, Any], path: Path) -> None:
    wrong = [key for key, kind in KEYS.items() if not isinstance(state[key], kind)]
    if not wrong and not all(isinstance(name, str) for name in state["classes"]):
        wrong = ["classes"]
    if not wrong and not isinstance(state.get("average"), dict | None):
        wrong = ["average"]
    if wrong:
        raise WeightsError(f"{path}: damaged: its {wrong[0]} is {state[wrong[0]]!r:.60}")

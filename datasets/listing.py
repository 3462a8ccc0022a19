"""Listings of data folders, in which every reader leaves out the same hidden and system files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from ..detection.errors import DataError
from .image import IMAGE_SUFFIXES

#: What file managers, archivers and network drives leave in folders, in lower case.
_SYSTEM_NAMES = frozenset(
    {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)

#: Names of folders and lists that are splits, in the order in which they are shown.
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")


def split_order(name: str) -> tuple[int, str]:
    """Sort key of the names of splits: training, validation, test, then all others."""
    begins = (n for n, split in enumerate(SPLIT_NAMES) if name.lower().startswith(split))
    return next(begins, len(SPLIT_NAMES)), name


def is_split_name(name: str) -> bool:
    """Whether a name is, or begins with, that of a split: ``train``, ``val2017``."""
    return name.lower().startswith(SPLIT_NAMES)


def is_hidden(name: str) -> bool:
    """Whether this is the name of a hidden or system file or folder: ``._a.xml``, ``.git``,
    ``.ipynb_checkpoints``, ``Thumbs.db``, ``__MACOSX``, ``~$a.xml``."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_NAMES


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return PurePath(name).suffix.lower() in IMAGE_SUFFIXES and not is_hidden(name)


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


def walk_files(
    root: Path,
    *,
    hidden: bool = False,
    leave_out: Callable[[Path], bool] = lambda folder: False,
    on_error: Callable[[OSError], None] = _refuse,
) -> Iterator[Path]:
    """The files below ``root``, folder by folder and sorted within a folder.

    Links are followed, each folder is visited once. Hidden and system files are left out unless
    ``hidden``, and so are folders that ``leave_out`` is true for. Raises `DataError` for a folder
    that cannot be read, unless ``on_error`` does something else.
    """
    visited: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True, onerror=on_error):
        status = os.stat(folder)  # noqa: PTH116 (Path.stat gives the same; folder is a str)
        if (status.st_dev, status.st_ino) in visited or leave_out(Path(folder)):
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if hidden or not is_hidden(name))
        yield from (Path(folder, name) for name in sorted(names) if hidden or not is_hidden(name))


def image_files(root: Path) -> list[Path]:
    """The image files below ``root``, sorted by path."""
    return sorted(path for path in walk_files(root) if is_image_name(path.name))


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` that are not hidden, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))

"""Listings of data folders, in which every reader leaves out the same hidden and system files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from errno import EACCES
from pathlib import Path

from ..detection.errors import DataError
from .image import IMAGE_SUFFIXES

#: What file managers, archivers and network drives leave in folders, in lower case.
_SYSTEM_NAMES = frozenset(
    {"thumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "lost+found"}
    | {"system volume information"}
)

#: Names of folders and lists that are splits, in the order in which they are shown.
SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing")
#: Usual names, in lower case, of the folder of all images of a data set or a split.
IMAGE_FOLDERS = ("jpegimages", "images", "imgs", "img", "image")


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


def has_image_suffix(name: str) -> bool:
    """Whether the name ends like that of an image, in any case."""
    stem, dot, suffix = name.rpartition(".")  # ten times as fast as a path's suffix
    return stem != "" and dot + suffix.lower() in IMAGE_SUFFIXES


def is_image_name(name: str) -> bool:
    """Whether a file of this name is taken for an image."""
    return has_image_suffix(name) and not is_hidden(name)


# ---------------------------------------------------------------------------------- reading


@dataclass(frozen=True)
class _Folder:
    """What is in a folder, sorted; ``identity`` is the same under each of its names."""

    identity: tuple[int, int]
    folders: tuple[str, ...]
    files: tuple[str, ...]


_KNOWN: ContextVar[dict[str, _Folder] | None] = ContextVar("known", default=None)


@contextmanager
def listed_once() -> Iterator[None]:
    """Within it each folder is read from the disk once, however often it is listed: for code that
    looks at a data set in many ways and changes nothing in it."""
    if _KNOWN.get() is not None:
        yield
        return
    token = _KNOWN.set({})
    try:
        yield
    finally:
        _KNOWN.reset(token)


_LEFT_OUT: ContextVar[dict[str, str] | None] = ContextVar("left_out", default=None)

#: Folders that this process has warned of: data are listed several times.
_TOLD: set[str] = set()


@contextmanager
def collected_unreadable() -> Iterator[dict[str, str]]:
    """{folder: reason} of the folders that this process may not read, filled while they are passed
    over within the context; outside of one a warning tells of each."""
    found: dict[str, str] = {}
    token = _LEFT_OUT.set(found)
    try:
        yield found
    finally:
        _LEFT_OUT.reset(token)


def pass_over(error: OSError) -> None:
    """Record, or warn of, a folder that cannot be read, and whose files are left out."""
    folder, reason = str(error.filename), f"cannot be read: {error.strerror}"
    if (found := _LEFT_OUT.get()) is not None:
        found[folder] = reason
    elif folder not in _TOLD:
        _TOLD.add(folder)
        warnings.warn(f"{folder}: {reason}; what is in it is left out", stacklevel=3)


def is_readable(folder: str | Path) -> bool:
    """Whether this process may list a folder and open what is in it; `pass_over` if not."""
    now = os.access in os.supports_effective_ids
    if os.access(folder, os.R_OK | os.X_OK, effective_ids=now):
        return True
    pass_over(PermissionError(EACCES, os.strerror(EACCES), str(folder)))
    return False


def _permitted(folder: str) -> _Folder:
    """`_read`, but a folder that this process may not read is empty."""
    try:
        return _read(folder)
    except PermissionError as error:
        pass_over(error)
        return _Folder((-1, hash(folder)), (), ())


def _read(folder: str) -> _Folder:
    """Raises OSError."""
    known = _KNOWN.get()
    if known is not None and folder in known:
        return known[folder]
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            (folders if _is_folder(entry) else files).append(entry.name)
    status = os.stat(folder)  # noqa: PTH116 (Path.stat gives the same; folder is a str)
    identity = status.st_dev, status.st_ino
    found = _Folder(identity, tuple(sorted(folders)), tuple(sorted(files)))
    if known is not None:
        known[folder] = found
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read: {error.strerror}") from error


def walk_folders(
    root: Path,
    *,
    hidden: bool = False,
    leave_out: Callable[[Path], bool] = lambda folder: False,
    on_error: Callable[[OSError], None] = _refuse,
) -> Iterator[tuple[str, list[str]]]:
    """(folder, names of its files) of ``root`` and all folders below it, in sorted order.

    Links are followed, each folder is visited once. Hidden and system files are left out unless
    ``hidden``, and so are folders that ``leave_out`` is true for. Folders below ``root`` that may
    not be read are passed over, see `collected_unreadable`. Raises `DataError` for one that cannot
    be read otherwise, or is ``root``, unless ``on_error`` does something else.
    """
    visited: set[tuple[int, int]] = set()
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            found = _read(folder) if folder == str(root) else _permitted(folder)
        except OSError as error:
            on_error(error)
            continue
        if found.identity in visited or leave_out(Path(folder)):
            continue
        visited.add(found.identity)
        inside = (name for name in reversed(found.folders) if hidden or not is_hidden(name))
        waiting += [str(Path(folder, name)) for name in inside]
        yield folder, [name for name in found.files if hidden or not is_hidden(name)]


def walk_files(
    root: Path,
    *,
    hidden: bool = False,
    leave_out: Callable[[Path], bool] = lambda folder: False,
    on_error: Callable[[OSError], None] = _refuse,
) -> Iterator[Path]:
    """The files of `walk_folders`, which has the same options."""
    found = walk_folders(root, hidden=hidden, leave_out=leave_out, on_error=on_error)
    return (Path(folder, name) for folder, names in found for name in names)


def files_with_suffix(root: Path, *suffixes: str) -> Iterator[Path]:
    """The files below ``root`` whose names end with one of ``suffixes``, in any case."""
    for folder, names in walk_folders(root):
        yield from (Path(folder, name) for name in names if name.lower().endswith(suffixes))


def image_files(root: Path) -> list[Path]:
    """The image files below ``root``, sorted by path."""
    return sorted(
        Path(folder, name)
        for folder, names in walk_folders(root)
        for name in names
        if is_image_name(name)
    )


def has_images(root: Path) -> bool:
    """Whether there is an image file below ``root``."""
    return any(is_image_name(name) for _, names in walk_folders(root) for name in names)


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """The files in ``folder`` that are not hidden, sorted by name; with ``suffixes``, those that
    end with one of them, in any case. Empty if there is no such folder."""
    if not folder.is_dir():
        return []
    names = (name for name in _permitted(str(folder)).files if not is_hidden(name))
    return [folder / name for name in names if not suffixes or name.lower().endswith(suffixes)]


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder`` that are not hidden and may be read, sorted by name."""
    found = (folder / name for name in _permitted(str(folder)).folders if not is_hidden(name))
    return [place for place in found if is_readable(place)]


def folder_with(root: Path, *names: str) -> Path | None:
    """``root``, or the only folder in it, that has files of all these names; None without one."""

    def has_all(folder: Path) -> bool:
        return all(os.path.isfile(folder / name) for name in names)  # noqa: PTH113 (no error)

    if not root.is_dir() or has_all(root):
        return root if root.is_dir() else None
    found = [folder for folder in subfolders(root) if has_all(folder)]
    return found[0] if len(found) == 1 else None

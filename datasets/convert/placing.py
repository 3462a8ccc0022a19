"""Atomic creation of a data set folder, and copying or linking of images into it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ...detection.errors import DataError
from ...detection.files import atomic_folder, remove_leftovers
from ..formats.writing import Place


def expect_free(out: Path) -> None:
    """Raise `DataError` unless ``out`` is an empty folder or does not exist."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError(f"{out}: is there and is not a folder")
    if out.is_dir() and any(out.iterdir()):
        remove_leftovers(out)
        raise DataError(f"{out}: is not empty; choose a new folder")


@contextmanager
def all_or_nothing(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``out``, which is renamed to ``out`` after the block. With
    ``replace`` an existing folder is deleted then.

    Raises `DataError` for errors of the file system, `ConfigError` where another process is writing
    ``out``, or wrote into it meanwhile.
    """
    if not replace:
        expect_free(out)
    try:
        with atomic_folder(out, replace=replace) as part:
            yield part
    except OSError as error:
        raise DataError(f"{error.filename or out}: {error.strerror or error}") from error


def placer(*, link: bool, report: Callable[[], None]) -> Place:
    """A function that copies images byte by byte or hard-links them.

    ``report`` is called after each. An existing file is never replaced (`FileExistsError`).
    """

    def place(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            _link(source, target)
        else:
            with source.open("rb") as content, target.open("xb") as file:
                shutil.copyfileobj(content, file, 2**20)
        report()

    return place


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())  # the target of a symbolic link
    except FileExistsError:
        raise
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{source}: cannot be linked ({reason}); copy instead of linking"
        ) from error

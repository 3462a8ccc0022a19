"""Who may write to a folder of results? One run at a time.

The lock is the kernel's, on a small file in the folder. It ends with the process, however that
ends, so that a killed run leaves nothing to be unlocked by hand.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from .errors import ConfigError

#: The file in the folder; one that a killed run has left there means nothing.
LOCK = ".lock"
#: What file systems without locks answer; there, as on Windows, work goes on without one.
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL)
_held: set[FileIO] = set()


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; it is made where missing, and taken away if left empty.

    Raises:
        ConfigError: another run holds it, or it cannot be written.
    """
    try:
        is_new = not folder.exists()
        file = _acquire(folder)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{folder}: cannot write to this folder: {reason}") from error
    _held.add(file)
    try:
        yield
    finally:
        if file in _held:  # not in a data worker, which is a copy of this process
            _held.remove(file)
            with suppress(OSError):
                (folder / LOCK).unlink()
                if is_new:
                    folder.rmdir()  # which refuses a folder with anything in it
            file.close()


def is_unused(folder: Path) -> bool:
    """Whether ``folder`` is missing or holds nothing but a lock; raises OSError for a file."""
    return not folder.exists() or all(path.name == LOCK for path in folder.iterdir())


def _acquire(folder: Path) -> FileIO:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK
    while True:
        file = path.open("a+b", buffering=0)
        try:
            _lock(file, folder)
        except BaseException:
            file.close()
            raise
        if _is_at(file, path):
            return file
        file.close()


def _lock(file: FileIO, folder: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        owner = file.read().decode("ascii", "replace").strip() or "unknown"
        raise ConfigError(
            f"{folder}: another run (process {owner}) is writing to this folder; "
            "wait for its end or give another --out"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    with suppress(OSError):  # a full disk; the number is only for the message above
        file.truncate(0)
        file.write(f"{os.getpid()}\n".encode())


def _is_at(file: FileIO, path: Path) -> bool:
    """False where the run before took its file away between our opening and locking it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _forget() -> None:
    """In a forked data worker: a copy of the lock would outlive the killed run by seconds."""
    for file in _held:
        file.close()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)

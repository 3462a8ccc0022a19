"""Atomic writing of files and folders, safe CSV cells, checksums, and the lock of a folder."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import ConfigError, ResdetError

#: The lock file in a folder; one left by a killed run has no effect.
LOCK = ".lock"
#: Errors of file systems without locks; the run then continues without one.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)
#: Seconds to wait for the lock: a run that is ending still removes its lock file.
_PATIENCE = 0.1
#: How the names of temporary files end.
_PART = ".resdet-part"


def part_of(path: Path) -> Path:
    """The temporary file of `atomic_write`, which a killed process may leave behind. No one else
    gives such a name to a file."""
    return path.with_name(f".{path.name}{_PART}")


def is_part(name: str) -> bool:
    """Whether a file of this name is a temporary one."""
    return name.endswith(_PART)


@contextmanager
def atomic_write(
    path: Path, *, sync: bool = False, error: type[ResdetError] | None = None
) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, which replaces ``path`` after the block.

    After an exception the temporary file is removed and ``path`` is unchanged. ``sync`` flushes the
    contents to disk before the replacement, and the folder after it, so that a power cut leaves the
    old or the new file.

    Raises:
        OSError, UnicodeEncodeError: as ``error``, naming ``path``, if that is given.
    """
    part = part_of(path)
    try:
        part.unlink(missing_ok=True)
        yield part
        if sync:
            sync_to_disk(part)
        part.replace(path)
        if sync:
            sync_to_disk(path.parent)
    except (OSError, UnicodeEncodeError) as fault:
        if error is None:
            raise
        reason = getattr(fault, "strerror", None) or fault
        raise error(f"{path}: cannot be written: {reason}") from fault
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk; raises OSError."""
    is_folder = path.is_dir()
    if is_folder and os.name == "nt":  # Windows flushes no folders
        return
    descriptor = os.open(path, os.O_RDONLY if is_folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not is_folder or error.errno != errno.EINVAL:  # not on this file system
            raise
    finally:
        os.close(descriptor)


@contextmanager
def atomic_folder(out: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder, which becomes ``out`` after the block; a link stays one.

    ``out`` must be missing or empty then. With ``replace`` it may be a folder with content, which
    is deleted last. After an exception nothing is left; what a killed process leaves, the next one
    removes.

    Raises:
        ConfigError: another process is writing it, it cannot be written, or is not empty.
        OSError: as the block, and from the replacement.
    """
    out = out.resolve()
    work = part_of(out)  # which is locked until the end
    new, old = work / "new", work / "old"
    try:
        with folder_lock(work):
            _put_back(old, out)  # of a process that was killed before the end
            _empty(work)
            new.mkdir()
            try:
                yield new
                if out.is_dir():
                    _put_away(out, old if replace else None)
                new.rename(out)
            except BaseException:
                _put_back(old, out)
                shutil.rmtree(new, ignore_errors=True)
                raise
            _empty(work)
    finally:
        with suppress(OSError):  # is missing, or that of another process
            work.rmdir()


def remove_leftovers(out: Path) -> None:
    """Remove what a killed `atomic_folder` left beside a finished ``out``; nothing while another
    process writes there."""
    work = part_of(out.resolve())
    if work.is_dir():
        with suppress(ConfigError, OSError), folder_lock(work):
            shutil.rmtree(work)


def _put_away(out: Path, old: Path | None) -> None:
    """Rename ``out`` to ``old``; None: remove it, which must be empty. (Windows cannot rename onto
    a folder.)"""
    if old is not None:
        out.rename(old)
    elif any(out.iterdir()):
        raise ConfigError(f"{out}: another program wrote into it meanwhile; choose a new folder")
    else:
        out.rmdir()


def _put_back(old: Path, out: Path) -> None:
    if old.exists() and not out.exists():
        old.rename(out)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()


def write_file(
    path: Path,
    content: bytes | str,
    *,
    sync: bool = False,
    error: type[ResdetError] | None = None,
) -> None:
    """Replace ``path`` by ``content`` (text as UTF-8); raises as `atomic_write`."""
    with atomic_write(path, sync=sync, error=error) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def append_file(path: Path, content: bytes) -> None:
    """Append ``content`` to ``path``; after an OSError (disk full) the file is unchanged."""
    size = path.stat().st_size if path.exists() else 0
    try:
        with path.open("ab") as file:
            file.write(content)
    except OSError:
        with suppress(OSError):
            os.truncate(path, size)
        raise


def csv_cell(value: object) -> object:
    """A CSV cell; text that a spreadsheet would run as a formula is quoted (OWASP)."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def expect_regular(path: Path) -> None:
    """Raise OSError, naming ``path``, unless it is a file or a link to one.

    A pipe would block whoever opens it, and a device or a socket is never an input.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def read_limited(path: Path, limit: int = 2**32) -> bytes:
    """The content of a file of at most ``limit`` bytes, also if it grows meanwhile.

    Raises:
        OSError: it cannot be read, is larger, or is no file (`expect_regular`).
    """
    expect_regular(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(size + 1) if size <= limit else b""
    if size > limit or len(content) > size:
        most = f"{limit} bytes" if limit % 2**20 else f"{limit // 2**20} MB"
        reason = f"larger than {most}" if size > limit else "grows while it is read"
        raise OSError(errno.EFBIG, reason, str(path))
    return content


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's contents, 64 hexadecimal digits. Raises OSError."""
    expect_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def default_cache() -> Path:
    """``$RESDET_CACHE``, else ``~/.cache/resdet``."""
    return Path(os.environ.get("RESDET_CACHE") or "~/.cache/resdet").expanduser()


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for this process; it is created if missing, and removed if left empty.

    The operating system releases the lock when the process ends for any reason. Forked data workers
    do not inherit it. The temporary files of a run that was killed (`part_of`) are removed, but not
    those in folders within that have a lock of their own.

    Raises:
        ConfigError: another run holds it, or it cannot be written.
    """
    lock = FileLock(folder / LOCK, timeout=_PATIENCE, on_acquired=_write_owner)
    try:
        is_new = not folder.exists()
        was_killed = (folder / LOCK).exists()
        folder.mkdir(parents=True, exist_ok=True)
        _acquire(lock)
        if was_killed:
            _remove_parts(folder)
    except Timeout as error:
        raise ConfigError(
            f"{folder}: another run (process {_owner(folder)}) is writing to this folder; "
            "wait for its end or give another --out"
        ) from error
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{folder}: cannot write to this folder: {reason}") from error
    process = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == process:  # not in a forked data worker
            with suppress(OSError):  # Windows removes no open file; there filelock does, later
                (folder / LOCK).unlink()
            lock.release()
            with suppress(OSError):  # rmdir refuses a folder with anything in it
                if is_new:
                    folder.rmdir()


def is_unused(folder: Path) -> bool:
    """Whether ``folder`` is missing or holds nothing but a lock; raises OSError for a file."""
    return not folder.exists() or all(path.name == LOCK for path in folder.iterdir())


def _remove_parts(folder: Path) -> None:
    for place, folders, names in os.walk(folder):
        if Path(place) != folder and LOCK in names:
            folders.clear()
            continue
        for name in names:
            if is_part(name):
                Path(place, name).unlink()


def _acquire(lock: FileLock) -> None:
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _write_owner(descriptor: int) -> None:
    """The process id, which filelock keeps nowhere; only the message to the next run needs it."""
    with suppress(OSError):  # a full disk
        os.truncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}\n".encode())


def _owner(folder: Path) -> str:
    try:
        return (folder / LOCK).read_text(encoding="ascii", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"

"""Safe unpacking of archives from the network.

Python's own extraction filters were bypassed several times (CVE-2007-4559, CVE-2025-4517). The
rules here are stricter and do not depend on the Python version: regular files only, no links or
devices, every path inside the target, and limits on the number of files and bytes.
"""

from __future__ import annotations

import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from ...detection.errors import DataError

CHUNK = 1 << 20
#: COCO's train2017 has 118 287 files.
MAX_FILES = 200_000
#: Maximum ratio of unpacked to packed bytes: images have 1, COCO's annotations about 4.
MAX_EXPANSION = 30

#: Called with (bytes done, total bytes).
Report = Callable[[int, int], None]
_Member = tuple[str, Callable[[], IO[bytes] | None]]
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


def unpack(
    archive: Path,
    target: Path,
    *,
    max_files: int = MAX_FILES,
    max_expansion: int = MAX_EXPANSION,
    report: Report = lambda done, total: None,
) -> int:
    """Unpack a tar or zip file into ``target`` and return the number of files written.

    Existing files are replaced. Raises DataError, with the names of archive and member, for a link,
    a device, a path outside ``target``, too much content, or damage; files that were already
    written are kept.
    """
    size = archive.stat().st_size
    allowance = size * max_expansion
    written = files = 0
    try:
        for name, opened in _members(archive):
            files += 1
            if files > max_files:
                raise DataError(f"{archive}: contains more than {max_files} files")
            path = _inside(target, name, archive)
            with _content(opened, name, archive) as content:
                written += _copy(content, path, limit=allowance - written, archive=archive)
            report(min(written, size), size)
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{archive}: damaged archive: {reason}") from error
    except OSError as error:  # invalid offsets, or a full disk
        reason = error.strerror or str(error)
        raise DataError(f"{archive}: cannot be unpacked into {target}: {reason}") from error
    return files


def _members(archive: Path) -> Iterator[_Member]:
    """Name and opener of each regular file; skips folders, raises DataError for anything else."""
    # By name: a tar file whose last member is a zip file is also a valid zip file.
    return _zip_members(archive) if archive.suffix == ".zip" else _tar_members(archive)


def _tar_members(archive: Path) -> Iterator[_Member]:
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise DataError(f"{archive}: {member.name}: not a regular file; refused")
            yield member.name, partial(opened.extractfile, member)


def _zip_members(archive: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if info.filename.endswith("/"):  # a folder; is_dir() fails on an empty name
                continue
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):  # 0: written on a system without Unix modes
                raise DataError(f"{archive}: {info.filename}: not a regular file; refused")
            yield info.filename, partial(opened.open, info)


def _content(opened: Callable[[], IO[bytes] | None], name: str, archive: Path) -> IO[bytes]:
    content = opened()
    if content is None:
        raise DataError(f"{archive}: {name}: has no content")
    return content


def _inside(target: Path, name: str, archive: Path) -> Path:
    """The path of a member; resolves links that already exist inside ``target``."""
    relative = PurePosixPath(name.replace("\\", "/"))
    suspicious = relative.is_absolute() or ".." in relative.parts or not relative.parts
    if suspicious or any(character in name for character in ":\0"):
        raise DataError(f"{archive}: {name!r}: is outside the target folder; refused")
    path = (target / relative).resolve()
    if not path.is_relative_to(target.resolve()):
        raise DataError(f"{archive}: {name!r}: is outside the target folder; refused")
    return path


def _copy(content: IO[bytes], path: Path, *, limit: int, archive: Path) -> int:
    """Write ``content`` and return its length, counted while reading: headers may be wrong."""
    written = 0
    with _created(path) as file:
        while chunk := content.read(CHUNK):
            written += len(chunk)
            if written > limit:
                raise DataError(
                    f"{archive}: {path.name}: unpacks to much more than the size of the archive"
                )
            file.write(chunk)
    return written


def _created(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error

"""The files below a folder in a fixed order, with folders read ahead in parallel.

A folder's files come before its subfolders, both sorted by code points. So the last file of an
interrupted listing says where to go on, and nothing that was listed is read again but the folders
above it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Full, Queue
from typing import Any, NamedTuple

from ...detection.errors import DataError
from ..listing import pass_over
from .storage import filesystem, is_remote, join, patiently, reason_of

#: Files in one piece of a listing, and pieces that wait for whoever takes them.
_CHUNK, _WAITING = 5000, 4
#: Folders that are read at once.
THREADS = 16


class Listed(NamedTuple):
    """A file of a folder: its name, bytes (None: unknown) and ETag, "" where there is none."""

    name: str
    size: int | None
    etag: str


#: Files in sorted pieces; it returns the names of the subfolders.
Listing = Generator[list[Listed], None, list[str]]


def walk(
    root: str,
    *,
    enter: Callable[[str], bool] = lambda folder: True,
    after: tuple[str, ...] = (),
    threads: int = THREADS,
) -> Generator[tuple[str, list[Listed]], None, None]:
    """(folder relative to ``root``, a sorted piece of its files), folder by folder.

    ``enter`` says of a relative folder whether to look into it. ``after`` are the parts of the
    relative path of a file: what comes before it, and the file itself, is left out. ``threads``
    folders are read at once, of each at most a few thousand entries ahead.

    Folders below ``root`` that may not be read are passed over, with a warning. Raises DataError
    for one that cannot be read otherwise.
    """
    stack = [""]
    running: dict[str, _Reading] = {}
    stopped = threading.Event()
    with ThreadPoolExecutor(threads, "list") as pool:
        try:
            while stack:
                for folder in reversed(stack[-threads:]):
                    if folder not in running and len(running) < threads:
                        running[folder] = _Reading(join(root, folder), stopped, inside=folder != "")
                        pool.submit(running[folder].run)
                folder = stack.pop()
                reading, done = running.pop(folder), _done_in(folder, after)
                for files in reading:
                    if kept := [each for each in files if done is None or each.name > done.file]:
                        yield folder, kept
                inside = [
                    join(folder, name)
                    for name in sorted(reading.folders, reverse=True)
                    if done is None or name >= done.folder
                ]
                stack += filter(enter, inside)
        finally:
            stopped.set()


class _Done(NamedTuple):
    """In a folder above the last file, the names up to ``file``, and before ``folder``, are done;
    the largest character stands for all names."""

    file: str
    folder: str


def _done_in(folder: str, after: tuple[str, ...]) -> _Done | None:
    parts = tuple(folder.split("/")) if folder else ()
    if not after or after[: len(parts)] != parts:
        return None
    if len(parts) == len(after) - 1:
        return _Done(after[-1], "")
    return _Done(chr(0x10FFFF), after[len(parts)])


class _Reading:
    """One folder that a thread reads; iterating gives its pieces, then ``folders`` is known."""

    def __init__(self, address: str, stopped: threading.Event, *, inside: bool) -> None:
        self._address, self._stopped, self._inside = address, stopped, inside
        self._pieces: Queue[list[Listed] | BaseException | None] = Queue(_WAITING)
        self.folders: list[str] = []

    def run(self) -> None:
        try:
            listing = _remote(self._address) if is_remote(self._address) else _local(self._address)
            while True:
                try:
                    self._put(next(listing))
                except StopIteration as end:
                    self.folders = end.value
                    return self._put(None)
        except BaseException as error:  # told to whoever iterates
            self._put(error)

    def __iter__(self) -> Iterator[list[Listed]]:
        while True:
            piece = self._pieces.get()
            if isinstance(piece, PermissionError) and self._inside and piece.filename:
                return pass_over(piece)
            if isinstance(piece, BaseException):
                reason = reason_of(piece).replace("file", "folder")
                raise DataError(f"{self._address}: {reason}") from piece
            if piece is None:
                return
            yield piece

    def _put(self, piece: list[Listed] | BaseException | None) -> None:
        while not self._stopped.is_set():
            with suppress(Full):
                return self._pieces.put(piece, timeout=0.5)


def _local(folder: str) -> Listing:
    """Links are followed, but not to a folder that holds them."""
    folders, names = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                is_folder = entry.is_dir()
            except OSError:
                is_folder = False
            if not is_folder:
                names.append(entry.name)
            elif not (entry.is_symlink() and _leads_back(entry.path)):
                folders.append(entry.name)
    names.sort()
    for start in range(0, len(names), _CHUNK):
        yield [_stated(folder, name) for name in names[start : start + _CHUNK]]
    return folders


def _leads_back(link: str) -> bool:
    here, target = os.path.realpath(os.path.dirname(link)), os.path.realpath(link)  # noqa: PTH120
    return here == target or here.startswith(f"{target.rstrip('/')}/")


def _stated(folder: str, name: str) -> Listed:
    try:
        status = os.stat(f"{folder}/{name}")  # noqa: PTH116 (a path for each file is slow)
    except OSError:  # a broken link, which reading reports
        return Listed(name, None, "")
    return Listed(name, status.st_size, f"{status.st_mtime_ns:x}")


def _remote(folder: str) -> Listing:
    store, path = filesystem(folder)
    folders: list[str] = []
    pages = _pages(store, path) if hasattr(store, "_iterdir") else _whole(store, path)
    for page in pages:
        files = []
        for each in page:
            name = str(each["name"]).rstrip("/").rpartition("/")[2]
            if each["type"] == "directory":
                folders.append(name)
            elif each["size"] != 0 or not str(each["name"]).endswith("/"):  # no folder's marker
                etag = str(each.get("ETag") or each.get("etag") or "").strip('"')
                files.append(Listed(name, each["size"], etag))
        yield files
    return folders


def _whole(store: Any, path: str) -> Iterator[list[dict[str, Any]]]:
    """Everything at once, as fsspec lists it, sorted."""
    own = store._strip_protocol(path).rstrip("/")
    found = patiently(lambda: store.ls(path, detail=True), path)
    entries = [each for each in found if str(each["name"]).rstrip("/") != own]
    yield sorted(entries, key=lambda each: str(each["name"]).rstrip("/"))


def _pages(store: Any, path: str) -> Iterator[list[dict[str, Any]]]:
    """The pages of S3, whose keys are sorted, without the whole listing in memory."""
    from fsspec.asyn import sync

    bucket, key, _ = store.split_path(path)
    prefix = f"{key.rstrip('/')}/" if key else ""
    entries = store._iterdir(bucket, prefix=prefix)

    async def page() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        async for each in entries:
            if str(each["name"]) != f"{bucket}/{prefix}":  # the marker of the folder itself
                found.append(each)
            if len(found) == _CHUNK:
                break
        return found

    found, some = sync(store.loop, page), False
    while found:
        some = True
        yield found
        found = sync(store.loop, page)
    if not some and not store.exists(path):
        raise FileNotFoundError(path)

"""What a manifest is made of: the images of folders, globs, tar files and lists, one by one.

Every source gives its images in a fixed order and can go on after any of them.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from fnmatch import translate
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ...detection.errors import ConfigError, DataError, one_line
from ...detection.files import expect_regular
from ..listing import has_image_suffix, is_hidden
from ..text import NotUtf8, lines_of, utf8_text
from .entries import Entry
from .storage import filesystem, is_remote, join, patiently, reason_of
from .walk import Listed, walk

#: Bytes of a line of a list: addresses with a signature have a few thousand.
_LONGEST_LINE = 2**16
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip", ".7z", ".rar")


@dataclass
class ImageSource:
    """One input of a manifest. ``label`` begins the names of its images where there are several
    inputs; ``left_out`` counts what is no image, by extension."""

    address: str
    label: str = ""
    hidden: bool = False
    left_out: Counter[str] = field(default_factory=Counter)

    def entries(self, last: Entry | None, done: int) -> Iterator[Entry]:
        """The images after ``last``, which is number ``done`` of this source."""
        raise NotImplementedError

    def entry(self, path: str, name: str, about: Listed, offset: int | None = None) -> Entry | None:
        """An image; None, counted, for a name that Parquet cannot hold."""
        try:
            path.encode(), name.encode()
        except UnicodeEncodeError:
            self.left_out["name that is not UTF-8"] += 1
            return None
        return Entry(path, about.size, about.etag, join(self.label, name), offset)

    def wants(self, name: str) -> bool:
        """Whether a file is an image that is not hidden; others are counted."""
        if is_hidden(name) and not self.hidden:
            self.left_out["hidden"] += 1
        elif has_image_suffix(name):
            return True
        else:
            self.left_out[PurePosixPath(name).suffix.lower()[:12] or "no extension"] += 1
        return False


class FolderImages(ImageSource):
    """The images of a folder and its subfolders."""

    def entries(self, last: Entry | None, done: int) -> Iterator[Entry]:
        after = () if last is None else _parts(_below(last.path, self.address))
        pieces = walk(self.address, enter=self._enters, after=after)
        with closing(pieces):
            for folder, files in pieces:
                for each in files:
                    name = join(folder, each.name)
                    if self.wants(each.name) and (
                        entry := self.entry(join(self.address, name), name, each)
                    ):
                        yield entry

    def _enters(self, folder: str) -> bool:
        return self.hidden or not is_hidden(folder.rpartition("/")[2])


@dataclass
class GlobImages(ImageSource):
    """The images that match a pattern, and those in the tar files that match it; ``address`` is the
    folder before its first wildcard."""

    pattern: tuple[str, ...] = ()

    def entries(self, last: Entry | None, done: int) -> Iterator[Entry]:
        member = last is not None and last.offset is not None
        after: tuple[str, ...] = ()
        if last is not None:
            after = _parts(_below(last.place, self.address))
        if last is not None and member:
            yield from self._tar("/".join(after), last)
        pieces = walk(self.address, enter=self._enters, after=after)
        with closing(pieces):
            for folder, files in pieces:
                for each in files:
                    name = join(folder, each.name)
                    if not _matches(self.pattern, _parts(name), self.hidden):
                        continue
                    if each.name.lower().endswith(".tar"):
                        yield from self._tar(name, None)
                    elif self.wants(each.name) and (
                        entry := self.entry(join(self.address, name), name, each)
                    ):
                        yield entry

    def _tar(self, name: str, last: Entry | None) -> Iterator[Entry]:
        inside = TarImages(
            join(self.address, name), join(self.label, name), self.hidden, self.left_out
        )
        return inside.entries(last, 0)

    def _enters(self, folder: str) -> bool:
        return _may_hold(self.pattern, _parts(folder), self.hidden)


class TarImages(ImageSource):
    """The images in a tar file; each can be read by its offset, without the rest of the file."""

    def entries(self, last: Entry | None, done: int) -> Iterator[Entry]:
        first = 0 if last is None or last.offset is None else last.offset + 1
        try:
            with _opened(self.address) as file, tarfile.open(fileobj=file, mode="r:") as archive:
                while (member := archive.next()) is not None:
                    archive.members = []  # type: ignore[attr-defined]  # else they stay in memory
                    if member.offset_data < first or not member.isreg():
                        continue
                    name = member.name.removeprefix("./")
                    about = Listed(name, member.size, "")
                    path = f"tar://{name}::{self.address}"
                    if self.wants(name.rpartition("/")[2]) and (
                        entry := self.entry(path, name, about, member.offset_data)
                    ):
                        yield entry
        except tarfile.TarError as error:
            raise DataError(
                f"{self.address}: cannot be read as a tar file ({one_line(error)})"
            ) from error
        except OSError as error:
            raise DataError(f"{self.address}: {reason_of(error)}") from error


class ListImages(ImageSource):
    """The images of a text file with a path or an address on each line, relative to its folder.
    They are not looked up: one that is missing is an error in the results."""

    def entries(self, last: Entry | None, done: int) -> Iterator[Entry]:
        return islice(self._listed(), done, None)

    def _listed(self) -> Iterator[Entry]:
        folder = self.address.rpartition("/")[0] or ("" if is_remote(self.address) else "/")
        try:
            with _opened(self.address) as file:
                for number, line in enumerate(lines_of(file, _LONGEST_LINE, self.address), 1):
                    text = line.decode("utf-8-sig", "surrogateescape").strip()
                    if not text or text.startswith("#"):
                        continue
                    path = text if is_remote(text) or text.startswith("/") else join(folder, text)
                    self._expect_utf8(line, number, path)
                    if entry := self.entry(path, _below(path, folder), Listed(text, None, "")):
                        yield entry
        except OSError as error:
            raise DataError(f"{self.address}: {reason_of(error)}") from error

    def _expect_utf8(self, line: bytes, number: int, path: str) -> None:
        """Raises DataError, unless the file has such a name on the disk."""
        try:
            utf8_text(line, number)
        except NotUtf8 as error:
            if b"\0" in line or is_remote(path) or not os.path.exists(path):  # noqa: PTH110
                raise DataError(f"{self.address}: {error}") from error


def find_sources(inputs: Sequence[str], *, hidden: bool = False) -> list[ImageSource]:
    """The sources of paths and addresses: a folder, a glob, a ``.tar`` file or a ``.txt`` list.

    Raises ConfigError for one that does not exist or is none of these.
    """
    labels = _labels(inputs) if len(inputs) > 1 else [""]
    return [_source(text, label, hidden) for text, label in zip(inputs, labels, strict=True)]


def absolute(text: str) -> str:
    """The address, or the absolute path, of an input."""
    return text if is_remote(text) else os.path.abspath(text)  # noqa: PTH100 (links stay)


def _source(text: str, label: str, hidden: bool) -> ImageSource:
    address = absolute(text)
    web = address.lower().startswith("http")
    path = address.partition("?")[0] if web else address
    if path.lower().endswith(_COMPRESSED):
        raise ConfigError(f"{text}: is compressed; unpack it, or give a plain .tar file")
    if not web and glob.has_magic(address) and (is_remote(address) or not os.path.exists(address)):  # noqa: PTH110
        parts = address.split("/")
        fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
        root = "/".join(parts[:fixed]) or "/"
        return GlobImages(root, label, hidden, pattern=tuple(parts[fixed:]))
    kinds = {".tar": TarImages, ".txt": ListImages}
    kind = kinds.get(PurePosixPath(path).suffix.lower())
    if kind is not None and (is_remote(address) or os.path.isfile(address)):  # noqa: PTH113
        return kind(address, label, hidden)
    if is_remote(address):
        return FolderImages(address.rstrip("/") + "/" * web, label, hidden)
    if not os.path.exists(address):  # noqa: PTH110
        raise ConfigError(f"{text}: no such file or folder")
    if not os.path.isdir(address):  # noqa: PTH112
        raise ConfigError(f"{text}: no folder, glob, tar file or list (.txt) of images")
    return FolderImages(address, label, hidden)


def _labels(inputs: Sequence[str]) -> list[str]:
    """The last part of each input, with a number where it is not the first of its name."""
    labels: list[str] = []
    for text in inputs:
        fixed = [part for part in text.split("/") if part and not glob.has_magic(part)]
        stem = PurePosixPath(fixed[-1] if fixed else "root").stem or "root"
        label, number = stem, 1
        while label in labels:
            number += 1
            label = f"{stem}-{number}"
        labels.append(label)
    return labels


def _opened(address: str) -> IO[bytes]:
    if not is_remote(address):
        expect_regular(Path(address))
        return open(address, "rb")  # noqa: PTH123 (an address)
    store, path = filesystem(address)
    opened: Any = patiently(lambda: store.open(path, "rb"), address)
    return opened


def _below(path: str, folder: str) -> str:
    """``path`` relative to ``folder``; outside it, without scheme and leading slash."""
    inside = folder.rstrip("/") + "/"
    if path.startswith(inside):
        return path[len(inside) :]
    return re.sub(r"^[A-Za-z][\w+.-]*://", "", path).lstrip("/")


def _parts(name: str) -> tuple[str, ...]:
    return tuple(name.split("/")) if name else ()


# ------------------------------------------------------------------------------------ patterns


def _matches(pattern: tuple[str, ...], parts: tuple[str, ...], hidden: bool) -> bool:
    """Whether all parts match, where ``**`` stands for any number of folders. As in a shell, a
    wildcard matches a name with a dot only after a dot."""
    if not parts:
        return pattern in ((), ("**",))
    if not pattern:
        return False
    if pattern[0] == "**":
        rest = (hidden or not is_hidden(parts[0])) and _matches(pattern, parts[1:], hidden)
        return rest or _matches(pattern[1:], parts, hidden)
    return _fits(pattern[0], parts[0], hidden) and _matches(pattern[1:], parts[1:], hidden)


def _may_hold(pattern: tuple[str, ...], folder: tuple[str, ...], hidden: bool) -> bool:
    """Whether a folder may have files that match."""
    if not folder:
        return True
    if not pattern:
        return False
    if pattern[0] == "**":
        return hidden or not any(map(is_hidden, folder)) or _may_hold(pattern[1:], folder, hidden)
    return _fits(pattern[0], folder[0], hidden) and _may_hold(pattern[1:], folder[1:], hidden)


def _fits(pattern: str, name: str, hidden: bool) -> bool:
    if is_hidden(name) and not hidden and glob.has_magic(pattern) and pattern[0] != ".":
        return False
    return _compiled(pattern)(name) is not None


@cache
def _compiled(pattern: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(translate(pattern)).match

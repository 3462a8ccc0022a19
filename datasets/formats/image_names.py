"""Resolution of the names that annotations have for image files.

Annotation tools write names with backslashes, URL encoding, folders of another machine, upload
prefixes, other extensions, or another Unicode form than the file system has.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeGuard
from urllib.parse import unquote

from ...detection.errors import first_few
from ..findings import Fault, Finding
from ..image_file import is_file
from ..listing import image_files, is_image_name

#: Label Studio names uploaded files ``cb0618f0-a.jpg``.
_UPLOAD = re.compile(r"[0-9a-f]{8}-(?=.)", re.IGNORECASE)
#: Roboflow names the image a.jpg ``a_jpg.rf.<hash>.jpg``.
_EXPORT = re.compile(r"(.+)_(?:jpe?g|png|bmp|webp)\.rf\.\w+$", re.IGNORECASE)
_SCHEME = re.compile(r"^[a-z][a-z0-9+.-]*://", re.IGNORECASE)
#: Above this number of files, comparing names for a suggestion takes seconds.
_MOST_COMPARED = 20_000
#: After this number of missing files no nearest name is looked for: each search takes 0.1 s.
_MOST_SUGGESTED = 10


class ImageFiles:
    """The image files below ``root``, found by the names in an annotation file.

    A name is first taken as a path below ``root``. Otherwise the single file that fits it best is
    used: the most components of the path, from its end, without regard to case and Unicode form;
    then without extension; then without prefixes of uploads. A file in another folder is never used
    if there is a folder of the name's. Files outside ``root`` are used only with ``allow_outside``,
    by their absolute path, or by one that is relative to ``root`` or to the file that names them.
    """

    def __init__(self, root: Path, *, allow_outside: bool = False) -> None:
        self.root = root
        self.allow_outside = allow_outside
        #: {name: file} of the names that are no path below ``root``, and of files outside.
        self.resolved: dict[str, Path] = {}
        self.outside: dict[str, Path] = {}
        self._suggested = 0

    def find(self, name: str, source: Path, where: str = "") -> Path:
        """The file. Raises `Fault` of kind ``missing_image``, ``image_outside`` or
        ``ambiguous_image`` for the object ``where`` of ``source``."""
        path = PurePosixPath(name)
        if not path.is_absolute() and ".." not in path.parts and is_file(self.root / path):
            return self.root / path
        if self.allow_outside and self.is_outside(at := self.path_of(name, source)):
            self.outside[name] = at
            return at
        for candidates in self._candidates(name):
            if len(candidates) > 1:
                names = first_few([str(self._relative(each)) for each in candidates])
                reason = f"{name!r:.200} may be several files below {self.root}: {names}"
                raise Fault.of("ambiguous_image", source, reason, object=where)
            if candidates:
                self.resolved[name] = candidates[0]
                return candidates[0]
        kind, reason = "missing_image", f"{name!r:.200}: no such file below {self.root}"
        if self.is_outside(self.path_of(name, source)):
            kind, reason = "image_outside", f"{name!r:.200} is outside of {self.root}"
        else:
            reason += self._nearest(name)
        raise Fault.of(kind, source, reason, object=where)

    def notes(self, source: Path) -> list[Finding]:
        """One note that counts the resolved names, one error for each file of several names."""
        findings, names = [], defaultdict(list)
        for name, path in (*self.resolved.items(), *self.outside.items()):
            names[path].append(name)
        for path, several in names.items():
            if len(several) > 1:
                reason = f"several names fit this file alone: {first_few(several)}"
                findings.append(Finding("ambiguous_image", "error", source, reason, str(path)))
        if self.resolved:
            name, path = next(iter(self.resolved.items()))
            reason = (
                f"{len(self.resolved)} names of images were resolved to the only file that fits, "
                f"such as {name!r:.200} to {self._relative(path)}"
            )
            findings.append(Finding("resolved_name", "note", source, reason))
        if self.outside:
            path = next(iter(self.outside.values()))
            reason = f"{len(self.outside)} images outside of {self.root} are read, such as {path}"
            findings.append(Finding("image_outside", "note", source, reason))
        return findings

    def is_outside(self, path: Path | None) -> TypeGuard[Path]:
        """Whether this is a file, and not below ``root``."""
        return path is not None and not path.is_relative_to(self.root)

    def id_of(self, path: Path) -> str:
        """The path of a file below ``root``, the absolute path of one outside."""
        return (path if self.is_outside(path) else path.relative_to(self.root)).as_posix()

    def path_of(self, name: str, source: Path) -> Path | None:
        """The file whose path the name is, below ``root`` or not; None if there is none."""
        for text in dict.fromkeys((name, _cleaned(name))):
            for path in (self.root / text, source.parent / text):
                if is_file(path):
                    found, root = path.resolve(), self.root.resolve()
                    below = found.is_relative_to(root)
                    return self.root / found.relative_to(root) if below else found
        return None

    def _relative(self, path: Path) -> PurePosixPath:
        return PurePosixPath(path.relative_to(self.root).as_posix())

    @cached_property
    def _files(self) -> list[tuple[Path, tuple[str, ...]]]:
        """Files with the comparable components of their paths."""
        if not self.root.is_dir():
            return []
        return [(path, _parts(self._relative(path).as_posix())) for path in image_files(self.root)]

    @cached_property
    def _folders(self) -> set[str]:
        return {part for _, parts in self._files for part in parts[:-1]}

    @cached_property
    def _by_key(self) -> dict[str, list[tuple[Path, tuple[str, ...]]]]:
        index: dict[str, list[tuple[Path, tuple[str, ...]]]] = defaultdict(list)
        for path, parts in self._files:
            for key in dict.fromkeys(_keys(parts[-1])):
                index[key].append((path, parts))
        return index

    def _candidates(self, name: str) -> Iterator[list[Path]]:
        for parts in dict.fromkeys((_parts(name), _parts(_cleaned(name)))):
            for key in _keys(parts[-1]) if parts else ():
                yield self._best(parts, self._by_key.get(key, ()))

    def _best(
        self, parts: Sequence[str], found: Sequence[tuple[Path, tuple[str, ...]]]
    ) -> list[Path]:
        """The files that share most folders with ``parts``, counted from the end."""
        shared = [_common_end(parts[:-1], folders[:-1]) for _, folders in found]
        most = max(shared, default=0)
        if most == 0 and len(parts) > 1 and parts[-2] in self._folders:
            return []  # of another folder than the name says
        return [path for (path, _), count in zip(found, shared, strict=True) if count == most]

    def _nearest(self, name: str) -> str:
        if not self._files:
            return ", which has no images"
        if self._suggested == _MOST_SUGGESTED:
            return f", which has {len(self._files)}"
        self._suggested += 1
        names = {self._relative(path).name for path, _ in self._files[:_MOST_COMPARED]}
        wanted = PurePosixPath(_cleaned(name)).name
        close = difflib.get_close_matches(wanted, sorted(names), n=1)
        return f"; the nearest is {close[0]!r}" if close else f", which has {len(self._files)}"


def _cleaned(name: str) -> str:
    """The path in a URL, a Windows path, or a query such as ``/data/local-files/?d=a/b.jpg``."""
    text = _SCHEME.sub("", name.replace("\\", "/"))
    text = text.partition("?d=")[2] or text.partition("?")[0]
    return unquote(text)


def _parts(name: str) -> tuple[str, ...]:
    """Components of a path in the form in which they are compared."""
    text = unicodedata.normalize("NFC", name).casefold()
    return tuple(part for part in text.split("/") if part not in ("", ".", ".."))


def _keys(name: str) -> Iterator[str]:
    """The keys under which a file name (comparable) is looked up, the most exact first.

    Keys without extension or prefix have a mark that no file name has, so that an exact name is
    never compared with a shortened one.
    """
    stem = name.rpartition(".")[0] if is_image_name(name) else name
    yield name
    yield f"{stem}/"
    bare = _UPLOAD.sub("", stem, count=1)
    exported = _EXPORT.match(bare)
    yield f"{exported.group(1) if exported else bare}//"


def _common_end(left: Sequence[str], right: Sequence[str]) -> int:
    """How many components at the end are the same."""
    count = 0
    for one, other in zip(reversed(left), reversed(right), strict=False):
        if one != other:
            break
        count += 1
    return count

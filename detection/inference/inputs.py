"""Search for input images."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path, PurePath
from typing import IO

from ...datasets.image import bytes_to_read
from ...datasets.listing import files_in, has_image_suffix, is_hidden, is_readable, walk_files
from ...datasets.manifests.storage import ADDRESS
from ...datasets.text import NotUtf8, utf8_text
from ..errors import ConfigError
from ..files import read_limited
from .video import is_video

#: Bytes of a list of images.
_LARGEST_LIST = 2**30

#: What to do with files that hold images but are none, by extension.
_ADVICE = {
    **dict.fromkeys((".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"), "an archive: unpack it and "
    "give the folder"),
    **dict.fromkeys((".csv", ".json", ".jsonl"), "no image: a list of images is a .txt file with "
    "one path on each line"),
    ".pdf": "a PDF: convert its pages to images first",
}  # fmt: skip


@dataclass(frozen=True)
class InputFile:
    """An image at ``path``; ``name`` is its unique path below the input, with POSIX slashes.
    ``named`` marks an input that was itself this file, and no folder, glob or list."""

    path: Path
    name: str
    named: bool = field(default=False, compare=False)

    @property
    def place(self) -> str:
        """Its path or address, for messages."""
        return str(self.path)

    def fetch(self) -> tuple[Path | IO[bytes], int]:
        """What a predictor takes, and the most bytes of memory that reading and decoding take.
        Raises ImageError for an image that cannot be fetched."""
        return self.path, bytes_to_read(self.path)


@dataclass(frozen=True)
class _InputGroup:
    """The files of one input and the folder that their names are relative to."""

    root: Path
    files: tuple[InputFile, ...]


@dataclass(frozen=True)
class _Wanted:
    """What folders and globs are searched for, as in `find_inputs`."""

    exclude: Path | None
    hidden: bool

    def is_excluded(self, folder: Path) -> bool:
        return self.exclude is not None and self.exclude.exists() and folder.samefile(self.exclude)


def find_inputs(
    inputs: Sequence[str | os.PathLike[str]], *, exclude: Path | None = None, hidden: bool = False
) -> list[InputFile]:
    """The images of ``inputs``, sorted by name within each input.

    An input is a folder (searched with its sub-folders by `image.IMAGE_SUFFIXES`, upper or lower
    case), a glob (``day*/**/*.jpg``), a list file (``.txt``, one path a line, relative to the
    list's folder or else the working folder; lines that begin with ``#`` are comments) or one
    image. Names are relative to the folder, to the part of the glob before its first wildcard, or
    to the list's folder; where several inputs hold the same name, all names begin with their
    folder's. A file that is given twice counts once. ``exclude`` is a folder to leave out, such as
    the results of an earlier run. In folders and globs, hidden and system files (`is_hidden`) are
    left out unless ``hidden``.

    Raises ConfigError for an input that does not exist, holds no image or is no kind of input,
    with what to do.
    """
    wanted = _Wanted(exclude, hidden)
    groups = [_expand(os.fspath(item), wanted) for item in inputs]
    seen: set[str] = set()
    unique = [
        _InputGroup(group.root, tuple(file for file in group.files if _is_new(file, seen)))
        for group in groups
    ]
    return _with_unique_names(unique)


def find_videos(inputs: Sequence[str]) -> list[str]:
    """The videos of ``inputs`` (see `is_video`), globs expanded. Raises ConfigError for one that
    does not exist, as `find_inputs` does, and for images among them."""
    videos: list[str] = []
    for item in inputs:
        if not is_video(item):
            raise ConfigError(f"{item}: is no video; images and videos need a run each")
        if "://" in item or item.isdecimal() or _exists(Path(item)):
            videos.append(item)
        elif matches := sorted(glob.glob(item, recursive=True)):  # noqa: PTH207 (absolute too)
            videos += matches
        else:
            raise ConfigError(f"{item}: no such file{_hint(item)}")
    return list(dict.fromkeys(videos))


def _expand(item: str, wanted: _Wanted) -> _InputGroup:
    path = Path(item)
    there = _exists(path)
    if there and path.is_dir():
        return _InputGroup(path, _named(_walk(path, wanted), path, item))
    if there and path.is_file() and path.suffix.lower() == ".txt":
        return _InputGroup(path.parent, _listed(path))
    if there:
        if advice := _ADVICE.get(path.suffix.lower()):
            raise ConfigError(f"{item}: is {advice}")
        return _InputGroup(path.parent, (InputFile(path, _printable(path.name), named=True),))
    if ADDRESS.match(item):
        stored = "" if item.startswith("http") else ", or list them: resdet manifest --help"
        raise ConfigError(f"{item}: is a URL: download the images and give the files{stored}")
    if glob.has_magic(item):
        root = _before_wildcard(item)
        return _InputGroup(root, _named(_matches(item, root, wanted), root, item))
    raise ConfigError(f"{item}: no such file or folder{_hint(item)}")


def _hint(item: str) -> str:
    """What may have been meant by an input that does not exist."""
    if item == "-":
        return "; images are not read from the standard input"
    if all(_exists(Path(part)) for part in item.split(",") if part):
        return "; separate inputs by spaces, not by commas"
    path = Path(item)
    try:
        names = os.listdir(path.parent)  # noqa: PTH208 (names only, in one call)
    except OSError:
        return f"; nor is there a folder {path.parent}" if not _exists(path.parent) else ""
    near = get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _walk(root: Path, wanted: _Wanted) -> Iterator[Path]:
    """Images below ``root``; links are followed, each folder once."""
    files = walk_files(root, hidden=wanted.hidden, leave_out=wanted.is_excluded, on_error=_refuse)
    return (path for path in files if has_image_suffix(path.name))


def _refuse(error: OSError) -> None:
    raise ConfigError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _matches(pattern: str, root: Path, wanted: _Wanted) -> Iterator[Path]:
    """The images that the pattern matches below ``root``, its part before the first wildcard. As in
    a shell, a wildcard matches a name with a dot only after a dot."""
    exclude, named = wanted.exclude, set(Path(pattern).parts)
    for path in _paths(pattern, wanted.hidden):
        inside = exclude is not None and path.resolve().is_relative_to(exclude.resolve())
        system = not wanted.hidden and any(
            is_hidden(part) and part[0] != "." and part not in named
            for part in path.relative_to(root).parts
        )
        if has_image_suffix(path.name) and path.is_file() and not inside and not system:
            yield path


def _paths(pattern: str, hidden: bool) -> Iterator[Path]:
    """What a glob matches; `pass_over` of the folders that may not be read. The folders are walked
    through here, and not by `glob` alone, since it tells nothing of those."""
    folders, last = os.path.split(pattern)
    search = partial(glob.iglob, recursive=True, include_hidden=hidden)
    for above in Path(folders).parents:
        for folder in search(f"{above}/") if glob.has_magic(str(above)) else ():
            is_readable(folder.rstrip("/"))
    for folder in search(os.path.join(folders or ".", "")):  # noqa: PTH118 (ends with a slash)
        is_readable(folder.rstrip("/") or "/")
        yield from (Path(folder, match) for match in search(last, root_dir=folder))


def _listed(path: Path) -> tuple[InputFile, ...]:
    try:
        content = read_limited(path, _LARGEST_LIST)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    text = content.decode("utf-8-sig", "surrogateescape")
    lines = [line.strip() for line in re.split(r"\r?\n", text)]
    files = [_listed_file(line, path.parent) for line in lines if line and line[0] != "#"]
    if not all(_exists(file.path) for file in files):  # names may be no UTF-8, as on the disk
        try:
            utf8_text(content)
        except NotUtf8 as error:
            raise ConfigError(f"{path}: {error}") from error
    if not files:
        raise ConfigError(f"{path}: the list is empty")
    return tuple(files)


def _exists(path: Path) -> bool:
    """False for a name that no file can have, too, such as one that is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _listed_file(line: str, folder: Path) -> InputFile:
    # A missing file stays in the list: its failure is recorded and the run goes on.
    beside = folder / line
    path = Path(line) if not _exists(beside) and _exists(Path(line)) else beside
    place = Path(os.path.abspath(path))  # noqa: PTH100 (resolve() would follow links)
    for root in (folder.absolute(), Path.cwd()):
        if place.is_relative_to(root):
            return InputFile(path, _printable(place.relative_to(root).as_posix()))
    return InputFile(path, _printable(place.relative_to(place.anchor).as_posix()))


def _named(paths: Iterator[Path], root: Path, item: str) -> tuple[InputFile, ...]:
    files = [InputFile(path, _printable(path.relative_to(root).as_posix())) for path in paths]
    if not files:
        raise ConfigError(
            f"{item}: no images in it (known by extension, such as .jpg){_instead(item)}"
        )
    return tuple(sorted(files, key=lambda file: file.name))


def _instead(item: str) -> str:
    """What a folder without images has."""
    root = Path(item)
    if not root.is_dir():
        return ""
    if videos := [path for path in files_in(root) if is_video(str(path))]:
        return f"; for its {len(videos)} videos give {root}/*{videos[0].suffix}"
    if left := sum(1 for _ in _walk(root, _Wanted(None, hidden=True))):
        return f"; {left} hidden ones are left out, --include-hidden takes them"
    return ""


def _before_wildcard(pattern: str) -> Path:
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed])


def _is_new(file: InputFile, seen: set[str]) -> bool:
    place = os.path.abspath(file.path)  # noqa: PTH100 (resolve() would follow links)
    if place in seen:
        return False
    seen.add(place)
    return True


def _printable(name: str) -> str:
    """The name with bytes that are not UTF-8 escaped, so that every result file can hold it."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def _with_unique_names(groups: Sequence[_InputGroup]) -> list[InputFile]:
    files = [file for group in groups for file in group.files]
    if len({file.name for file in files}) == len(files):
        return files
    roots = list(dict.fromkeys(group.root.resolve() for group in groups))
    taken: set[str] = set()
    labels = {root: _free(_printable(root.name or "root"), taken) for root in roots}
    names: set[str] = set()
    return [
        replace(file, name=_free(f"{labels[group.root.resolve()]}/{file.name}", names))
        for group in groups
        for file in group.files
    ]


def _free(name: str, taken: set[str]) -> str:
    """``name``, or the first of name-2, name-3 … that is not ``taken``; adds it to ``taken``."""
    path = PurePath(name)
    number, free = 1, name
    while free in taken:
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
    taken.add(free)
    return free

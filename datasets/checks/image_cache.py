"""A cache of examined images, as a file with one JSON object per line.

The key is the hash of the file content, plus all that the result depends on: the image rules, the
decoder versions and the format of the line. Lines are only appended, so a killed run keeps its
results. Incomplete and invalid lines are ignored.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, get_args

import cv2
import PIL

from ..finding_kinds import KINDS, Severity
from ..image import ImageRules

#: To be increased when the meaning of a line or its computation changes.
VERSION = 5
THUMBNAIL_SIDE = 18
#: (kind, severity, reason) as in `Finding`.
Remark = tuple[str, Severity, str]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageContent:
    """Content of an image file: ``format`` as in Pillow, ``size`` (h, w) as displayed.

    ``orientation`` is the EXIF value 1..8. ``dhash`` is a 64-bit hash of the pixels; scaling,
    brightening or compressing changes only a few of its bits. ``thumbnail`` has 18 x 18 grey
    values. Size, dhash and thumbnail are None or empty for an unusable image.
    """

    format: str
    size: tuple[int, int] | None
    orientation: int
    dhash: int | None
    thumbnail: bytes
    remarks: tuple[Remark, ...]


class ImageCache:
    """{sha256 of the file: content}; a context manager that keeps its file open for appending.

    If the file cannot be read or written, a warning is logged and the run continues without it.
    """

    def __init__(self, path: Path | None, rules: ImageRules) -> None:
        self._path = path
        self._suffix = "-" + _conditions(rules)
        self._known: dict[str, ImageContent] = {}
        self._stream: IO[str] | None = None

    def __enter__(self) -> ImageCache:
        if self._path:
            try:
                self._read(self._path)
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._path.open("a", buffering=1, encoding="utf-8")
                self._stream.write("\n")  # ends an incomplete last line
            except OSError as error:
                self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream:
            with suppress(OSError):  # each line was flushed, and errors logged
                self._stream.close()

    def __getitem__(self, digest: str) -> ImageContent:
        return self._known[digest]

    def hashes(self) -> frozenset[str]:
        return frozenset(self._known)

    def add(self, digest: str, content: ImageContent) -> None:
        if digest in self._known:
            return
        self._known[digest] = content
        if self._stream:
            try:
                self._stream.write(_line(digest + self._suffix, content) + "\n")
            except OSError as error:
                self._give_up(error)

    def _read(self, path: Path) -> None:
        if not path.is_file():
            return
        with path.open("rb") as stream:
            for line in stream:
                if self._suffix.encode("ascii") not in line:
                    continue
                with suppress(ValueError, TypeError, KeyError, RecursionError):
                    key, content = _parse(json.loads(line))
                    if key.endswith(self._suffix):
                        self._known[key.removesuffix(self._suffix)] = content

    def _give_up(self, error: OSError) -> None:
        _LOG.warning("%s: results are not cached for the next run (%s)", self._path, error)
        if self._stream:
            with suppress(OSError):
                self._stream.close()
        self._stream = None


def _conditions(rules: ImageRules) -> str:
    """A hash of everything but the file content that a result depends on."""
    parts = [VERSION, cv2.__version__, PIL.__version__, asdict(rules)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _line(key: str, content: ImageContent) -> str:
    fields = asdict(content) | {
        "dhash": None if content.dhash is None else f"{content.dhash:016x}",
        "thumbnail": base64.b64encode(content.thumbnail).decode("ascii"),
    }
    return json.dumps({"key": key} | fields)


def _parse(line: dict[str, Any]) -> tuple[str, ImageContent]:
    """The inverse of `_line`; raises ValueError, TypeError or KeyError for an invalid line."""
    remarks = tuple(_remark(*entry) for entry in line["remarks"])
    thumbnail = base64.b64decode(line["thumbnail"], validate=True)
    usable = line["size"] is not None
    if len(thumbnail) != (THUMBNAIL_SIDE**2 if usable else 0) or usable == (line["dhash"] is None):
        raise ValueError("a thumbnail is required for usable images, and only for those")
    content = ImageContent(
        str(line["format"]),
        _size(*line["size"]) if usable else None,
        int(line["orientation"]),
        int(line["dhash"], 16) if usable else None,
        thumbnail,
        remarks,
    )
    return str(line["key"]), content


def _size(height: int, width: int) -> tuple[int, int]:
    return int(height), int(width)


def _remark(kind: str, severity: Severity, reason: str) -> Remark:
    if kind not in KINDS or severity not in get_args(Severity):
        raise ValueError(f"unknown kind or severity: {kind!r}, {severity!r}")
    return str(kind), severity, str(reason)

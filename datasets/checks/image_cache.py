"""What is known of images that were looked at before?

One JSON object a line, keyed by the hash of a file's bytes and by what the answer depends on: the
rules, the decoders' versions and the format of the line. Lines are only added, so that a run that
is killed keeps what it found; a line that is cut short or not understood counts as absent.
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

from ..findings import KINDS, Severity
from ..image import ImageRules

#: Raised whenever the meaning of a line or of what it was computed from changes.
VERSION = 3
THUMBNAIL_SIDE = 18
#: (kind, severity, reason) as in `Finding`.
Remark = tuple[str, Severity, str]
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """What some bytes hold: ``format`` is Pillow's name, ``size`` (h, w) as displayed.

    ``size``, ``dhash`` and ``thumbnail`` are None or empty where the image cannot be used.
    """

    format: str
    size: tuple[int, int] | None
    orientation: int
    dhash: int | None
    thumbnail: bytes
    remarks: tuple[Remark, ...]


class ContentCache:
    """{sha256 of the bytes: content}; a context manager that keeps its file open for adding.

    A file that cannot be read or written costs a warning, not the run.
    """

    def __init__(self, path: Path | None, rules: ImageRules) -> None:
        self._path = path
        self._suffix = "-" + _conditions(rules)
        self._known: dict[str, Content] = {}
        self._stream: IO[str] | None = None

    def __enter__(self) -> ContentCache:
        if self._path:
            try:
                self._read(self._path)
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._stream = self._path.open("a", buffering=1, encoding="utf-8")
                self._stream.write("\n")  # a line that was cut short must not swallow the next
            except OSError as error:
                self._give_up(error)
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream:
            with suppress(OSError):  # each line was flushed, and a failure told
                self._stream.close()

    def __getitem__(self, digest: str) -> Content:
        return self._known[digest]

    def hashes(self) -> frozenset[str]:
        return frozenset(self._known)

    def add(self, digest: str, content: Content) -> None:
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
                if self._suffix.encode("ascii") in line:
                    self._learn(line)

    def _learn(self, line: bytes) -> None:
        try:
            key, content = _parse(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if key.endswith(self._suffix):
            self._known[key.removesuffix(self._suffix)] = content

    def _give_up(self, error: OSError) -> None:
        _LOG.warning("%s: nothing is kept for the next run (%s)", self._path, error)
        if self._stream:
            with suppress(OSError):
                self._stream.close()
        self._stream = None


def _conditions(rules: ImageRules) -> str:
    """A short name for everything but the bytes that an answer depends on."""
    parts = [VERSION, cv2.__version__, PIL.__version__, asdict(rules)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _line(key: str, content: Content) -> str:
    fields = asdict(content) | {
        "dhash": None if content.dhash is None else f"{content.dhash:016x}",
        "thumbnail": base64.b64encode(content.thumbnail).decode("ascii"),
    }
    return json.dumps({"key": key} | fields)


def _parse(line: dict[str, Any]) -> tuple[str, Content]:
    """The inverse of `_line`; ValueError, TypeError or KeyError where it is not one."""
    remarks = tuple(_remark(*entry) for entry in line["remarks"])
    thumbnail = base64.b64decode(line["thumbnail"], validate=True)
    usable = line["size"] is not None
    if len(thumbnail) != (THUMBNAIL_SIDE**2 if usable else 0) or usable == (line["dhash"] is None):
        raise ValueError("an unusable image has a thumbnail, or a usable one has none")
    content = Content(
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

"""Capture of what libjpeg and libtiff write to stderr about damaged files that they decode anyway.

They have no other way to tell. The descriptor of stderr is one for all threads of a process, so
it is redirected while at least one of them decodes; a message that several may have caused is
ascribed by decoding again, alone. Everything else that is written meanwhile is passed on.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

_STDERR = 2
_JPEG = rb"Corrupt JPEG data: |Premature end of JPEG file|Inconsistent progression sequence "
_JPEG_HEADER = rb"Invalid SOS parameters |Unknown Adobe color |Warning: unknown JFIF revision "
_TIFF = rb"^(?:\w*(?:TIFF|tiff|Fax|LZW|ZIP|JPEG|PackBits|Predictor|LogLuv|ZSTD)\w*|tempfile\.tif): "
_MESSAGE = re.compile(rb"(?:%b|%b|%b)[ -~]*\n?" % (_JPEG, _JPEG_HEADER, _TIFF), re.MULTILINE)
#: Bytes of messages that are read of one image.
_MAX_BYTES = 65536

Result = TypeVar("Result")


def with_messages(decode: Callable[[], Result]) -> tuple[Result, list[str]]:
    """The result of ``decode()`` and the messages of libjpeg and libtiff during it.

    ``decode`` may be called twice. If stderr cannot be redirected (there are no free file
    descriptors), there are no messages.
    """
    result, messages, shared = _captured(decode, alone=False)
    if messages and shared:
        result, messages, _ = _captured(decode, alone=True)
    return result, messages


def _captured(decode: Callable[[], Result], *, alone: bool) -> tuple[Result, list[str], bool]:
    interval, messages = _CAPTURE.enter(alone=alone), []
    try:
        result = decode()
    finally:
        messages = _CAPTURE.leave(interval)
    return result, messages, interval.shared


@dataclass(eq=False)
class _Interval:
    """The time of one decoding: where its messages begin, and whether another one overlaps it."""

    start: int
    shared: bool
    alone: bool


class _Capture:
    """The redirected stderr of the process, and the decodings under way."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._intervals: set[_Interval] = set()
        self._closed = False  # to others, for one that decodes alone
        self._file: int | None = None
        self._original: int | None = None
        self._passed_on = 0

    def enter(self, *, alone: bool) -> _Interval:
        with self.changed:
            self.changed.wait_for(lambda: not self._closed)
            self._closed = alone
            try:
                if alone:
                    self.changed.wait_for(lambda: not self._intervals)
                if not self._intervals:
                    self._redirect()
            except BaseException:
                self._closed = False
                self.changed.notify_all()
                raise
            for other in self._intervals:
                other.shared = True
            interval = _Interval(self._size(), bool(self._intervals), alone)
            self._intervals.add(interval)
            return interval

    def leave(self, interval: _Interval) -> list[str]:
        with self.changed:
            text = self._text(interval.start, _MAX_BYTES)
            self._pass_on()
            self._intervals.discard(interval)
            if not self._intervals:
                self._restore()
            self._closed = self._closed and not interval.alone
            self.changed.notify_all()
        return [line.decode("ascii").strip() for line in _MESSAGE.findall(text)]

    def restore_in_child(self) -> None:
        """A forked process has none of the threads that decode."""
        if self._intervals:
            self._restore()
        self.__init__()  # type: ignore[misc]

    def _redirect(self) -> None:
        try:
            self._original = os.dup(_STDERR)
        except OSError:  # it is closed
            self._original = None
        try:
            self._file = _memory_file()
            os.dup2(self._file, _STDERR)
        except OSError:
            self._restore()
        self._passed_on = 0

    def _restore(self) -> None:
        with suppress(OSError):
            if self._original is not None:
                os.dup2(self._original, _STDERR)
                os.close(self._original)
            elif self._file != _STDERR:
                os.close(_STDERR)
        if self._file is not None:
            os.close(self._file)
        self._original = self._file = None

    def _size(self) -> int:
        return 0 if self._file is None else os.fstat(self._file).st_size

    def _text(self, start: int, limit: int) -> bytes:
        return b"" if self._file is None else os.pread(self._file, limit, start)

    def _pass_on(self) -> None:
        size = self._size()
        rest = _MESSAGE.sub(b"", self._text(self._passed_on, size - self._passed_on))
        self._passed_on = size
        if rest and self._original is not None:
            with suppress(OSError):  # nobody reads it
                os.write(self._original, rest)


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("decoder messages")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


_CAPTURE = _Capture()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _CAPTURE.changed.acquire(),
        after_in_parent=lambda: _CAPTURE.changed.release(),
        after_in_child=_CAPTURE.restore_in_child,
    )

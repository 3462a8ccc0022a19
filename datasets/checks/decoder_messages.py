"""Capture of libjpeg's messages about damaged JPEG files that it decodes anyway.

libjpeg, inside OpenCV, fills missing data and reports it only on the stderr of the process.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_MESSAGE = re.compile(rb"Corrupt JPEG data: [ -~]*\n?")
#: The default capacity of a pipe on Linux.
_MAX_BYTES = 65536


@contextmanager
def decoder_messages(*, pass_on: bool = True) -> Iterator[list[str]]:
    """Yield a list that contains libjpeg's messages after the block.

    All writes of the process to stderr are captured meanwhile. With ``pass_on``, other text is
    written to stderr afterwards; otherwise it is dropped. If stderr cannot be captured (it is
    closed, or there are no free file descriptors), the list stays empty.
    """
    messages: list[str] = []
    try:
        original = os.dup(_STDERR)
    except OSError:
        yield messages
        return
    try:
        reader, writer = os.pipe()
    except OSError:
        os.close(original)
        yield messages
        return
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)  # a full pipe must not block the process
    os.dup2(writer, _STDERR)
    os.close(writer)
    try:
        yield messages
    finally:
        os.dup2(original, _STDERR)
        text = _drain(reader)
        os.close(reader)
        os.close(original)
        messages += [line.decode("ascii").strip() for line in _MESSAGE.findall(text)]
        rest = _MESSAGE.sub(b"", text)
        if rest and pass_on:
            os.write(_STDERR, rest)


def _drain(reader: int) -> bytes:
    try:
        return os.read(reader, _MAX_BYTES)
    except BlockingIOError:
        return b""

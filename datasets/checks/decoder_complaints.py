"""What does the JPEG decoder say of a damaged file that it decodes all the same?

libjpeg, inside OpenCV, fills in what it cannot read and tells of it on the process's stderr alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2
_COMPLAINT = re.compile(rb"Corrupt JPEG data: [ -~]*\n?")
#: A pipe holds at least this much, so that nobody waits for a reader.
_MOST_BYTES = 65536


@contextmanager
def heard_complaints(*, pass_on: bool = True) -> Iterator[list[str]]:
    """A list that holds, after the block, what libjpeg said in it.

    All that the process writes to stderr meanwhile is caught. With ``pass_on`` what is no complaint
    of libjpeg is written there afterwards; without, it is silenced with them. Where stderr cannot
    be caught (it is closed, or no descriptors are left) nothing is heard.
    """
    complaints: list[str] = []
    try:
        kept = os.dup(_STDERR)
    except OSError:
        yield complaints
        return
    try:
        reading, writing = os.pipe()
    except OSError:
        os.close(kept)
        yield complaints
        return
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)
    os.dup2(writing, _STDERR)
    os.close(writing)
    try:
        yield complaints
    finally:
        os.dup2(kept, _STDERR)
        text = _drain(reading)
        os.close(reading)
        os.close(kept)
        complaints += [line.decode("ascii").strip() for line in _COMPLAINT.findall(text)]
        rest = _COMPLAINT.sub(b"", text)
        if rest and pass_on:
            os.write(_STDERR, rest)


def _drain(reading: int) -> bytes:
    try:
        return os.read(reading, _MOST_BYTES)
    except BlockingIOError:
        return b""

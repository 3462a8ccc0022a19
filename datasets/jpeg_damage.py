"""What a message of libjpeg says about the pixels of a JPEG.

Of each file libjpeg shows the first message only. So one about the header, which harms nothing, may
hide one about the pixels: the file is then decoded again with a plain header.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_HEADER = ("unknown JFIF revision", "Unknown Adobe color", "bad ICC marker", "Invalid SOS")
_STRAY = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
#: Stray bytes before the end marker that are taken for padding, whatever they are.
_FEW = 16
#: Bytes that the decoder may have read ahead, and does not count as stray.
_READ_AHEAD = 8
_EOI = b"\xff\xd9"


def damage(
    data: bytes, messages: Sequence[str], messages_of: Callable[[bytes], Sequence[str]]
) -> str:
    """The message that says that pixels of a JPEG are damaged, or ``""``.

    ``messages`` are those of decoding ``data``, and ``messages_of`` decodes again. Stray bytes
    between the segments of the header, and padding before the end marker, harm nothing.
    """
    if messages and (_STRAY.match(messages[0]) or _in_header(messages[0])):
        messages = messages_of(_plain_header(data))
    if not messages or _in_header(messages[0]):
        return ""
    stray = _STRAY.match(messages[0])
    padding = stray and stray[2] == "d9" and _is_padding(data, int(stray[1]))
    return "" if padding else messages[0]


def _in_header(message: str) -> bool:
    return any(part in message for part in _HEADER)


def _is_padding(data: bytes, count: int) -> bool:
    """Whether ``count`` stray bytes before the end marker are few or all the same."""
    if count <= _FEW:
        return True
    ends = (match.start() for match in re.finditer(re.escape(_EOI), data))
    return any(len(set(data[max(end - count + _READ_AHEAD, 0) : end])) == 1 for end in ends)


def _plain_header(data: bytes) -> bytes:
    """``data`` with only those segments before the first scan that its decoding needs."""
    kept, at, sequential = [data[:2]], 2, False
    while True:
        at = data.find(b"\xff", at)
        while data[at : at + 1] == b"\xff" and at >= 0:
            at += 1
        if at < 0 or at + 3 > len(data):
            return data
        marker, end = data[at], at + 1 + int.from_bytes(data[at + 1 : at + 3], "big")
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:  # without a length
            at += 1
            continue
        if marker == 0xDA:  # start of scan; its last three bytes are fixed unless progressive
            scan = data[at : end - 3] + bytes((0, 63, 0)) if sequential else data[at:end]
            return b"".join(kept) + b"\xff" + scan + data[end:]
        sequential = sequential or marker in (0xC0, 0xC1)
        if not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(b"\xff" + data[at:end])
        at = max(end, at + 3)

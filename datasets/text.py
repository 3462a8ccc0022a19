"""Text from files of other people, in UTF-8, and what is wrong with those in another encoding."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import IO

from ..detection.errors import DataError

_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
#: Bytes that `lines_of` reads at once.
_BLOCK = 1 << 16
_ADVICE = "save it as UTF-8, or convert it: iconv -f {} -t UTF-8"


class NotUtf8(ValueError):
    """Bytes that are no UTF-8; the message has the line and the way on."""


def utf8_text(data: bytes, number: int = 1) -> str:
    """The text of a file, with or without a byte order mark, or of its lines from ``number`` on.
    Raises `NotUtf8`."""
    if data.startswith(_MARKS) or b"\0" in data[:2]:
        reason = f"line {number} is not UTF-8 but looks like UTF-16 (or is no text)"
        raise NotUtf8(f"{reason}; {_ADVICE.format('UTF-16')}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + number
        reason = f"line {line} is not UTF-8 (byte 0x{data[error.start]:02x})"
        advice = _ADVICE.format("ENCODING")
        raise NotUtf8(f"{reason}; {advice}, where ENCODING may be LATIN1 or CP936") from None


def lines_of(file: IO[bytes], longest: int, name: str) -> Iterator[bytes]:
    """The lines of the file ``name``, of which only the last may lack its end, one at a time.
    Raises DataError for a line of more than ``longest`` bytes."""
    line, number = bytearray(), 1
    while block := file.read(_BLOCK):
        *ends, rest = block.split(b"\n")
        for place, part in enumerate((*ends, rest)):
            line += part
            if len(line) > longest:
                raise DataError(f"{name}: line {number} is longer than {longest} bytes")
            if place < len(ends):
                yield bytes(line + b"\n")
                line.clear()
                number += 1
    if line:
        yield bytes(line)


def text_start(data: bytes) -> str:
    """The beginning of a file, to recognise it by, also in UTF-16 with a byte order mark; bytes of
    another encoding, or of a character that is cut, are replaced."""
    return data.decode("utf-16" if data.startswith(_MARKS) else "utf-8-sig", "replace")

"""Damaged files: valid bytes with a few random edits."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

#: What parsers trip over: limits of integers, floats beyond the range, no numbers at all.
NUMBERS = (
    *(b"0", b"-1", b"1e999", b"-1e999", b"NaN", b"Infinity", b"1e-320", b"0.5", b"00", b"0x10"),
    *(b"2147483648", b"-9223372036854775809", b"18446744073709551616", b"9" * 400, b"1_0", b""),
    *(b"null", b"true", b'"7"', b"[]", b"{}", b"1,5", b"\xef\xbc\x91", b"."),
)
#: What means something in XML, JSON, YAML, pickles, zips or images.
TOKENS = (
    *(
        b"<",
        b">",
        b"&",
        b"&amp;",
        b"&#0;",
        b"<![CDATA[",
        b"]]>",
        b"<!--",
        b"<!DOCTYPE a [",
        b"</a>",
    ),
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b"\\u0000",
        b"\\ud800",
        b"\\",
        b"null",
        b"\n",
        b"\r",
    ),
    *(
        b"- ",
        b"? ",
        b"&a ",
        b"*a",
        b"!!python/object:os.system ",
        b"%TAG",
        b"---\n",
        b"...",
        b"|\n",
    ),
    *(
        b"\0",
        b"\xff",
        b"\xfe\xff",
        b"\xef\xbb\xbf",
        b"\xc0\x80",
        b"\xed\xa0\x80",
        b"\xff\xd8",
        b"\xff\xd9",
    ),
    *(
        b"IHDR",
        b"IDAT",
        b"PK\x03\x04",
        b"PK\x01\x02",
        b"PK\x05\x06",
        b"\x80\x02",
        b"cos\nsystem\n",
        b"R.",
    ),
    *(b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x00\x00\x00\x80", b" " * 70, b"[" * 2000),
)
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_LINE = re.compile(rb"[^\n]*\n?")
Edit = Callable[[bytes, Random], bytes]


def mutate(data: bytes, other: bytes, random: Random) -> bytes:
    """``data`` after one to six random edits; splices are taken from ``other``."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        edit = random.choice(EDITS)
        data = _splice(data, other, random) if edit is None else edit(data, random)
    return data


def _span(data: bytes, random: Random, longest: int = 64) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.randint(0, longest))


def _flip_bit(data: bytes, random: Random) -> bytes:
    if not data:
        return data
    changed = bytearray(data)
    changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(changed)


def _set_byte(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + bytes([random.choice((0, 1, 127, 128, 255, 32))]) + data[at + 1 :]


def _cut_end(data: bytes, random: Random) -> bytes:
    return data[: random.randint(0, len(data))]


def _delete(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random, random.choice((1, 8, 64, 4096)))
    return data[:start] + data[end:]


def _repeat(data: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]


def _insert_token(data: bytes, random: Random) -> bytes:
    at = random.randint(0, len(data))
    return data[:at] + random.choice(TOKENS) + data[at:]


def _change_number(data: bytes, random: Random) -> bytes:
    found = list(_NUMBER.finditer(data[:65536]))
    if not found:
        return data
    start, end = random.choice(found).span()
    return data[:start] + random.choice(NUMBERS) + data[end:]


def _swap_lines(data: bytes, random: Random) -> bytes:
    lines = [line for line in _LINE.findall(data) if line]
    if len(lines) > 1:
        one, other = random.randrange(len(lines)), random.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _splice(data: bytes, other: bytes, random: Random) -> bytes:
    start, end = _span(data, random)
    first, last = _span(other, random, 512)
    return data[:start] + other[first:last] + data[end:]


#: None stands for the splice, which needs a second file.
EDITS: tuple[Edit | None, ...] = (
    *(_flip_bit, _set_byte, _cut_end, _delete, _repeat, _insert_token),
    *(_change_number, _change_number, _swap_lines, None),
)

"""The scans of a JPEG's main image, and whether it ends: without what stands behind it.

Phones append a film or a second image, in whose bytes any marker may appear by chance.
"""

from __future__ import annotations

#: Scans of a JPEG: encoders write about ten, and each is a pass over the whole image.
MAX_SCANS = 100
_SOS, _EOI = b"\xff\xda", b"\xff\xd9"


def has_too_many_scans(data: bytes) -> bool:
    """Whether the main image has more than `MAX_SCANS`."""
    return data.count(_SOS) > MAX_SCANS and _walk(data)[0] > MAX_SCANS


def has_end(data: bytes) -> bool:
    """Whether there is an end marker, as far as that is known without decoding."""
    return data.endswith(_EOI) or data.rfind(_EOI) >= data.rfind(_SOS) or _walk(data)[1]


def _walk(data: bytes) -> tuple[int, bool]:
    """The number of scans before the first end marker, and whether there is one; ends after too
    many scans."""
    at, scans = 2, 0  # after the start marker
    while (at := data.find(b"\xff", at) + 1) and at < len(data) and scans <= MAX_SCANS:
        marker = data[at]
        if marker == _EOI[1]:
            return scans, True
        if marker == 0xFF or marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # without a length
            at += marker != 0xFF
            continue
        scans += marker == _SOS[1]
        at += 1 + int.from_bytes(data[at + 1 : at + 3], "big")
    return scans, False

"""Images as they come from cameras, scanners, browsers and broken disks, each with the outcome
that is promised for it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: (h, w) of every image as displayed, and the colours of its quarters, row by row.
SIZE = (48, 64)
COLOURS = ((220, 30, 30), (30, 180, 30), (30, 30, 220), (255, 255, 255))
GREYS = tuple((level, level, level) for level in (200, 120, 60, 255))
DARK = ((12, 12, 12), (8, 8, 8), (4, 4, 4), (15, 15, 15))
Colours = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Shown:
    """Read as an image whose quarters have ``colours``, with a warning that holds ``warning``."""

    colours: Colours | None = COLOURS
    warning: str = ""


@dataclass(frozen=True)
class Refused:
    """An error that holds ``reason``. ``kept``: with ``on_truncated: warn``, as infer reads, it is
    shown with a warning; ``late``: the header is good, so that only decoding finds the fault."""

    reason: str
    kept: bool = False
    late: bool = False


@dataclass(frozen=True)
class Case:
    """A file called ``name``."""

    name: str
    data: Callable[[], bytes]
    outcome: Shown | Refused


# ----------------------------------------------------------------------------------- drawing


def quarters(colours: Colours = COLOURS, size: tuple[int, int] = SIZE) -> Image.Image:
    height, width = size
    pixels = np.zeros((height, width, 3), np.uint8)
    halves = (slice(None, height // 2), slice(height // 2, None))
    sides = (slice(None, width // 2), slice(width // 2, None))
    places = [(rows, columns) for rows in halves for columns in sides]
    for (rows, columns), colour in zip(places, colours, strict=True):
        pixels[rows, columns] = colour
    return Image.fromarray(pixels)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    if kind == "JPEG":
        options = {"quality": 95, "subsampling": 0, **options}
    image.save(stream, kind, **options)
    return stream.getvalue()


#: How an image is stored that an EXIF orientation turns upright.
_STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def turned(orientation: int, kind: str) -> bytes:
    stored = quarters()
    if orientation in _STORED:
        stored = stored.transpose(_STORED[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(stored, kind, exif=exif, **options)


def transparent(mode: str, kind: str) -> bytes:
    """The last quarter is red or black, and hidden: what shows is the white below."""
    image = quarters((*COLOURS[:3], (255, 0, 0)) if mode == "RGBA" else (*GREYS[:3], (0, 0, 0)))
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[SIZE[0] // 2 :, SIZE[1] // 2 :] = 0
    image = image.convert(mode)
    image.putalpha(Image.fromarray(alpha))
    return encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))


def deep(top: int, kind: str = "PNG") -> bytes:
    """16-bit grey whose white is ``top``."""
    grey = np.asarray(quarters(GREYS).convert("L"), np.uint32)
    return encoded(Image.fromarray((grey * top // 255).astype(np.uint16)), kind)


def deep_colour() -> bytes:
    pixels = np.asarray(quarters())[..., ::-1].astype(np.uint16) * 257
    return bytes(cv2.imencode(".png", pixels)[1])


def frames(kind: str) -> bytes:
    later = [Image.new("RGB", SIZE[::-1], colour) for colour in ("black", "red")]
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(quarters(), kind, save_all=True, append_images=later, **options)


def noisy(kind: str = "JPEG", mode: str = "RGB") -> bytes:
    """Bits in every part of the file, so that each cut takes something away."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    return encoded(Image.fromarray(noise).convert(mode), kind)


def cut(data: bytes, share: float = 0.5) -> bytes:
    return data[: int(len(data) * share)]


def zeroed(data: bytes) -> bytes:
    third = len(data) // 3
    return data[: 2 * third] + bytes(third // 2) + data[2 * third + third // 2 :]


def without(data: bytes) -> bytes:
    return data[: len(data) // 2] + data[len(data) // 2 + 300 :]


def with_inside(data: bytes, marker: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + marker + data[middle + len(marker) :]


def stray_in_header(data: bytes) -> bytes:
    """A byte that belongs to nothing before the first quantization table."""
    place = data.find(b"\xff\xdb")
    return data[:place] + b"\0" + data[place:]


def with_padding(data: bytes) -> bytes:
    return data[:-2] + bytes(100) + data[-2:]


def wrong_checksum() -> bytes:
    data = bytearray(noisy("PNG"))
    data[data.find(b"IDAT") + 40] ^= 0xFF
    return bytes(data)


def png_header(width: int, height: int) -> bytes:
    """A PNG of nearly no bytes that says it is ``width`` x ``height``."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels


# ------------------------------------------------------------------------------------- table

_GREY, _ANY = Shown(GREYS), Shown(None)
_FRAMES = Shown(warning="several frames")
DAMAGED = Refused("damaged inside", kept=True, late=True)
_KINDS = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "TIFF": ".tif"}

CASES = (
    # What is fine.
    Case("plain.jpg", lambda: encoded(quarters()), Shown()),
    Case("progressive.jpg", lambda: encoded(quarters(), progressive=True), Shown()),
    Case("grey.jpg", lambda: encoded(quarters(GREYS).convert("L")), _GREY),
    Case("cmyk.jpg", lambda: encoded(quarters().convert("CMYK")), Shown()),
    Case("plain.png", lambda: encoded(quarters(), "PNG"), Shown()),
    Case("grey.png", lambda: encoded(quarters(GREYS).convert("L"), "PNG"), _GREY),
    Case("palette.png", lambda: encoded(quarters().quantize(8), "PNG"), Shown()),
    Case("one_bit.png", lambda: encoded(quarters().convert("1"), "PNG"), _ANY),
    Case("plain.webp", lambda: encoded(quarters(), "WEBP", lossless=True), Shown()),
    Case("plain.bmp", lambda: encoded(quarters(), "BMP"), Shown()),
    Case("plain.gif", lambda: encoded(quarters(), "GIF"), Shown()),
    Case("plain.ppm", lambda: encoded(quarters(), "PPM"), Shown()),
    Case("lzw.tif", lambda: encoded(quarters(), "TIFF", compression="tiff_lzw"), Shown()),
    # Names say nothing.
    Case("UPPER.JPG", lambda: encoded(quarters()), Shown()),
    Case("no_extension", lambda: encoded(quarters()), Shown()),
    Case("späce näme 图 .jpg", lambda: encoded(quarters()), Shown()),
    Case("really_png.jpg", lambda: encoded(quarters(), "PNG"), Shown()),
    Case("really_webp.jpg", lambda: encoded(quarters(), "WEBP", lossless=True), Shown()),
    Case("really_jpeg.png", lambda: encoded(quarters()), Shown()),
    # Orientation.
    *(
        Case(f"exif_{number}_{kind}{suffix}", lambda n=number, k=kind: turned(n, k), Shown())  # type: ignore[misc]  bound now
        for kind, suffix in _KINDS.items()
        for number in range(1, 10)
    ),
    # Transparency, depth, several frames.
    Case("hidden_red.png", lambda: transparent("RGBA", "PNG"), Shown()),
    Case("hidden_red.webp", lambda: transparent("RGBA", "WEBP"), Shown()),
    Case("hidden_black.png", lambda: transparent("LA", "PNG"), _GREY),
    Case("deep_full.png", lambda: deep(65535), _GREY),
    Case("deep_full.tif", lambda: deep(65535, "TIFF"), _GREY),
    Case("deep_colour.png", deep_colour, Shown()),
    Case("twelve_bits.png", lambda: deep(4095), Shown(DARK, "12-bit")),
    Case("animated.gif", lambda: frames("GIF"), _FRAMES),
    Case("animated.webp", lambda: frames("WEBP"), _FRAMES),
    Case("animated.png", lambda: frames("PNG"), _FRAMES),
    Case("pages.tif", lambda: frames("TIFF"), _FRAMES),
    # Damage.
    Case("cut.jpg", lambda: cut(noisy()), Refused("truncated", kept=True, late=True)),
    Case("no_end_marker.jpg", lambda: encoded(quarters())[:-2], Shown(warning="complete")),
    Case("zeroed_middle.jpg", lambda: zeroed(noisy()), DAMAGED),
    Case("cut_and_closed.jpg", lambda: cut(noisy()) + b"\xff\xd9", DAMAGED),
    Case("bytes_missing.jpg", lambda: without(noisy()), DAMAGED),
    Case("marker_inside.jpg", lambda: with_inside(noisy(), b"\xff\xe5"), DAMAGED),
    Case("end_inside.jpg", lambda: with_inside(noisy(), b"\xff\xd9"), DAMAGED),
    Case("restart_inside.jpg", lambda: with_inside(noisy(), b"\xff\xd3"), DAMAGED),
    Case("damaged_cmyk.jpg", lambda: zeroed(noisy(mode="CMYK")), DAMAGED),
    Case("damaged_behind_stray.jpg", lambda: stray_in_header(zeroed(noisy())), DAMAGED),
    Case("stray_in_header.jpg", lambda: stray_in_header(encoded(quarters())), Shown()),
    Case(
        "damaged_exif.jpg", lambda: encoded(quarters(), exif=b"Exif\0\0II*\0\10\0\0\0\5"), Shown()
    ),
    Case("padding.jpg", lambda: with_padding(encoded(quarters())), Shown()),
    Case("more_behind.jpg", lambda: encoded(quarters()) + bytes(99), Shown()),
    Case("cut_in_header.jpg", lambda: encoded(quarters())[:20], Refused("")),
    Case("cut.png", lambda: cut(noisy("PNG")), Refused("truncated", late=True)),
    Case("cut.webp", lambda: cut(noisy("WEBP")), Refused("")),
    Case("cut.gif", lambda: cut(noisy("GIF")), Refused("truncated", late=True)),
    Case("cut.bmp", lambda: cut(noisy("BMP")), Refused("truncated", late=True)),
    Case("wrong_checksum.png", wrong_checksum, Refused("", late=True)),
    Case(
        "float.tif", lambda: encoded(quarters().convert("F"), "TIFF"), Refused("float", late=True)
    ),
    # Sizes.
    Case("bomb.png", lambda: png_header(60_000, 60_000), Refused("pixels")),
    Case("no_width.png", lambda: png_header(0, 48), Refused("")),
    Case("dot.png", lambda: encoded(quarters(size=(1, 1)), "PNG"), Refused("side under 16")),
    Case("line.png", lambda: encoded(quarters(size=(1, 5000)), "PNG"), Refused("side under 16")),
    Case("strip.png", lambda: encoded(quarters(size=(16, 1700)), "PNG"), Refused("100:1")),
    # Something else.
    Case("empty.jpg", bytes, Refused("empty")),
    Case("zeros.jpg", lambda: bytes(5000), Refused("not an image")),
    Case("page.jpg", lambda: b"<html><body>404</body></html>", Refused('starts with "<html"')),
    Case("text.jpg", lambda: b"hello, this is text", Refused("not an image")),
    Case(
        "pointer.jpg", lambda: b"version https://git-lfs.github.com/spec/v1\n", Refused("git lfs")
    ),
    Case("phone.heic", lambda: b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Refused("HEIC")),
    Case("symbol.ico", lambda: encoded(quarters(size=(32, 32)), "ICO"), Refused("ICO")),
    Case("print.eps", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", Refused("EPS")),
    Case("paper.pdf", lambda: b"%PDF-1.7\n", Refused("PDF")),
)


def write_corpus(folder: Path) -> list[Path]:
    """All cases in a folder; their paths, in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / case.name for case in CASES]
    for case, path in zip(CASES, paths, strict=True):
        path.write_bytes(case.data())
    return paths


def quarters_of(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean colour of each quarter, (4, 3)."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    blocks = [pixels[y : y + height, x : x + width] for y in (0, height) for x in (0, width)]
    return np.array([block.mean(axis=(0, 1)) for block in blocks])

"""Image files: the accepted formats, the contents of other files, and writing as JPEG."""

from __future__ import annotations

import io
from pathlib import Path
from typing import IO, TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from ..detection.errors import ImageError
from .memory import bytes_of

if TYPE_CHECKING:
    from .image import ImageRules

#: Accepted formats. Others are never opened: EPS would run Ghostscript, TGA has no signature.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "AVIF", "JPEG2000", "PPM")
#: (first bytes, message) of other files that often have an image extension.
_OTHER_CONTENTS = (
    (b"version https://git-lfs", "a Git LFS pointer, run `git lfs pull`"),
    (b"%!PS", "EPS is not accepted"),
    (b"%PDF", "PDF is not accepted"),
    (b"\0\0\1\0", "ICO is not accepted"),
)
_HEIC_BRANDS = (b"ftypheic", b"ftypheix", b"ftypmif1")
_SIGNATURES = (b"\xff\xd8", b"\x89PNG", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"GIF8", b"\0\0\0\x0c")


def is_file(path: Path) -> bool:
    """Whether the path is a regular file; False for a name that no file can have (`Path.is_file`
    raises for one that is too long)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether the path is a folder, as `is_file`."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def expect_file(path: Path) -> None:
    """Raise ImageError for a path that is not a regular file."""
    if is_file(path):
        return
    if is_folder(path):
        raise ImageError(f"{path}: a folder, not an image")
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        raise ImageError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not exists:
        raise ImageError(f"{path}: no such file")
    raise ImageError(f"{path}: not a regular file")


def expect_size(
    size: tuple[int, int], name: str, rules: ImageRules, image_format: str | None = None
) -> None:
    """Raise ImageError for an image (h, w) that is too large, too small or too elongated. A pixel
    of JPEG 2000 counts twice: it takes twice the memory of others."""
    height, width = size
    twice = image_format == "JPEG2000"
    if width * height * (1 + twice) > rules.max_pixels:
        counted = ", which JPEG 2000 may have half of" if twice else ""
        raise ImageError(
            f"{name}: {width}x{height} is over max_pixels {rules.max_pixels}{counted}; a larger "
            "data.max_pixels or --max-pixels takes it, and more memory"
        )
    short, long = sorted((width, height))
    if short < rules.min_side:
        raise ImageError(f"{name}: {width}x{height} has a side under {rules.min_side} px")
    if long > rules.max_aspect * short:
        raise ImageError(f"{name}: {width}x{height} is longer than {rules.max_aspect:g}:1")


def open_image(stream: IO[bytes], name: str) -> ImageFile.ImageFile:
    """The image with its header read; ``name`` is for messages. Raises ImageError."""
    start = stream.read(64)
    if not start:
        raise ImageError(f"{name}: the file is empty (0 bytes)")
    stream.seek(0)
    try:
        return Image.open(stream, formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name}: {_what_else(start)}") from None


def bytes_to_decode(data: bytes, name: str) -> int:
    """The most bytes that decoding takes, from the header of an encoded image; 0 for no image."""
    try:
        with open_image(io.BytesIO(data), name) as image:
            return bytes_of(image, len(data))
    except Exception:  # which decoding the image reports
        return 0


def write_jpeg(path: Path, pixels: NDArray[np.uint8], *, quality: int) -> None:
    """Write ``pixels`` (h, w, 3) RGB to a new file. Raises ImageError, OSError."""
    bgr = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ImageError(f"{path}: the image could not be encoded as JPEG")
    with path.open("xb") as file:
        file.write(encoded.tobytes())


def _what_else(start: bytes) -> str:
    """Why Pillow found no image in a file that starts with these bytes."""
    for signature, meaning in _OTHER_CONTENTS:
        if start.startswith(signature):
            return f"not an image: {meaning}"
    if start[4:12] in _HEIC_BRANDS:
        return "HEIC is not accepted, convert it to JPEG"
    if start.startswith(_SIGNATURES):
        return f"damaged header or unsupported variant: starts with {start[:8]!r}"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<"):
        tag = text.split(b">")[0].split()[0].decode("ascii", "replace")
        return f'not an image: starts with "{tag}"'
    return f"not an image of an accepted format: starts with {start[:8]!r}"

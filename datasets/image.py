"""Decoding of images to RGB pixels; no other module decodes images.

JPEG is decoded by OpenCV, which is faster and yields the pixels of a file that ends early; all
other formats by Pillow, which composites alpha and keeps 16-bit values. Both give equal pixels for
JPEG. Pillow reads every header, so size limits and orientation have one source.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from PIL import Image, ImageFile

from ..detection.config.base import OnBadImage, OnTruncated
from ..detection.errors import ImageError, one_line
from ..detection.files import read_limited
from .decoder_messages import with_messages
from .image_file import expect_file, expect_size, open_image
from .jpeg_damage import damage
from .jpeg_scans import MAX_SCANS, has_end, has_too_many_scans
from .memory import DECODING, MAX_FILE, bytes_of
from .orientation import Orientation, read_orientation, turn
from .pixel_modes import Pixels, blended, flattened, from_grey

#: Extensions of the accepted formats, lower case: how folders are searched for images.
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"}
    | {".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"}
)

#: Above it, Pillow warns of "decompression bombs".
MAX_PIXELS = 89_478_485
_EOI = b"\xff\xd9"
#: PIL modes that hold 8 bits a channel, so that RGB is a plain conversion.
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})


class SkippedImage(ImageError):
    """An image that cannot be used and that the rules say to skip."""


@dataclass(frozen=True)
class ImageRules:
    """Which images are accepted, and how they are decoded.

    ``on_bad_image``: what happens to images that cannot be used, for whatever reason.
    ``on_truncated``: what happens when pixels are missing or a JPEG is damaged inside; ``warn``
    keeps a JPEG, whose missing part is grey (no other format yields usable pixels), ``error`` makes
    it a bad image.
    ``max_pixels`` bounds the memory that an image takes; Pillow opens none above 178,956,970.
    ``min_side`` and ``max_aspect`` refuse images that are too small or too elongated to resize.
    ``background`` lies under transparent pixels.
    """

    exif: Literal["apply", "ignore"] = "apply"
    on_truncated: OnTruncated = "error"
    max_pixels: int = MAX_PIXELS
    min_side: int = 16
    max_aspect: float = 100.0
    background: tuple[int, int, int] = (255, 255, 255)
    on_bad_image: OnBadImage = "error"

    def error(self, message: str, *, truncated: bool = False) -> ImageError:
        """The error of an image that cannot be used: a `SkippedImage` if it is to be skipped."""
        policies = (self.on_bad_image, self.on_truncated if truncated else "error")
        return SkippedImage(message) if "skip" in policies else ImageError(message)


@dataclass(frozen=True)
class LoadedImage:
    """``pixels`` (h, w, 3) uint8 RGB as displayed; ``orientation`` is the EXIF value 1..8."""

    pixels: Pixels
    orientation: int
    warnings: tuple[str, ...] = ()
    #: Why a stated orientation is taken as 1; "" if none is.
    odd_orientation: str = ""

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def remarks(self) -> tuple[str, ...]:
        """The warnings, and why a stated orientation is taken as 1."""
        return (*self.warnings, *filter(None, [self.odd_orientation]))


DEFAULT_RULES = ImageRules()
#: Those of classifiers, whose crops have one size, whatever that of the image.
CROP_RULES = ImageRules(min_side=1)


def read_image(path: Path, rules: ImageRules = DEFAULT_RULES) -> LoadedImage:
    """Read and decode one image; raises `ImageError`, and nothing else, naming the file."""
    read_size(path, rules)  # a file that is refused is not read whole
    with _only_image_errors(str(path), rules):
        data = _content(path)
    return decode_image(data, str(path), rules)


def read_size(path: Path, rules: ImageRules = DEFAULT_RULES) -> tuple[int, int]:
    """(h, w) as displayed, from the header alone; raises `ImageError` as `read_image` would."""
    name = str(path)
    with _only_image_errors(name, rules):
        expect_file(path)
        with path.open("rb") as stream, open_image(stream, name) as image:
            return _checked_size(image, _orientation(image, rules), name, rules)


def bytes_to_read(path: Path) -> int:
    """The most bytes that reading an image takes, from its header; 0 if it cannot be read."""
    try:
        expect_file(path)
        with path.open("rb") as stream, open_image(stream, str(path)) as image:
            return bytes_of(image, path.stat().st_size)
    except Exception:  # which reading the image reports
        return 0


def decode_image(data: bytes, name: str, rules: ImageRules = DEFAULT_RULES) -> LoadedImage:
    """The pixels of an encoded image; ``name`` is for messages. Raises only `ImageError`."""
    with _only_image_errors(name, rules), open_image(io.BytesIO(data), name) as image:
        orientation = _orientation(image, rules)
        size = _checked_size(image, orientation, name, rules)
        with DECODING.share(bytes_of(image, len(data))):
            if image.format in ("JPEG", "MPO"):
                decoded, warnings = _decode_jpeg(data, image, name, rules)
            else:
                decoded, warnings = _decode_other(data, image, name, rules)
            pixels = turn(decoded, orientation.pending)
        if pixels.shape[:2] != size:
            raise ImageError(f"{name}: header says (h, w) {size}, pixels are {pixels.shape[:2]}")
        return LoadedImage(pixels, orientation.value, warnings, orientation.ignored)


def from_pil(image: Image.Image, rules: ImageRules = DEFAULT_RULES) -> LoadedImage:
    """The pixels of an opened image of 8 bits a channel; raises ImageError for any other."""
    if image.mode not in _EIGHT_BIT:
        raise ImageError(f"PIL image of mode {image.mode}: convert it to RGB with 8 bits first")
    if 0 in image.size:
        raise ImageError(f"PIL image without pixels: width x height is {image.size}")
    orientation = _orientation(image, rules)
    pixels = turn(flattened(image, rules.background), orientation.pending)
    return LoadedImage(pixels, orientation.value, odd_orientation=orientation.ignored)


def _content(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_FILE)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from error


# ---------------------------------------------------------------------------------- header


def _orientation(image: Image.Image, rules: ImageRules) -> Orientation:
    return read_orientation(image, apply=rules.exif == "apply")


def _checked_size(
    image: Image.Image, orientation: Orientation, name: str, rules: ImageRules
) -> tuple[int, int]:
    width, height = image.size
    if orientation.swaps_sides:
        width, height = height, width
    expect_size((height, width), name, rules, image.format)
    return height, width


# ---------------------------------------------------------------------------------- pixels


def _decode_jpeg(
    data: bytes, image: Image.Image, name: str, rules: ImageRules
) -> tuple[Pixels, tuple[str, ...]]:
    if has_too_many_scans(data):
        raise rules.error(f"{name}: a JPEG of more than {MAX_SCANS} scans, which take too long")
    warnings: tuple[str, ...] = ()
    if not has_end(data):
        if _lacks_pixels(data):
            if rules.on_truncated != "warn":
                raise rules.error(f"{name}: truncated (pixels are missing)", truncated=True)
            warnings = ("truncated: the missing part is grey",)
        else:
            warnings = ("truncated: no end marker, but the pixels are complete",)
        data += _EOI
    pixels, messages = _cv2_decode(data)
    if reason := damage(data, messages, lambda plain: _cv2_decode(plain)[1]):
        if rules.on_truncated != "warn":
            raise rules.error(f"{name}: damaged inside ({reason})", truncated=True)
        warnings = warnings or (f"damaged inside: {reason}; parts of the image may be wrong",)
    if pixels is not None and image.mode in ("RGB", "L"):
        return pixels, warnings
    pixels = None  # not kept while the next are made
    # CMYK, whose colours OpenCV and Pillow disagree on by a level, and what OpenCV cannot decode.
    with open_image(io.BytesIO(data), name) as repaired:
        return flattened(repaired, rules.background), warnings


def _cv2_decode(data: bytes, flags: int | None = None) -> tuple[Pixels | None, list[str]]:
    """The pixels (RGB, unless ``flags`` say otherwise) and the messages of libjpeg."""
    if flags is None:
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    encoded = np.frombuffer(data, np.uint8)
    pixels, messages = with_messages(lambda: cv2.imdecode(encoded, flags))
    return None if pixels is None else np.asarray(pixels, np.uint8), messages


def _lacks_pixels(data: bytes) -> bool:
    """Whether a JPEG without an end marker also lacks pixels.

    Decoders fill in what is missing silently. If what follows the last byte changes the
    image, the decoder still needed data.
    """
    ended, _ = _cv2_decode(data + _EOI)
    # A last 0xFF would begin a marker with whatever comes next, so it is tried without as well.
    for start in {data, data.rstrip(b"\xff")}:
        continued, _ = _cv2_decode(start + b"\x5a\xa5" * 64 + _EOI)
        if ended is None or continued is None or not np.array_equal(ended, continued):
            return True
    return False


def _decode_other(
    data: bytes, image: ImageFile.ImageFile, name: str, rules: ImageRules
) -> tuple[Pixels, tuple[str, ...]]:
    if image.format == "WEBP" and not getattr(image, "is_animated", False):
        # As Pillow decodes it, with a third of the memory.
        pixels = _cv2_decode(data, None if image.mode == "RGB" else cv2.IMREAD_UNCHANGED)[0]
        if pixels is not None and image.mode == "RGB":
            return pixels, ()
        if pixels is not None and pixels.shape[2:] == (4,):
            cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA, pixels)  # in place
            return blended(pixels, rules.background), ()

    def decode() -> tuple[Pixels, tuple[str, ...]]:
        with open_image(io.BytesIO(data), name) as opened:
            return _decode_opened(opened, rules)

    if image.format != "TIFF":  # the other decoders write no messages
        return decode()
    (pixels, warnings), messages = with_messages(decode)
    if messages:
        warnings += (f"decoder message: {messages[0]}; parts of the image may be wrong",)
    return pixels, warnings


def _decode_opened(image: ImageFile.ImageFile, rules: ImageRules) -> tuple[Pixels, tuple[str, ...]]:
    warnings: tuple[str, ...] = ()
    if _has_more_frames(image):
        warnings += (f"{image.format} with several frames or pages: only the first is read",)
    layout = str(image.tile)
    deep = image.mode.startswith("I") or ";16" in layout
    if image.mode.startswith("I") and "transparency" in image.info:
        warnings += ("the transparent value of 16-bit grey is not applied",)
    image.load()
    if image.mode.startswith("I"):
        pixels = from_grey(image, 4095 if "I;12" in layout else 65535)
    else:
        pixels = flattened(image, rules.background)
    if deep and pixels.max() < 64:  # under a quarter of the range
        warnings += (f"16-bit image, nearly black ({pixels.max()} of 255): 12-bit data in it?",)
    return pixels, warnings


def _has_more_frames(image: Image.Image) -> bool:
    """Unlike their number, this is known from the header, or from that of the second one."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # a damaged second frame; the first may still be good
        return False


@contextmanager
def _only_image_errors(name: str, rules: ImageRules) -> Iterator[None]:
    """Turn any exception into an ImageError: on damaged bytes decoders raise nearly everything."""
    try:
        yield
    except SkippedImage:
        raise
    except ImageError as error:
        raise rules.error(str(error)) from error
    except FileNotFoundError as error:  # it was there a moment ago
        raise rules.error(f"{name}: no such file") from error
    except Exception as error:
        reason = one_line(error)
        if isinstance(error, EOFError) or "truncated" in reason.lower():
            raise rules.error(f"{name}: truncated ({reason})", truncated=True) from error
        raise rules.error(f"{name}: cannot be read ({reason})") from error

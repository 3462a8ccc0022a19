"""Decoding of all images of a data set: format, size, fingerprint and faults of each file.

Each file is decoded once, on all cores, with the reader that training uses. Results are cached by
the hash of the file content, so that a second check only reads and hashes the files.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...detection.errors import ImageError
from ...detection.files import read_limited
from ..finding_kinds import Severity
from ..findings import Finding
from ..image import (
    IMAGE_SUFFIXES,
    ImageRules,
    Pixels,
    SkippedImage,
    decode_image,
    read_image,
)
from ..image_file import FORMATS
from ..memory import MAX_FILE
from ..parallel import Died, map_items
from .image_cache import THUMBNAIL_SIDE, ImageCache, ImageContent, Remark

#: {Pillow's format name: matching extensions}.
_SUFFIXES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "DIB": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "GIF": {".gif"},
    "AVIF": {".avif"},
    "JPEG2000": {".jp2", ".j2k", ".jpx", ".jpf"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm", ".pfm"},
}
#: {Pillow's mode: how the reader converts it}, without RGB and 16-bit modes.
_MODES = {
    "1": "black and white, read as grey",
    "L": "grey, read as three equal channels",
    "P": "palette, read as RGB",
    "CMYK": "CMYK, converted to RGB",
    "YCbCr": "YCbCr, converted to RGB",
    "LAB": "LAB, converted to RGB",
}
#: (part of the reader's error message, kind of finding).
_REASONS = (
    ("truncated", "truncated_image"),
    ("damaged inside", "damaged_image"),
    ("is over max_pixels", "oversized_image"),
    ("decompression bomb", "oversized_image"),
    ("has a side under", "tiny_image"),
    ("is longer than", "elongated_image"),
)
#: Kinds that `ImageRules.on_truncated` is about.
_TRUNCATED = ("truncated_image", "damaged_image")
_NAME = "image"
#: Side of the grey image from which thumbnail and hash are computed; a multiple of 18, 9 and 8.
_REDUCED = 72


@dataclass(frozen=True)
class ImageFacts(ImageContent):
    """One image file. ``sha256`` (hex) is the hash of its bytes, empty if it cannot be read.

    If the image is unusable, one of the ``findings`` has the reason.
    """

    path: Path
    sha256: str
    findings: tuple[Finding, ...] = ()


def check_images(
    paths: Sequence[Path],
    rules: ImageRules,
    *,
    workers: int,
    cache: Path | None,
    progress: Callable[[int, int], None],
) -> list[ImageFacts]:
    """Decode all files and return their facts in order. Faults become findings, not exceptions.

    ``workers`` processes decode; 0 decodes in this process, without protection from crashes.
    ``cache`` is a JSON lines file that is read and extended, or None. ``progress`` is called with
    (done, total).
    """
    facts: list[ImageFacts | None] = [None] * len(paths)
    with ImageCache(cache, rules) as known:
        examine_file = partial(_examine_file, rules=rules, known=known.hashes())
        results = map_items(examine_file, paths, workers=workers)
        for done, (index, result) in enumerate(results, 1):
            if isinstance(result, Died):
                result = "", _failed("decoder_crashed", f"the decoder crashed: {result.reason}")
            digest, content = result
            if content is None:
                content = known[digest]
            elif digest:
                known.add(digest, content)
            facts[index] = _facts(paths[index], digest, content)
            progress(done, len(paths))
    return [each for each in facts if each is not None]


def _examine_file(
    path: Path, rules: ImageRules, known: frozenset[str]
) -> tuple[str, ImageContent | None]:
    """(hash, content). Content is None for a known hash; the hash is "" for an unreadable file."""
    try:
        data = _read(path)
    except ImageError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return "", _failed("unreadable_image", reason, _severity(rules))
    digest = hashlib.sha256(data).hexdigest()
    return digest, None if digest in known else examine(data, rules)


def _read(path: Path) -> bytes:
    try:
        if path.is_file():
            return read_limited(path, MAX_FILE)
    except OSError:
        pass
    read_image(path)  # raises the error that training would raise
    raise ImageError(f"{path}: changed during reading")


def _facts(path: Path, digest: str, content: ImageContent) -> ImageFacts:
    remarks = (*content.remarks, *_extension_remark(path, content))
    findings = (Finding(kind, severity, path, why, image=path) for kind, severity, why in remarks)
    return ImageFacts(**vars(content), path=path, sha256=digest, findings=tuple(findings))


def _extension_remark(path: Path, content: ImageContent) -> list[Remark]:
    suffix = path.suffix.lower()
    if content.size is None or suffix in _SUFFIXES.get(content.format, {suffix}):
        return []
    name = f"named {suffix}" if suffix in IMAGE_SUFFIXES else "without an image extension"
    return [("wrong_extension", "note", f"{content.format} {name}; the content is used")]


def examine(data: bytes, rules: ImageRules) -> ImageContent:
    """Content of an encoded image; never raises."""
    # With "skip" the reader reports truncation separately; all else is as with "error".
    lenient = rules if rules.on_truncated == "warn" else replace(rules, on_truncated="skip")
    try:
        with _exif_warnings() as damaged:
            loaded = decode_image(data, _NAME, lenient)
            image_format, notes = _format_and_mode(data, rules)
    except ImageError as error:
        return _refused(str(error).removeprefix(f"{_NAME}: "), rules)
    height, width = loaded.pixels.shape[:2]
    remarks = [_warned(text) for text in loaded.warnings] + notes
    if loaded.orientation != 1:
        what = "applied" if rules.exif == "apply" else "ignored (exif: ignore)"
        reason = f"EXIF orientation {loaded.orientation} is {what}, {width}x{height}"
        remarks.append(("rotated_image", "note", reason))
    if loaded.odd_orientation or (damaged and loaded.orientation == 1):
        reason = loaded.odd_orientation or f"EXIF is damaged: {damaged[0]}"
        remarks.append(("odd_orientation", "note", reason))
    dhash, thumbnail = fingerprint(loaded.pixels)
    size = (height, width)
    return ImageContent(image_format, size, loaded.orientation, dhash, thumbnail, tuple(remarks))


@contextmanager
def _exif_warnings() -> Iterator[list[str]]:
    """Yield a list that contains Pillow's warnings about EXIF after the block; others pass."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield messages
    for warning in told:
        if "EXIF" in str(warning.message):
            messages.append(" ".join(str(warning.message).split()))
        else:
            warnings.warn(warning.message, warning.category, stacklevel=2)


def _failed(kind: str, reason: str, severity: Severity = "error") -> ImageContent:
    return ImageContent("", None, 1, None, b"", ((kind, severity, reason),))


def _refused(reason: str, rules: ImageRules) -> ImageContent:
    kinds = (kind for part, kind in _REASONS if part in reason)
    kind = next(kinds, "undecodable_image")
    return _failed(kind, reason, _severity(rules, truncated=kind in _TRUNCATED))


def _severity(rules: ImageRules, *, truncated: bool = False) -> Severity:
    """Of an image that cannot be used."""
    return "warning" if isinstance(rules.error("", truncated=truncated), SkippedImage) else "error"


def _warned(text: str) -> Remark:
    """The remark for a warning of the reader."""
    if text.startswith("truncated"):
        complete = "complete" in text
        return ("no_end_marker" if complete else "truncated_image", "warning", text)
    if text.startswith(("damaged inside", "decoder message")):
        return ("damaged_image", "warning", text)
    animated = "only the first is read" in text
    return ("animated_image" if animated else "unusual_mode", "warning", text)


def _format_and_mode(data: bytes, rules: ImageRules) -> tuple[str, list[Remark]]:
    """Format, and a remark about an unusual pixel mode, from the header."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        mode, image_format = image.mode, image.format or ""
        if mode.startswith("I") or ";16" in str(getattr(image, "tile", "")):
            return image_format, [("unusual_mode", "note", f"16-bit ({mode}), scaled to 8 bits")]
        if image.has_transparency_data:
            reason = f"transparency ({mode}), blended with background {rules.background}"
            return image_format, [("unusual_mode", "note", reason)]
        if mode in _MODES:
            return image_format, [("unusual_mode", "note", _MODES[mode])]
    return image_format, []


def fingerprint(pixels: Pixels) -> tuple[int, bytes]:
    """(dhash, thumbnail) of ``pixels`` (h, w, 3).

    Each bit of the dhash tells whether a cell of a 9 x 8 grey image is darker than its right
    neighbour. The thumbnail has 18 x 18 grey values.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    while min(grey.shape) >= 4 * _REDUCED:  # halving is 40 times faster than other ratios
        height, width = grey.shape[0] // 2, grey.shape[1] // 2
        even = grey[: 2 * height, : 2 * width]
        grey = cv2.resize(even, (width, height), interpolation=cv2.INTER_AREA)
    reduced = cv2.resize(grey, (_REDUCED, _REDUCED), interpolation=cv2.INTER_AREA)
    cells = cv2.resize(reduced, (9, 8), interpolation=cv2.INTER_AREA)
    side = THUMBNAIL_SIDE
    thumbnail = cv2.resize(reduced, (side, side), interpolation=cv2.INTER_AREA)
    rises = cells[:, 1:] > cells[:, :-1]
    return int.from_bytes(np.packbits(rises).tobytes(), "big"), thumbnail.tobytes()

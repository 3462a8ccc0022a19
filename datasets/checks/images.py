"""What do the files of a data set's images hold, and which of them are faulty?

Every file is decoded once, by the reader that training uses, on all cores. What its bytes say is
kept in a cache under their hash, so that a second look costs reading and hashing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ...detection.errors import ImageError
from ..findings import Finding, Severity
from ..image import FORMATS, IMAGE_SUFFIXES, ImageRules, Pixels, decode_image, read_image
from ..parallel import Died, map_items
from .decoder_complaints import heard_complaints
from .image_cache import THUMBNAIL_SIDE, Content, ContentCache, Remark

#: Extensions of each format that Pillow names; every other pair disagrees.
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
#: Pillow's modes that are neither RGB nor 16-bit, and what the reader makes of them.
_MODES = {
    "1": "black and white, read as grey",
    "L": "grey, read as three equal channels",
    "P": "palette, read as RGB",
    "CMYK": "CMYK, converted to RGB",
    "YCbCr": "YCbCr, converted to RGB",
    "LAB": "LAB, converted to RGB",
}
#: How the reader's reasons begin or what they contain, and the kind of fault that is.
_REASONS = (
    ("truncated", "truncated_image"),
    ("is over max_pixels", "oversized_image"),
    ("decompression bomb", "oversized_image"),
    ("has a side under", "tiny_image"),
    ("is longer than", "elongated_image"),
)
_NAME = "image"
#: Multiple of the thumbnail's side and of the 9 x 8 cells of the hash.
_REDUCED = 72


@dataclass(frozen=True)
class ImageFacts:
    """One file: ``size`` (h, w) as displayed and ``orientation`` the EXIF value 1..8.

    ``sha256`` (hex) is of the bytes, empty where they cannot be read. ``dhash`` is a 64-bit hash of
    the pixels that changes by few bits when an image is scaled, brightened or compressed, and
    ``thumbnail`` 18 x 18 grey values. Size, hash and thumbnail are None or empty where the image
    cannot be used; a finding then says why.
    """

    path: Path
    size: tuple[int, int] | None
    orientation: int
    sha256: str
    dhash: int | None
    thumbnail: bytes
    findings: tuple[Finding, ...] = ()


def check_images(
    paths: Sequence[Path],
    rules: ImageRules,
    *,
    workers: int,
    cache: Path | None,
    progress: Callable[[int, int], None],
) -> list[ImageFacts]:
    """The facts of each file, in order; no file raises, each fault is a finding.

    ``workers``: processes that decode; 0 decodes in this one, which a crashing decoder then ends.
    ``cache``: a JSON lines file that is read and added to; None keeps nothing. ``progress`` is
    called with (done, total).
    """
    facts: list[ImageFacts | None] = [None] * len(paths)
    with ContentCache(cache, rules) as known:
        look = partial(_look, rules=rules, known=known.hashes())
        results = map_items(look, paths, workers=workers)
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


def _look(path: Path, rules: ImageRules, known: frozenset[str]) -> tuple[str, Content | None]:
    """(hash of the bytes, what they hold or None where that is known); no hash: not readable."""
    try:
        data = _read(path)
    except ImageError as error:
        return "", _failed("unreadable_image", str(error).removeprefix(f"{path}: "))
    digest = hashlib.sha256(data).hexdigest()
    return digest, None if digest in known else examine(data, rules)


def _read(path: Path) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
    except OSError:
        pass
    read_image(path)  # says why not, in the words of training
    raise ImageError(f"{path}: changed while it was read")


def _facts(path: Path, digest: str, content: Content) -> ImageFacts:
    remarks = (*content.remarks, *_extension_remark(path, content))
    return ImageFacts(
        path,
        content.size,
        content.orientation,
        digest,
        content.dhash,
        content.thumbnail,
        tuple(Finding(kind, severity, path, why, image=path) for kind, severity, why in remarks),
    )


def _extension_remark(path: Path, content: Content) -> list[Remark]:
    suffix = path.suffix.lower()
    if content.size is None or suffix in _SUFFIXES.get(content.format, {suffix}):
        return []
    said = f"named {suffix}" if suffix in IMAGE_SUFFIXES else "without an extension of images"
    return [("wrong_extension", "note", f"{content.format} {said}: contents decide")]


# ---------------------------------------------------------------------------------- contents


def examine(data: bytes, rules: ImageRules) -> Content:
    """What an encoded image holds, whatever its name; never raises."""
    # Under "skip" the reader says by type what is truncated; nothing else changes.
    asked = rules if rules.on_truncated == "warn" else replace(rules, on_truncated="skip")
    try:
        with heard_complaints() as complaints:
            loaded = decode_image(data, _NAME, asked)
        form, notes = _form(data, rules)
    except ImageError as error:
        return _refused(str(error).removeprefix(f"{_NAME}: "), rules)
    height, width = loaded.pixels.shape[:2]
    remarks = [_warned(text) for text in loaded.warnings] + notes
    if complaints and not loaded.warnings:  # a cut file has its own warning, and is tried out
        reason = f"the decoder says: {complaints[0]}; parts of the image may be wrong"
        remarks.append(("damaged_image", "warning", reason))
    if loaded.orientation != 1:
        what = "turned as it says" if rules.exif == "apply" else "not turned (exif: ignore)"
        reason = f"EXIF orientation {loaded.orientation}: {what}, {width}x{height}"
        remarks.append(("rotated_image", "note", reason))
    dhash, thumbnail = fingerprint(loaded.pixels)
    size = (height, width)
    return Content(form, size, loaded.orientation, dhash, thumbnail, tuple(remarks))


def _failed(kind: str, reason: str, severity: Severity = "error") -> Content:
    return Content("", None, 1, None, b"", ((kind, severity, reason),))


def _refused(reason: str, rules: ImageRules) -> Content:
    kinds = (kind for part, kind in _REASONS if part in reason)
    kind = next(kinds, "undecodable_image")
    skipped = kind == "truncated_image" and rules.on_truncated == "skip"
    return _failed(kind, reason, "warning" if skipped else "error")


def _warned(text: str) -> Remark:
    """What the reader warns of and reads all the same."""
    if text.startswith("truncated"):
        complete = "complete" in text
        return ("no_end_marker" if complete else "truncated_image", "warning", text)
    return (
        "animated_image" if "only the first is read" in text else "unusual_mode",
        "warning",
        text,
    )


def _form(data: bytes, rules: ImageRules) -> tuple[str, list[Remark]]:
    """Format and what is unusual about the layout of the pixels, from the header."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        mode, form = image.mode, image.format or ""
        if mode.startswith("I") or ";16" in str(getattr(image, "tile", "")):
            return form, [("unusual_mode", "note", f"16-bit ({mode}), scaled to 8 bits")]
        if image.has_transparency_data:
            reason = f"transparency ({mode}), laid on a background of {rules.background}"
            return form, [("unusual_mode", "note", reason)]
        if mode in _MODES:
            return form, [("unusual_mode", "note", _MODES[mode])]
    return form, []


def fingerprint(pixels: Pixels) -> tuple[int, bytes]:
    """(dHash, thumbnail): of 9 x 8 grey cells, whether each is darker than the one to its right;
    and 18 x 18 grey values. ``pixels`` (h, w, 3)."""
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

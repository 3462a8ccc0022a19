"""Boxes with labels drawn on images; all drawings of boxes are made here."""

from __future__ import annotations

import colorsys
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from .fonts import FontFile, font_runs

Colour = tuple[int, int, int]

#: Sizes of fonts that are bitmaps: those of Noto Color Emoji and Apple Color Emoji come first.
_BITMAP_SIZES = (109, 160, 136, 128, 96, 72, 64, 48, 40, 32, 20)
#: The colours of the first classes: purple, gold, magenta, blue, orange (IBM's), turquoise. None of
#: them is that of a kind of error, beside which they are drawn.
_FIRST: tuple[Colour, ...] = (
    (120, 94, 240),
    (255, 176, 0),
    (220, 38, 127),
    (100, 143, 255),
    (254, 97, 0),
    (0, 205, 190),
)
#: A label covers at most this part of the height of its box; else it lies above it.
_LABEL_PART = 1 / 3


@dataclass(frozen=True)
class DrawnBox:
    """``box`` (x1, y1, x2, y2) in pixels with the label ``name 0.87``; without a name, no label.

    The name is drawn as it is: see `drawable_names` in fonts.py.
    """

    box: Sequence[float]
    colour: Colour
    name: str = ""
    score: float | None = None
    dashed: bool = False


def draw_boxes(pixels: NDArray[np.uint8], boxes: Sequence[DrawnBox]) -> NDArray[np.uint8]:
    """A copy of ``pixels`` (h, w, 3) uint8 RGB with the boxes, the last one on top.

    A label lies in the box or above it, inside the image; a name that is too long for the image
    ends in an ellipsis, before the score. Boxes that are not finite are left out.
    """
    if not boxes:
        return pixels.copy()
    canvas = Image.fromarray(pixels)
    draw = ImageDraw.Draw(canvas)
    width, height = canvas.size
    # 2 px on a 640x480 image (diagonal 800), 16 px on a 12-megapixel photo (5000).
    line = max(1, round((height**2 + width**2) ** 0.5 / 320))
    for each in boxes:
        if not all(map(math.isfinite, each.box)):
            continue
        # Just outside the image: no coordinate is too large for the drawing library.
        x1, x2 = sorted(min(max(x, -2.0 * line), width + 2.0 * line) for x in each.box[::2])
        y1, y2 = sorted(min(max(y, -2.0 * line), height + 2.0 * line) for y in each.box[1::2])
        _outline(draw, (x1, y1, x2, y2), each, line)
        if each.name:
            _label(canvas, draw, each, (x1, y1, y2), max(10, 6 * line))
    return np.array(canvas)


@cache
def class_colour(label: int) -> Colour:
    """The RGB colour of a class: saturated, fixed, and unlike those of the labels beside it.

    People who are colour-blind can tell the first six apart. Beyond them the hue advances by the
    golden ratio, which spreads out any number of classes; groups of six labels alternate between
    bright and dark.
    """
    if 0 <= label < len(_FIRST):
        return _FIRST[label]
    hue = (0.02 + label * 0.6180339887) % 1.0
    value = 1.0 if (label // 6) % 2 == 0 else 0.7
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _outline(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], drawn: DrawnBox, line: int
) -> None:
    x1, y1, x2, y2 = box
    if not drawn.dashed:
        draw.rectangle(box, outline=drawn.colour, width=line)
        return
    dash = 4 * line
    for start in np.arange(x1, x2, 2 * dash):
        end = min(start + dash, x2)
        draw.line([(start, y1), (end, y1)], drawn.colour, line)
        draw.line([(start, y2), (end, y2)], drawn.colour, line)
    for start in np.arange(y1, y2, 2 * dash):
        end = min(start + dash, y2)
        draw.line([(x1, start), (x1, end)], drawn.colour, line)
        draw.line([(x2, start), (x2, end)], drawn.colour, line)


def _label(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    drawn: DrawnBox,
    place: tuple[float, float, float],
    size: int,
) -> None:
    x1, y1, y2 = place
    pad, high = max(1, size // 6), round(1.3 * size)
    score = "" if drawn.score is None else f"{drawn.score:.2f}"
    after = round(_length(f" {score}", size)) if score else 0
    name = _shortened(drawn.name, size, canvas.width - after - 2 * pad)
    before = round(_length(name, size))
    wide = before + after + 2 * pad
    inside = high <= _LABEL_PART * (y2 - y1) or y1 < high
    left = max(0, min(round(x1), canvas.width - wide))
    top = max(0, min(round(y1 if inside else y1 - high), canvas.height - high))
    draw.rectangle([left, top, left + wide - 1, top + high - 1], fill=drawn.colour)
    colour = _readable_on(drawn.colour)
    baseline = top + size
    _write(canvas, (left + pad, baseline), name, size, colour)
    if score:
        _write(canvas, (left + pad + before, baseline), f" {score}", size, colour)


@lru_cache(maxsize=4096)
def _shortened(name: str, size: int, room: float) -> str:
    """The longest beginning of ``name`` with an ellipsis that fits, or all of it."""
    if _length(name, size) <= room:
        return name
    fits, too_long = 0, len(name)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if _length(f"{name[:middle]}…", size) <= room:
            fits = middle
        else:
            too_long = middle
    while fits and (unicodedata.combining(name[fits]) or name[fits - 1] == "\u200d"):
        fits -= 1  # a mark stays with its letter
    return f"{name[:fits].rstrip()}…"


@lru_cache(maxsize=4096)
def _length(text: str, size: int) -> float:
    total = 0.0
    for font, part in font_runs(text):
        letters, scale = _letters(font, size)
        total += letters.getlength(part) * scale
    return total


def _write(canvas: Image.Image, place: tuple[int, int], text: str, size: int, colour: str) -> None:
    """Write with the left end of the base line at ``place``."""
    glyphs, (x, y) = _glyphs(text, size, colour)
    source = glyphs.convert("RGB") if glyphs.mode == "RGBA" else colour
    canvas.paste(source, (place[0] + x, place[1] + y), glyphs)


@lru_cache(maxsize=4096)
def _glyphs(text: str, size: int, colour: str) -> tuple[Image.Image, tuple[int, int]]:
    """The text, RGBA if it has colours of its own, else a mask; and where its upper left corner is
    from the left end of the base line."""
    parts = [(*_letters(font, size), part) for font, part in font_runs(text)]
    coloured = any(scale != 1.0 for _, scale, _ in parts)
    glyphs = Image.new("RGBA" if coloured else "L", (math.ceil(_length(text, size)) + 1, 3 * size))
    draw = ImageDraw.Draw(glyphs)
    x = 0.0
    for letters, scale, part in parts:
        if scale == 1.0:
            draw.text((x, 2 * size), part, colour if coloured else 255, letters, anchor="ls")
        else:
            bitmap = _bitmap(letters, part, scale)
            glyphs.paste(bitmap, (round(x), round(2 * size - 0.85 * bitmap.height)), bitmap)
        x += letters.getlength(part) * scale
    inked = glyphs.getbbox() or (0, 0, 1, 1)
    return glyphs.crop(inked), (inked[0], inked[1] - 2 * size)


def _bitmap(letters: ImageFont.FreeTypeFont, text: str, scale: float) -> Image.Image:
    """Text of a font of one size, scaled, RGBA."""
    ascent, descent = letters.getmetrics()
    full = Image.new("RGBA", (math.ceil(letters.getlength(text)) or 1, ascent + descent))
    ImageDraw.Draw(full).text((0, 0), text, font=letters, embedded_color=True)
    return full.resize((max(1, round(full.width * scale)), max(1, round(full.height * scale))))


@lru_cache(maxsize=64)
def _letters(font: FontFile, size: int) -> tuple[ImageFont.FreeTypeFont, float]:
    """The font in pixels of ``size``, and the factor by which to scale what it draws."""
    if font.scalable:
        return ImageFont.truetype(font.path, size), 1.0
    for native in _BITMAP_SIZES:
        try:
            return ImageFont.truetype(font.path, native), size / native
        except OSError:  # it has no bitmaps of this size
            continue
    raise OSError(0, "the font has no bitmaps of a known size", str(font.path))


def _readable_on(colour: Colour) -> str:
    red, green, blue = colour
    # Perceived brightness after ITU-R BT.601.
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"

"""Drawings of detections on their images."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..files import write_file
from ..structures import Detections
from .ranked_classes import RankedClasses

Colour = tuple[int, int, int]

#: The largest side that libjpeg writes.
JPEG_SIDE = 65_500


def draw_detections(
    pixels: NDArray[np.uint8], found: Detections, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """A copy of ``pixels`` (h, w, 3) uint8 RGB with a box and ``name 0.87`` for each detection.

    Boxes are in the pixels of the image; ``classes`` are the names in label order. The best
    detection is drawn last, on top.
    """
    upward = found.scores.argsort(stable=True)
    labels = found.labels[upward].tolist()
    scores = found.scores[upward].tolist()
    captions = [f"{classes[one]} {score:.2f}" for one, score in zip(labels, scores, strict=True)]
    return _draw(pixels, found.boxes[upward], captions, [*map(class_colour, labels)])


def draw_class(
    pixels: NDArray[np.uint8], found: RankedClasses, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """A copy of ``pixels`` (h, w, 3) uint8 RGB with ``name 0.87`` of the best class and a frame in
    the colour of the class; unchanged without classes."""
    height, width = pixels.shape[:2]
    frame = torch.tensor([[0.0, 0.0, width - 1, height - 1]])
    best = found[:1]
    return draw_detections(
        pixels, Detections(frame[: len(best)], best.scores, best.labels), classes
    )


def save_jpeg(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write (h, w, 3) uint8 RGB atomically, creating the folder. Raises OSError."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(0, "the image cannot be encoded as JPEG", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.tobytes())


@cache
def class_colour(label: int) -> Colour:
    """The RGB colour of a class: saturated, fixed, and unlike those of the labels beside it.

    The hue advances by the golden ratio, which spreads out any number of classes; groups of six
    labels alternate between bright and dark.
    """
    hue = (0.02 + label * 0.6180339887) % 1.0
    value = 1.0 if (label // 6) % 2 == 0 else 0.7
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.85, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _draw(
    pixels: NDArray[np.uint8], boxes: Tensor, captions: list[str], colours: list[Colour]
) -> NDArray[np.uint8]:
    if not captions:
        return pixels.copy()
    from torchvision.utils import draw_bounding_boxes  # late: it takes more than a second

    height, width = pixels.shape[:2]
    # 2 px on a 640x480 image (diagonal 800), 16 px on a 12-megapixel photo (5000).
    line = max(1, round((height**2 + width**2) ** 0.5 / 320))
    drawn = draw_bounding_boxes(
        torch.from_numpy(pixels.copy()).permute(2, 0, 1),
        boxes,
        labels=captions,
        colors=list(colours),
        width=line,
        font=_font(),
        font_size=max(10, 6 * line),
        label_colors=[_readable_on(colour) for colour in colours],
        label_background_colors=list(colours),
        fill_labels=True,
    )
    return np.ascontiguousarray(drawn.permute(1, 2, 0).numpy())


def _readable_on(colour: Colour) -> str:
    red, green, blue = colour
    # Perceived brightness after ITU-R BT.601.
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 128 else "white"


@cache
def _font() -> str:
    """DejaVu Sans, part of matplotlib: Latin, Greek, Cyrillic, Arabic and symbols."""
    import matplotlib  # late: it takes 0.2 s and only drawings need it

    return str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")

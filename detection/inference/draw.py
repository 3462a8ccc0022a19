"""Drawings of detections on their images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..drawing import DrawnBox, class_colour, draw_boxes
from ..files import write_file
from ..fonts import drawable_names
from ..structures import Detections
from .ranked_classes import RankedClasses

#: The largest side that libjpeg writes.
JPEG_SIDE = 65_500


def draw_detections(
    pixels: NDArray[np.uint8], found: Detections, classes: Sequence[str]
) -> NDArray[np.uint8]:
    """A copy of ``pixels`` (h, w, 3) uint8 RGB with a box and ``name 0.87`` for each detection.

    Boxes are in the pixels of the image; ``classes`` are the names in label order, shown as
    `drawable_names` in fonts.py says. The best detection is drawn last, on top.
    """
    return draw_boxes(pixels, detected_boxes(found, classes))


def detected_boxes(found: Detections, classes: Sequence[str]) -> list[DrawnBox]:
    """The detections as boxes to draw, the best one last."""
    upward = found[found.scores.argsort(stable=True)]
    names = drawable_names(tuple(classes)) if len(upward) else ()
    rows = zip(upward.boxes.tolist(), upward.labels.tolist(), upward.scores.tolist(), strict=True)
    return [DrawnBox(box, class_colour(label), names[label], score) for box, label, score in rows]


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


def cut_box(pixels: NDArray[np.uint8], box: Sequence[float]) -> NDArray[np.uint8]:
    """The pixels (h, w, 3) that a box (x1, y1, x2, y2) covers, also in part; at least one."""
    height, width = pixels.shape[:2]
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    right, bottom = max(left + 1, math.ceil(box[2])), max(top + 1, math.ceil(box[3]))
    return pixels[top:bottom, left:right]


def save_jpeg(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write (h, w, 3) uint8 RGB atomically, creating the folder. Raises OSError."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(0, "the image cannot be encoded as JPEG", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.tobytes())

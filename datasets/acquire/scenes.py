"""Random synthetic scenes of coloured shapes, with the annotations of their visible objects.

A scene has a textured background and up to six shapes, drawn from back to front. Each class has its
own outline and range of hues, so that a small network learns it within minutes. Scale, position,
rotation, stretch, texture, overlap and truncation by the image border are random.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
#: Corners (n, 2) as (x, y). The first contour of a shape is its outline, others are holes.
Contour = NDArray[np.float64]

EMPTY_SCENES = 0.08
TURNED_SCENES = 0.2  # height and width are swapped
MOST_OBJECTS = 6
#: Range of object sizes relative to the shorter side, log-uniform; 1 in 16 objects is tiny.
SCALES = (0.1, 0.6)
TINY_SCALES = (0.03, 0.06)
TINY_OBJECTS = 1 / 16
#: Fraction of objects that may overlap freely; others overlap at most CLEAR_OVERLAP.
CROWDED_OBJECTS = 0.25
CLEAR_OVERLAP = 0.12
#: An object is *difficult* if a larger fraction is hidden, or a side has fewer pixels.
HIDDEN_LIMIT = 0.6
SMALLEST_SIDE = 10
#: The coverage of a pixel is the mean of 4x4 samples.
SUPERSAMPLING = 4


@dataclass(frozen=True)
class SceneObject:
    """One annotated object; ``box`` is (x1, y1, x2, y2) in whole pixels, 0-based."""

    name: str
    box: tuple[int, int, int, int]
    truncated: bool
    difficult: bool


@dataclass(frozen=True)
class Scene:
    """An image, ``pixels`` (h, w, 3) uint8 RGB, and its visible objects."""

    pixels: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class _Figure:
    """A placed shape; contours are in pixels."""

    name: str
    contours: tuple[Contour, ...]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        x1, y1 = self.contours[0].min(axis=0)
        x2, y2 = self.contours[0].max(axis=0)
        return float(x1), float(y1), float(x2), float(y2)

    @property
    def area(self) -> float:
        outline, *holes = (cv2.contourArea(c.astype(np.float32)) for c in self.contours)
        return float(outline - sum(holes))

    def coverage(self, size: tuple[int, int]) -> Floats:
        """Fraction (h, w) of each pixel inside the figure, in [0, 1]."""
        height, width = size
        fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
        corners = [np.rint(c * SUPERSAMPLING - 0.5).astype(np.int32) for c in self.contours]
        cv2.fillPoly(fine, corners, 255)
        coarse = cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA)
        return np.divide(coarse, 255, dtype=np.float32)


def _polar(radii: Sequence[float], corners: int, start: float = -90.0) -> Contour:
    """Corners at equal angles; their distances from the centre cycle through ``radii``."""
    angles = np.deg2rad(start + 360.0 / corners * np.arange(corners))
    distances = np.resize(np.asarray(radii), corners)
    return np.stack([distances * np.cos(angles), distances * np.sin(angles)], axis=1)


def _plus(arm: float) -> Contour:
    """A cross whose arms are 2 x ``arm`` wide."""
    a = arm
    quarter = np.array([(a, -1), (a, -a), (1, -a)], dtype=float)
    turn = np.array([[0, 1], [-1, 0]], dtype=float)  # 90 degrees; row vectors
    return np.concatenate([quarter @ np.linalg.matrix_power(turn, k) for k in range(4)])


#: Outlines and holes, centred at the origin and about 2 wide.
SHAPES: dict[str, tuple[Contour, ...]] = {
    "circle": (_polar([1.0], 72),),
    "cross": (_plus(0.36),),
    "ring": (_polar([1.0], 72), _polar([0.52], 72)),
    "square": (_polar([1.25], 4, start=45.0),),
    "star": (_polar([1.15, 0.48], 10),),
    "triangle": (_polar([1.2], 3),),
}
CLASSES = tuple(SHAPES)


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> Scene:
    """Draw one scene of ``size`` (h, w); in one of five scenes, height and width are swapped."""
    height, width = size
    if rng.random() < TURNED_SCENES:
        height, width = width, height
    pixels = _background(rng, (height, width))
    figures = [] if rng.random() < EMPTY_SCENES else _arrange(rng, (height, width))
    coverages = [figure.coverage((height, width)) for figure in figures]
    for figure, coverage in zip(figures, coverages, strict=True):
        pixels += coverage[..., None] * (_paint(rng, figure.name, (height, width)) - pixels)
    objects = _visible_objects(figures, coverages)
    return Scene(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8), objects)


def _arrange(rng: np.random.Generator, size: tuple[int, int]) -> list[_Figure]:
    """Figures in drawing order, the last in front; skips those without free space."""
    placed: list[_Figure] = []
    for _ in range(int(rng.integers(1, MOST_OBJECTS + 1))):
        allowed = 1.0 if rng.random() < CROWDED_OBJECTS else CLEAR_OVERLAP
        scales = TINY_SCALES if rng.random() < TINY_OBJECTS else SCALES
        for _attempt in range(20):
            figure = _place(rng, size, scales)
            if all(_overlap(figure.extent, other.extent) <= allowed for other in placed):
                placed.append(figure)
                break
    return placed


def _place(rng: np.random.Generator, size: tuple[int, int], scales: tuple[float, float]) -> _Figure:
    """A random shape, scaled, stretched and rotated; its centre is at least 0.6 radii inside."""
    height, width = size
    name = CLASSES[int(rng.integers(len(CLASSES)))]
    low, high = np.log(scales)
    radius = 0.5 * min(size) * math.exp(rng.uniform(low, high))
    stretch = math.exp(rng.uniform(-0.2, 0.2))
    angle = math.radians(rng.uniform(-20, 20))
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    inside = 0.6 * radius
    middle = rng.uniform([inside, inside], [width - inside, height - inside])
    scale = radius * np.array([stretch, 1 / stretch])
    return _Figure(name, tuple(contour * scale @ turn + middle for contour in SHAPES[name]))


def _overlap(
    first: tuple[float, float, float, float], second: tuple[float, float, float, float]
) -> float:
    """Intersection over the area of the smaller box."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(width, 0) * max(height, 0) / min(areas)


def _visible_objects(
    figures: Sequence[_Figure], coverages: Sequence[Floats]
) -> tuple[SceneObject, ...]:
    """Annotations of the visible objects, in drawing order."""
    found: list[SceneObject] = []
    uncovered: Floats | float = 1.0
    for figure, coverage in zip(reversed(figures), reversed(coverages), strict=True):
        visible = coverage * uncovered
        uncovered = uncovered * (1 - coverage)
        box = _tight_box(visible)
        if box is not None:
            shown = float(visible.sum()) / figure.area
            small = min(box[2] - box[0], box[3] - box[1]) < SMALLEST_SIDE
            found.append(
                SceneObject(
                    figure.name,
                    box,
                    truncated=_shortened(box, figure.extent),
                    difficult=small or shown < 1 - HIDDEN_LIMIT,
                )
            )
    return tuple(reversed(found))


def _tight_box(visible: Floats) -> tuple[int, int, int, int] | None:
    """The box of the pixels that are at least half visible, as in PASCAL's guidelines."""
    rows, columns = np.nonzero(visible >= 0.5)
    if not len(rows):
        return None
    x1, y1 = int(columns.min()), int(rows.min())
    return x1, y1, int(columns.max()) + 1, int(rows.max()) + 1


def _shortened(box: tuple[int, int, int, int], extent: tuple[float, float, float, float]) -> bool:
    """Whether the box is more than three pixels (sharp corners) smaller than the full extent."""
    return any(abs(side - full) > 3 for side, full in zip(box, extent, strict=True))


def _background(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """A texture (h, w, 3) of two unsaturated colours, in [0, 1]."""
    texture = _noise(rng, size, octaves=5)
    texture += rng.uniform(0, 0.8) * _ramp(rng, size)
    if rng.random() < 0.4:
        texture += rng.uniform(0.1, 0.4) * _stripes(rng, size)
    texture = ((texture - texture.min()) / np.ptp(texture))[..., None]
    colors = [_rgb(rng.random(), rng.uniform(0, 0.3), rng.uniform(0.15, 0.85)) for _ in range(2)]
    grain = rng.normal(0, 0.015, (*size, 3)).astype(np.float32)
    return colors[0] + texture * (colors[1] - colors[0]) + grain


def _paint(rng: np.random.Generator, name: str, size: tuple[int, int]) -> Floats:
    """A bright texture (h, w, 3) in the hues of a class, in [0, 1]."""
    hue = (CLASSES.index(name) + rng.uniform(-0.38, 0.38)) / len(CLASSES)
    color = _rgb(hue % 1.0, rng.uniform(0.65, 1.0), rng.uniform(0.65, 1.0))
    pattern = (_ramp, _stripes, _noise)[int(rng.integers(3))](rng, size)
    return color * (1 + rng.uniform(0.05, 0.3) * pattern[..., None])


def _noise(rng: np.random.Generator, size: tuple[int, int], octaves: int = 3) -> Floats:
    """Smooth noise of about -1 to 1; each octave is twice as fine and 0.6 times as strong."""
    height, width = size
    total = np.zeros(size, np.float32)
    for octave in range(octaves):
        cells = 2 ** (octave + 2)
        grid = rng.uniform(-1, 1, (cells, cells)).astype(np.float32)
        fine = cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        total += 0.6**octave * fine
    return total


def _ramp(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """A linear gradient in a random direction, at most -1 to 1."""
    return _along(rng, size) / (0.5 * math.hypot(*size))


def _stripes(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Soft stripes 8 to 40 pixels apart, -1 to 1."""
    return np.sin(_along(rng, size) * (2 * math.pi / rng.uniform(8, 40)), dtype=np.float32)


def _along(rng: np.random.Generator, size: tuple[int, int]) -> Floats:
    """Signed distance (h, w) of each pixel from the centre in a random direction."""
    angle = rng.uniform(0, 2 * math.pi)
    y, x = np.ogrid[: size[0], : size[1]]
    away = (x - size[1] / 2) * math.cos(angle) + (y - size[0] / 2) * math.sin(angle)
    return np.asarray(away, dtype=np.float32)


def _rgb(hue: float, saturation: float, value: float) -> Floats:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32)

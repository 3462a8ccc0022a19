"""Tiles of large images: windows, the pass over them, and boxes that the edge of a window cuts.

A tile is a test-time view of its image: its boxes are moved by the offset of its window and join
the candidates of the whole image before the one suppression. So every option of testing (flips,
scales, pyramid, ensembles, voting) works in tiles too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...datasets.image import LoadedImage
from ..errors import ConfigError
from ..ops import boxes as box_ops
from ..ops.nms import nms
from ..structures import Detections, Sample
from .pipeline import Pipeline, Prepared, in_equal_batches

#: x1, y1, x2, y2 in pixels of the image.
Window = tuple[int, int, int, int]

#: Share of a window's side within which a box reaches its edge: 90 % of the boxes of objects that a
#: window of 640 pixels cut ended within 10 pixels of it.
_AT_EDGE = 0.015
#: The best candidates of one view that are kept, in multiples of ``max_detections``: memory is
#: bounded for any image.
_KEPT = 10
#: Boxes of one tile that overlap more show the same object, and so do parts in two tiles that
#: overlap more within both tiles.
_SAME = 0.5


@dataclass(frozen=True)
class Tiling:
    """Square tiles with ``side`` pixels of the image, which overlap by at least the share
    ``overlap`` of it. Raises ConfigError for numbers out of range."""

    side: int = 800
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if self.side < 32:
            raise ConfigError(f"tiles of {self.side} pixels: the least side is 32")
        if not 0 <= self.overlap <= 0.9:
            raise ConfigError(f"overlap {self.overlap} of tiles: it is a share from 0 to 0.9")

    def windows(self, size: tuple[int, int]) -> list[Window]:
        """The windows of an image of ``size`` (h, w), row by row: as few as cover it with the
        overlap, spread evenly; none where one would hold the whole image."""
        height, width = size
        if max(size) <= self.side:
            return []
        return [
            (left, top, min(left + self.side, width), min(top + self.side, height))
            for top in self._starts(height)
            for left in self._starts(width)
        ]

    def _starts(self, length: int) -> list[int]:
        if length <= self.side:
            return [0]
        step = max(1, self.side - math.ceil(self.side * self.overlap))
        steps = math.ceil((length - self.side) / step)
        return [index * (length - self.side) // steps for index in range(steps + 1)]


class TiledPipeline:
    """A `Pipeline` that looks at each image as a whole and in tiles.

    Views are predicted one after the other, so that memory grows with the image only by its
    pixels and by ``10 max_detections`` candidates for each view. ``max_detections`` counts for each
    view: an image in 12 tiles may have 13 times as many detections. An image that one tile would
    hold has the detections of the pipeline itself.
    """

    def __init__(self, pipeline: Pipeline, tiling: Tiling) -> None:
        suppress = pipeline.suppress
        if not isinstance(suppress, partial) or "max_detections" not in suppress.keywords:
            raise TypeError("tiles need a pipeline whose suppression is a partial of suppress()")
        self.pipeline = pipeline
        self.tiling = tiling
        self.suppress = suppress
        self.max_detections = int(suppress.keywords["max_detections"])

    def to(self, device: torch.device) -> nn.Module:
        return self.pipeline.to(device)

    def eval(self) -> nn.Module:
        return self.pipeline.eval()

    def modules(self) -> Iterator[nn.Module]:
        return self.pipeline.modules()

    def parameters(self) -> Iterator[nn.Parameter]:
        return self.pipeline.parameters()

    def sample(self, pixels: NDArray[np.uint8], image_id: str = "") -> Sample:
        return self.pipeline.sample(pixels, image_id)

    @torch.inference_mode()
    def detect(self, prepared: Sequence[Prepared]) -> list[Detections]:
        """The detections of images of any sizes, in their order, on the CPU. A batch holds as many
        tiles of an image as there are images."""
        whole = self._candidates(prepared)
        return [
            self._join(image, candidates, batch_size=len(prepared)).to("cpu")
            for image, candidates in zip(prepared, whole, strict=True)
        ]

    def _candidates(self, views: Sequence[Prepared]) -> list[Detections]:
        pipeline = self.pipeline
        return in_equal_batches(views, lambda batch: pipeline.candidates(batch.to(pipeline.device)))

    def _join(self, image: Prepared, whole: Detections, *, batch_size: int) -> Detections:
        """One suppression of the candidates of the image and of its tiles, without boxes of the
        image that a tile shows to be several objects, and without repeated parts of objects."""
        windows = self.tiling.windows(image.size)
        if not windows:
            return self.suppress(whole)
        side = self.tiling.side
        whole = self._best(whole)
        groups = torch.zeros(len(whole), dtype=torch.bool, device=whole.boxes.device)
        complete, cut = [], []
        for start in range(0, len(windows), batch_size):
            some = windows[start : start + batch_size]
            views = [_tile(self.pipeline, image, window) for window in some]
            for window, found in zip(some, self._candidates(views), strict=True):
                moved = _moved(self._best(found), window)
                ends = at_inner_edge(moved.boxes, window, image.size, side)
                complete.append(moved[~ends])
                cut.append(moved[ends])
                groups |= is_within(whole.boxes, window, image.size, side) & is_filled(
                    whole, moved[~ends]
                )
        every = Detections.cat([whole[~groups], *complete])
        parts = largest_parts([part[~is_covered(part, every)] for part in cut], windows)
        limit = self.max_detections * (1 + len(windows))
        return self.suppress(Detections.cat([every, parts]), max_detections=limit)

    def _best(self, found: Detections) -> Detections:
        count = min(len(found), _KEPT * self.max_detections)
        return found[found.scores.topk(count).indices] if count < len(found) else found


def _tile(pipeline: Pipeline, image: Prepared, window: Window) -> Prepared:
    left, top, right, bottom = window
    pixels = np.ascontiguousarray(image.loaded.pixels[top:bottom, left:right])
    return Prepared(LoadedImage(pixels, 1), pipeline.sample(pixels, image.sample.image_id))


def _moved(found: Detections, window: Window) -> Detections:
    """Detections in the pixels of a window as those in the pixels of its image."""
    left, top = window[:2]
    return replace(found, boxes=found.boxes + found.boxes.new_tensor([left, top, left, top]))


def at_inner_edge(boxes: Tensor, window: Window, size: tuple[int, int], side: int) -> Tensor:
    """Which boxes (D, 4) in the pixels of an image of ``size`` (h, w) end where their window does
    and the image does not, (D,) bool: their objects may go on."""
    (left, top, right, bottom), (height, width) = window, size
    near = _AT_EDGE * side
    x1, y1, x2, y2 = boxes.unbind(dim=1)
    ends = torch.zeros_like(x1, dtype=torch.bool)
    for inner, distance in (
        (left > 0, x1 - left),
        (top > 0, y1 - top),
        (right < width, right - x2),
        (bottom < height, bottom - y2),
    ):
        if inner:
            ends |= distance <= near
    return ends


def is_within(boxes: Tensor, window: Window, size: tuple[int, int], side: int) -> Tensor:
    """Which boxes (D, 4) in the pixels of an image of ``size`` (h, w) lie in the window without
    ending at an inner edge of it, (D,) bool."""
    bounds = boxes.new_tensor(window)
    inside = (boxes[:, :2] >= bounds[:2]).all(dim=1) & (boxes[:, 2:] <= bounds[2:]).all(dim=1)
    return inside & ~at_inner_edge(boxes, window, size, side)


def is_filled(found: Detections, shown: Detections) -> Tensor:
    """Which of D detections ``found`` have more than half of their area filled by detections of a
    tile, (D,) bool: of their class, with at least half their score, and for more than half of their
    own area in them. At the smaller scale of the image, groups of objects look like one."""
    shown = nms(shown, iou=_SAME)
    shared = box_ops.intersection(found.boxes, shown.boxes)
    fills = (found.labels[:, None] == shown.labels) & (shown.scores >= found.scores[:, None] / 2)
    fills &= shared > box_ops.area(shown.boxes) / 2
    return (shared * fills).sum(dim=1) > box_ops.area(found.boxes) / 2


def is_covered(parts: Detections, complete: Detections) -> Tensor:
    """Which of D ``parts`` lie for more than half of their area in one complete detection of their
    class with at least half their score, (D,) bool: it is the object that they are a part of.

    Weaker ones do not count: among the candidates before suppression are large boxes of any class
    with hardly a score.
    """
    found = torch.zeros(len(parts), dtype=torch.bool, device=parts.boxes.device)
    for label in parts.labels.unique():
        mine = (parts.labels == label).nonzero().flatten()
        corner, far = parts.boxes[mine, :2].amin(dim=0), parts.boxes[mine, 2:].amax(dim=0)
        near = (complete.boxes[:, :2] < far).all(dim=1) & (complete.boxes[:, 2:] > corner).all(
            dim=1
        )
        rivals = complete[near & (complete.labels == label)]
        boxes = parts.boxes[mine]
        share = box_ops.intersection(boxes, rivals.boxes) / box_ops.area(boxes)[:, None]
        strong = rivals.scores >= parts.scores[mine, None] / 2
        found[mine] = ((share > 0.5) & strong).any(dim=1)
    return found


def largest_parts(parts: Sequence[Detections], windows: Sequence[Window]) -> Detections:
    """The ``parts`` of objects that the tile of each window shows, the largest first, without those
    that repeat a larger one: it covers them (`is_covered`), and the two have the same box where
    their tiles overlap. So two parts in one tile are always of two objects."""
    parts = [nms(part, iou=_SAME) for part in parts]
    bounds = torch.cat(
        [
            part.boxes.new_tensor(window).expand(len(part), 4)
            for part, window in zip(parts, windows, strict=True)
        ]
    )
    every = Detections.cat(parts)
    order = box_ops.area(every.boxes).argsort(descending=True, stable=True)
    every, bounds = every[order], bounds[order]
    kept = torch.zeros(len(every), dtype=torch.bool, device=every.boxes.device)
    for index in range(len(every)):
        part, larger = every[index : index + 1], every[kept]
        seen_by_both = _common(bounds[index], bounds[kept])
        mine, theirs = _common(part.boxes, seen_by_both), _common(larger.boxes, seen_by_both)
        shared = box_ops.area(_common(mine, theirs))
        joined = box_ops.area(mine) + box_ops.area(theirs) - shared
        kept[index] = ~is_covered(part, larger[shared > _SAME * joined])[0]
    return every[kept]


def _common(first: Tensor, second: Tensor) -> Tensor:
    """The intersections of boxes (K, 4) or (4,) with those in the same row, (K, 4); without area
    where they are apart."""
    corner = torch.maximum(first[..., :2], second[..., :2])
    far = torch.minimum(first[..., 2:], second[..., 2:])
    return torch.cat([corner, torch.maximum(corner, far)], dim=-1)

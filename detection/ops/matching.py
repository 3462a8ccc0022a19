"""Matching of boxes with ground truth, and sampling of the boxes that a loss is computed on.

B boxes (anchors or proposals) · R ground-truth boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..structures import Annotation
from .boxes import area, covered, intersection, iou

POSITIVE, NEGATIVE, NEITHER = 1, 0, -1

#: Boxes with a larger share of their area in an ignored region are not used as background.
IGNORED_SHARE = 0.5

#: Ground-truth boxes compared with all boxes at a time: one array of 64 x 36,000 anchors takes
#: 9 MB, and the arithmetic holds about ten of them.
CHUNK = 64


@dataclass(frozen=True)
class Match:
    """``index`` (B,) the ground truth of largest IoU (0 where there is none); ``state`` (B,)."""

    index: Tensor
    state: Tensor


def match(
    boxes: Tensor,
    ground_truth: Tensor,
    *,
    positive_iou: float,
    negative_iou: float,
    negative_iou_low: float = 0.0,
    low_quality: bool = False,
    ignored: Tensor | None = None,
) -> Match:
    """Match (B, 4) boxes to (R, 4) ground truth.

    IoU >= positive_iou is positive, [negative_iou_low, negative_iou) negative, the rest neither; a
    box that touches no object is never positive.
    With ``low_quality`` every box that reaches an object's best IoU is positive as well (Faster
    R-CNN paper, section 3.1.2), but keeps the index of its own best object, as in detectron2.
    Negatives that lie mostly in one of the ``ignored`` regions (I, 4) are neither as well.
    """
    best, index = _best_ground_truth(boxes, ground_truth)
    state = torch.full_like(index, NEITHER)
    state[(best >= negative_iou_low) & (best < negative_iou)] = NEGATIVE
    state[(best >= positive_iou) & (best > 0)] = POSITIVE
    if low_quality:
        state[_is_best_of_an_object(boxes, ground_truth)] = POSITIVE
    if ignored is not None and len(ignored):
        hidden = covered(boxes, ignored) > IGNORED_SHARE
        state[hidden & (state == NEGATIVE)] = NEITHER
    return Match(index, state)


def _best_ground_truth(boxes: Tensor, ground_truth: Tensor) -> tuple[Tensor, Tensor]:
    best = boxes.new_zeros(len(boxes))
    index = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    for start in range(0, len(ground_truth), CHUNK):
        values, where = iou(ground_truth[start : start + CHUNK], boxes).max(dim=0)
        better = values > best
        best = torch.where(better, values, best)
        index = torch.where(better, where + start, index)
    return best, index


def _is_best_of_an_object(boxes: Tensor, ground_truth: Tensor) -> Tensor:
    chosen = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if len(boxes) == 0:
        return chosen
    for start in range(0, len(ground_truth), CHUNK):
        overlaps = iou(ground_truth[start : start + CHUNK], boxes)
        best = overlaps.amax(dim=1, keepdim=True)
        # An object that touches no box must not make every box positive.
        chosen |= ((overlaps == best) & (best > 0)).any(dim=0)
    return chosen


def match_images(
    boxes: Tensor,
    annotations: Sequence[Annotation],
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: bool = False,
) -> tuple[Match, Tensor]:
    """`match` of the same (B, 4) boxes with the objects of each of N images, in as many operations
    as for one: a `Match` of (N, B), whose indices count the objects of the image, and the boxes
    (N, R, 4) of all objects, zeros behind the last. Ignored objects hide negatives as in `match`.
    """
    truth = pad_sequence([each.boxes for each in annotations], batch_first=True)
    ignored = pad_sequence([each.ignore for each in annotations], batch_first=True)
    wanted = pad_sequence([~each.ignore for each in annotations], batch_first=True)
    best = boxes.new_zeros(len(truth), len(boxes))
    index = torch.zeros(best.shape, dtype=torch.int64, device=boxes.device)
    chosen, hidden = (torch.zeros_like(index, dtype=torch.bool) for _ in range(2))
    for start in range(0, truth.shape[1], CHUNK):
        part = slice(start, start + CHUNK)
        objects, shape = truth[:, part].flatten(0, 1), (len(truth), -1)
        overlaps = iou(objects, boxes).unflatten(0, shape)  # (N, CHUNK, B)
        overlaps = overlaps.masked_fill(~wanted[:, part, None], -1.0)
        values, where = overlaps.max(dim=1)
        better = values > best
        best = torch.where(better, values, best)
        index = torch.where(better, where + start, index)
        if low_quality and len(boxes):
            most = overlaps.amax(dim=2, keepdim=True)
            chosen |= ((overlaps == most) & (most > 0)).any(dim=1)
        shares = intersection(objects, boxes) / area(boxes).clamp(min=1e-6)
        shares = shares.unflatten(0, shape)
        hidden |= ((shares > IGNORED_SHARE) & ignored[:, part, None]).any(dim=1)
    state = torch.full_like(index, NEITHER)
    state[(best >= 0) & (best < negative_iou)] = NEGATIVE
    state[((best >= positive_iou) & (best > 0)) | chosen] = POSITIVE
    state[hidden & (state == NEGATIVE)] = NEITHER
    return Match(index, state), truth


def sample(
    state: Tensor, *, count: int, positive_fraction: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices of at most ``count`` boxes: positives up to the fraction, negatives fill the rest."""
    positives = torch.nonzero(state == POSITIVE).flatten()
    negatives = torch.nonzero(state == NEGATIVE).flatten()
    wanted = min(len(positives), int(count * positive_fraction))
    positives = _choose(positives, wanted, generator)
    negatives = _choose(negatives, count - wanted, generator)
    return positives, negatives


def _choose(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(indices) <= count:
        return indices
    order = torch.randperm(len(indices), generator=generator, device=generator.device)
    return indices[order[:count].to(indices.device)]


def sample_images_evenly(
    state: Tensor, *, count: int, generators: Sequence[torch.Generator]
) -> list[tuple[Tensor, Tensor]]:
    """Indices of ``count`` boxes for each row of ``state`` (N, B), positives and negatives, half of
    each kind; a kind with too few is drawn from repeatedly. Each row has its own generator.

    A kind without any box gives none, and the other still half of ``count``.
    """
    kinds = [state == kind for kind in (POSITIVE, NEGATIVE)]
    counts = torch.stack([kind.sum(dim=1) for kind in kinds]).tolist()
    found = [torch.nonzero(kind)[:, 1] for kind in kinds]
    split = zip(
        *(every.split(each) for every, each in zip(found, counts, strict=True)), strict=True
    )
    return [
        (
            _choose_repeatedly(positives, count // 2, generator),
            _choose_repeatedly(negatives, count // 2, generator),
        )
        for (positives, negatives), generator in zip(split, generators, strict=True)
    ]


def _choose_repeatedly(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    if len(indices) == 0:
        return indices
    order = torch.randperm(len(indices), generator=generator, device=generator.device)
    turns = torch.arange(count, device=indices.device) % len(indices)
    return indices[order.to(indices.device)[turns]]


@dataclass(frozen=True)
class Sampler:
    """`match` with its thresholds, then ``sample``: `sample` with its counts."""

    positive_iou: float
    negative_iou: float
    sample: Callable[..., tuple[Tensor, Tensor]]
    negative_iou_low: float = 0.0
    low_quality: bool = False

    def __call__(
        self, boxes: Tensor, annotation: Annotation, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Annotation]:
        """The positives and negatives among (B, 4) boxes, as indices, and each positive's object.

        Ignored objects are never matched; they hide the negatives inside them.
        """
        objects = annotation[~annotation.ignore]
        found = match(
            boxes,
            objects.boxes,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            negative_iou_low=self.negative_iou_low,
            low_quality=self.low_quality,
            ignored=annotation.boxes[annotation.ignore],
        )
        positives, negatives = self.sample(found.state, generator=generator)
        matched = objects[found.index[positives]] if len(objects) else objects
        return positives, negatives, matched

"""Scorers: region proposals and region scores of one network, an image pyramid or an ensemble.

N images · P regions · K classes, background is class K · V region features.

Boxes are in the pixels of the test-time view (scale and orientation) that they are proposed on, the
base view. A `NetworkScorer` may score regions on other scales of the same images; `EnsembleScorer`
joins several networks. Refinement and suppression use the interface `Scorer` only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..models.faster_rcnn import FasterRCNN, Scored
from ..structures import Batch, Geometry


class Scorer(Protocol):
    """One pass over N images, ``geometries`` being those of the base view."""

    geometries: Sequence[Geometry]

    def propose(self) -> list[Tensor]:
        """N x (P, 4), best first."""

    def score(self, regions: Sequence[Tensor]) -> Scored:
        """Probabilities and clipped boxes of N x (P, 4) regions."""


@dataclass(frozen=True)
class FeatureMap:
    """The trunk's output for one view of N images."""

    features: Tensor
    sizes: Sequence[tuple[int, int]]
    geometries: Sequence[Geometry]

    @staticmethod
    def of(model: FasterRCNN, batch: Batch) -> FeatureMap:
        features = model.extract(batch.images, batch.sizes)
        return FeatureMap(features, batch.sizes, batch.geometries)


class NetworkScorer:
    """One network: it proposes on ``base`` and scores regions there or on ``pyramid``."""

    def __init__(
        self,
        model: FasterRCNN,
        base: FeatureMap,
        pyramid: Sequence[FeatureMap] = (),
        *,
        region_side: float = 224.0,
    ) -> None:
        self.model = model
        self.base = base
        self.pyramid = pyramid
        self.region_side = region_side
        self.geometries = base.geometries

    def propose(self) -> list[Tensor]:
        return self.model.propose(self.base.features, self.base.sizes)

    def score(self, regions: Sequence[Tensor]) -> Scored:
        if not self.pyramid:
            return self.model.score(self.base.features, regions, self.base.sizes)
        return self.model.score_features(self._roi_features(regions), regions, self.base.sizes)

    def _roi_features(self, regions: Sequence[Tensor]) -> Tensor:
        """(P, V), the maximum over the two adjacent scales (maxout): conv5_x runs on both."""
        lower = torch.cat(
            [
                adjacent_scales(boxes, levels, base, self.region_side)
                for boxes, base, *levels in zip(
                    regions, self.geometries, *(m.geometries for m in self.pyramid), strict=True
                )
            ]
        )
        counts = [len(boxes) for boxes in regions]
        joined: Tensor | None = None
        for number, level in enumerate(self.pyramid):
            used = (lower == number) | (lower == number - 1)
            chosen = [boxes[use] for boxes, use in zip(regions, used.split(counts), strict=True)]
            moved = reframe_each(chosen, self.geometries, level.geometries)
            features = self.model.roi_head.roi_features(level.features, moved, level.sizes)
            if joined is None:
                joined = features.new_full((sum(counts), features.shape[1]), -torch.inf)
            joined[used] = torch.maximum(joined[used], features)
        assert joined is not None  # noqa: S101  a pyramid has a level
        return joined


def adjacent_scales(
    boxes: Tensor, levels: Sequence[Geometry], base: Geometry, region_side: float
) -> Tensor:
    """For each of (P, 4) boxes the lower of the two adjacent levels that suit it best, (P,).

    Those on which its size, sqrt(w h), is nearest to ``region_side`` pixels: the pair around that
    size, or the two at the end. ``levels`` rise in scale; a single level has no pair and gives 0.

    Source: NoC (arXiv:1504.06066) takes two adjacent scales; 224 pixels are SPP-net's.
    """
    if len(levels) == 1:
        return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3).prod(dim=1).sqrt()
    ratios = torch.tensor([_side_ratio(base, level) for level in levels], device=boxes.device)
    distance = (sides[:, None] * ratios / region_side).log().abs()
    return (distance[:, :-1] + distance[:, 1:]).argmin(dim=1)


def _side_ratio(base: Geometry, level: Geometry) -> float:
    """The ratio of a box's sqrt(w h) on the level to that on the base view."""
    (base_y, base_x), (level_y, level_x) = base.scale, level.scale
    return float((level_y * level_x / (base_y * base_x)) ** 0.5)


def reframe(boxes: Tensor, source: Geometry, target: Geometry) -> Tensor:
    """Boxes (..., 4) in the pixels of one view of an image to those of another."""
    if source == target:
        return boxes
    return target.apply(source.invert(boxes))


def reframe_each(
    boxes: Sequence[Tensor], sources: Sequence[Geometry], targets: Sequence[Geometry]
) -> list[Tensor]:
    """`reframe` for each of N images."""
    return [reframe(*image) for image in zip(boxes, sources, targets, strict=True)]


class EnsembleScorer:
    """Several networks on the same images (ensemble, ResNet paper, appendix B).

    The regions are the union of all their proposals; each network scores all of them, and class
    probabilities and boxes are averaged. Boxes are in the pixels of the first one's base view.
    """

    def __init__(self, members: Sequence[Scorer]) -> None:
        self.members = members
        self.geometries = members[0].geometries

    def propose(self) -> list[Tensor]:
        proposals = [
            reframe_each(member.propose(), member.geometries, self.geometries)
            for member in self.members
        ]
        return [torch.cat(parts) for parts in zip(*proposals, strict=True)]

    def score(self, regions: Sequence[Tensor]) -> Scored:
        probs, boxes = [], []
        for member in self.members:
            moved = reframe_each(regions, self.geometries, member.geometries)
            member_probs, member_boxes = member.score(moved)
            probs.append(member_probs)
            boxes.append(reframe_each(member_boxes, member.geometries, self.geometries))
        return _mean(probs), _mean(boxes)


def _mean(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(same).mean(dim=0) for same in zip(*parts, strict=True)]


def score_refined(scorer: Scorer, regions: Sequence[Tensor], *, rounds: int) -> Scored:
    """Predictions of the regions and of each round, joined: N x ((rounds + 1) P, ...).

    A regressed box differs from its proposal: it is pooled again and gets a new score and a new
    box. The old predictions are kept (300 + 300 in the paper).
    """
    results = [scorer.score(regions)]
    for _ in range(rounds):
        results.append(scorer.score(list(map(regressed, *results[-1]))))
    probs, boxes = zip(*results, strict=True)
    return _join(probs), _join(boxes)


def _join(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    return [torch.cat(same) for same in zip(*parts, strict=True)]


def regressed(probs: Tensor, boxes: Tensor) -> Tensor:
    """(P, 4): the box of each region's most likely class other than background.

    The paper does not say which of the K class-specific boxes is pooled again; this keeps the
    number of regions.
    """
    best = probs[:, :-1].argmax(dim=1)
    return boxes[torch.arange(len(boxes), device=boxes.device), best]

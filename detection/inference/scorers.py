"""One network looking at one form of some images: where it proposes, and how it scores regions.

N images · P regions · K classes, background is class K · V numbers describe a region.

Boxes are in the pixels of the form they are proposed on, `home`. A `Sight` may score regions on
other sizes of the same images; `Joint` makes one of several networks' sights. What comes after,
refinement and suppression, cannot tell one from the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..models.faster_rcnn import FasterRCNN
from ..structures import Batch, Geometry

#: Class probabilities N x (P, K + 1) and boxes N x (P, K, 4).
Scored = tuple[list[Tensor], list[Tensor]]


class Scorer(Protocol):
    """What refinement and suppression need to know of networks and images."""

    geometries: Sequence[Geometry]

    def propose(self) -> list[Tensor]:
        """N x (P, 4), best first."""

    def score(self, regions: Sequence[Tensor]) -> Scored:
        """Probabilities and clipped boxes of N x (P, 4) regions."""


@dataclass(frozen=True)
class FeatureMap:
    """What a network's trunk made of one form of N images."""

    features: Tensor
    sizes: Sequence[tuple[int, int]]
    geometries: Sequence[Geometry]

    @staticmethod
    def of(model: FasterRCNN, batch: Batch) -> FeatureMap:
        features = model.extract(batch.images, batch.sizes)
        return FeatureMap(features, batch.sizes, batch.geometries)


class Sight:
    """A network with the map it proposes on; regions are scored there or on ``pyramid``."""

    def __init__(
        self,
        model: FasterRCNN,
        home: FeatureMap,
        pyramid: Sequence[FeatureMap] = (),
        *,
        region_side: float = 224.0,
    ) -> None:
        self.model = model
        self.home = home
        self.pyramid = pyramid
        self.region_side = region_side
        self.geometries = home.geometries

    def propose(self) -> list[Tensor]:
        return self.model.propose(self.home.features, self.home.sizes)

    def score(self, regions: Sequence[Tensor]) -> Scored:
        if not self.pyramid:
            return self.model.score(self.home.features, regions, self.home.sizes)
        return self.model.judge(self._describe(regions), regions, self.home.sizes)

    def _describe(self, regions: Sequence[Tensor]) -> Tensor:
        """(P, V), the larger of each number on the two scales (maxout): conv5_x runs on both."""
        lower = torch.cat(
            [
                adjacent_scales(boxes, levels, home, self.region_side)
                for boxes, home, *levels in zip(
                    regions, self.geometries, *(m.geometries for m in self.pyramid), strict=True
                )
            ]
        )
        counts = [len(boxes) for boxes in regions]
        vectors: Tensor | None = None
        for level, there in enumerate(self.pyramid):
            used = (lower == level) | (lower == level - 1)
            moved = [
                reframe(boxes[use], home, target)
                for boxes, use, home, target in zip(
                    regions, used.split(counts), self.geometries, there.geometries, strict=True
                )
            ]
            seen = self.model.roi_head.describe(there.features, moved, there.sizes)
            if vectors is None:
                vectors = seen.new_full((sum(counts), seen.shape[1]), -torch.inf)
            vectors[used] = torch.maximum(vectors[used], seen)
        assert vectors is not None  # noqa: S101  a pyramid has a level
        return vectors


def adjacent_scales(
    boxes: Tensor, levels: Sequence[Geometry], home: Geometry, region_side: float
) -> Tensor:
    """For each of (P, 4) boxes the lower of the two adjacent levels that suit it best, (P,).

    Those on which its size, sqrt(w h), is nearest to ``region_side`` pixels: the pair around that
    size, or the two at the end. ``levels`` rise in scale; a single level has no pair and gives 0.

    Source: NoC (arXiv:1504.06066) takes two adjacent scales; 224 pixels are SPP-net's.
    """
    if len(levels) == 1:
        return torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-3).prod(dim=1).sqrt()
    ratios = torch.tensor([_side_ratio(home, level) for level in levels], device=boxes.device)
    distance = (sides[:, None] * ratios / region_side).log().abs()
    return (distance[:, :-1] + distance[:, 1:]).argmin(dim=1)


def _side_ratio(home: Geometry, other: Geometry) -> float:
    """How much longer a box's sqrt(w h) is there than at home."""
    (home_y, home_x), (other_y, other_x) = home.scale, other.scale
    return float((other_y * other_x / (home_y * home_x)) ** 0.5)


def reframe(boxes: Tensor, source: Geometry, target: Geometry) -> Tensor:
    """Boxes (..., 4) in the pixels of one form of an image to those of another."""
    if source == target:
        return boxes
    return target.apply(source.invert(boxes))


class Joint:
    """Several networks on the same images (ensemble, ResNet paper, appendix B).

    The regions are the union of all their proposals; each network scores all of them, and class
    probabilities and boxes are averaged. Everything is in the pixels of the first one's home.
    """

    def __init__(self, members: Sequence[Scorer]) -> None:
        self.members = members
        self.geometries = members[0].geometries

    def propose(self) -> list[Tensor]:
        proposals = [
            self._each(member.propose(), member.geometries, self.geometries)
            for member in self.members
        ]
        return [torch.cat(parts) for parts in zip(*proposals, strict=True)]

    def score(self, regions: Sequence[Tensor]) -> Scored:
        probs, boxes = [], []
        for member in self.members:
            moved = self._each(regions, self.geometries, member.geometries)
            own_probs, own_boxes = member.score(moved)
            probs.append(own_probs)
            boxes.append(self._each(own_boxes, member.geometries, self.geometries))
        return _mean(probs), _mean(boxes)

    @staticmethod
    def _each(
        boxes: Sequence[Tensor], source: Sequence[Geometry], target: Sequence[Geometry]
    ) -> list[Tensor]:
        return [reframe(*both) for both in zip(boxes, source, target, strict=True)]


def _mean(parts: Sequence[list[Tensor]]) -> list[Tensor]:
    return [torch.stack(same).mean(dim=0) for same in zip(*parts, strict=True)]


def score_refined(scorer: Scorer, regions: Sequence[Tensor], *, rounds: int) -> Scored:
    """Predictions of the regions and of each round, joined: N x ((rounds + 1) P, ...).

    A regressed box is another region than its proposal, with features of its own: it is pooled
    again, and gets a new score and a new box. The old predictions stay (300 + 300 in the paper).
    """
    probs, boxes = scorer.score(regions)
    joined = [([p], [b]) for p, b in zip(probs, boxes, strict=True)]
    for _ in range(rounds):
        regions = [regressed(p, b) for p, b in zip(probs, boxes, strict=True)]
        probs, boxes = scorer.score(regions)
        for (all_probs, all_boxes), p, b in zip(joined, probs, boxes, strict=True):
            all_probs.append(p)
            all_boxes.append(b)
    return [torch.cat(p) for p, _ in joined], [torch.cat(b) for _, b in joined]


def regressed(probs: Tensor, boxes: Tensor) -> Tensor:
    """(P, 4): the box of each region's likeliest class, the background left aside.

    The paper does not say which of the K class-specific boxes is pooled again; one region stays
    one region this way.
    """
    best = probs[:, :-1].argmax(dim=1)
    return boxes[torch.arange(len(boxes), device=boxes.device), best]

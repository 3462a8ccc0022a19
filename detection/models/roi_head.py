"""The region head: network, decoding, targets and loss (Fast R-CNN on C4 features).

N images · P regions · R ground-truth boxes · K classes, background is class K · C channels.
conv5_x runs per region and ends in two sibling layers (ResNet paper, appendix A).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.base import RunsOnMap
from ..ops import boxes as box_ops
from ..ops.matching import Sampler
from ..structures import Annotation

Weights = tuple[float, float, float, float]

#: ``pool(features, boxes, step=...)``: crops of the regions, every step-th bin.
RegionPool = Callable[..., Tensor]


class RoIHead(nn.Module):
    """RoI pooling, conv5_x and the two sibling layers.

    With ``linear_pool``, for pooling that is a weighted sum (RoIAlign), conv5_1 runs on the feature
    map where that has fewer cells than the crops, if the block is a `RunsOnMap`, which chooses the
    order of convolution and pooling by device; `plain` is the same function in the paper's order.

    ``context`` appends to each region's features those of the whole image, pooled as one more
    region (global context, ResNet paper, appendix B).
    """

    def __init__(
        self,
        tail: nn.Sequential,
        *,
        channels: int,
        classes: int,
        pool: RegionPool,
        pool_size: int,
        linear_pool: bool,
        class_agnostic: bool = False,
        context: bool = False,
    ) -> None:
        super().__init__()
        self.res5 = tail
        self.pool = pool
        self.pool_size = pool_size
        self.linear_pool = linear_pool
        self.classes = classes
        self.context = context
        channels *= 2 if context else 1
        self.cls_logits = nn.Linear(channels, classes + 1)
        self.box_deltas = nn.Linear(channels, 4 if class_agnostic else 4 * classes)
        nn.init.normal_(self.cls_logits.weight, std=0.01)
        nn.init.normal_(self.box_deltas.weight, std=0.001)
        nn.init.zeros_(self.cls_logits.bias)
        nn.init.zeros_(self.box_deltas.bias)

    def forward(
        self, features: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) and N x (P_i, 4) to logits (P, K + 1) and deltas (P, K or 1, 4).

        ``sizes`` are the images' (h, w) in network pixels.
        """
        return self.classify(self.roi_features(features, boxes, sizes))

    def roi_features(
        self, features: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        """The input of the sibling layers: one row per region, (P, V)."""
        if not self.context:
            return self._own_features(features, boxes)
        whole = [features.new_tensor([[0, 0, w, h]], dtype=torch.float32) for h, w in sizes]
        joined = [torch.cat(pair) for pair in zip(whole, boxes, strict=True)]
        parts = self._own_features(features, joined).split([len(regions) for regions in joined])
        return torch.cat([torch.cat([f[1:], f[:1].expand(len(f) - 1, -1)], 1) for f in parts])

    def classify(self, roi_features: Tensor) -> tuple[Tensor, Tensor]:
        """(P, V) to logits (P, K + 1) and deltas (P, K or 1, 4), float32."""
        deltas = self.box_deltas(roi_features)
        return self.cls_logits(roi_features).float(), deltas.float().unflatten(1, (-1, 4))

    def _own_features(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """(P, C5), by the order of operations that is less work."""
        if not any(len(regions) for regions in boxes):
            # One region runs and is dropped, so that every process has a gradient of every weight.
            dummy = features.new_zeros(1, 4, dtype=torch.float32)
            return self.plain(features[:1], [dummy])[:0]
        if self.linear_pool and self._map_is_smaller(features, boxes):
            return self.on_map(features, boxes)
        return self.plain(features, boxes)

    def plain(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """Pool, then conv5_x on every crop: (P, C5)."""
        return self.res5(self.pool(features, boxes)).mean(dim=(2, 3))

    def on_map(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """The same features with conv5_1 on the map itself: (P, C5)."""
        first = self.res5[0]
        assert isinstance(first, RunsOnMap)  # noqa: S101  narrows types
        crops = first.forward_on_map(features, lambda maps, step: self.pool(maps, boxes, step=step))
        return self.res5[1:](crops).mean(dim=(2, 3))

    def _map_is_smaller(self, features: Tensor, boxes: Sequence[Tensor]) -> bool:
        first = self.res5[0]
        if not isinstance(first, RunsOnMap):
            return False
        cells = features.shape[0] * features.shape[2] * features.shape[3]
        bins = (self.pool_size // first.stride) ** 2
        return cells < sum(len(regions) for regions in boxes) * bins


def decode_regions(
    logits: Tensor,
    deltas: Tensor,
    proposals: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    *,
    weights: Weights,
) -> tuple[list[Tensor], list[Tensor]]:
    """Class probabilities N x (P_i, K + 1) and clipped boxes N x (P_i, K, 4), network pixels."""
    counts = [len(regions) for regions in proposals]
    boxes = box_ops.decode(deltas, torch.cat(list(proposals)), weights)
    parts = boxes.expand(-1, logits.shape[1] - 1, 4).split(counts)
    clipped = [box_ops.clip(part, size) for part, size in zip(parts, sizes, strict=True)]
    return list(logits.softmax(dim=1).split(counts)), clipped


@dataclass(frozen=True)
class RoiTargets:
    """The regions one image's loss is computed on: ``boxes`` (P, 4), ``labels`` (P,), K for
    background; ``deltas`` (F, 4) belong to the F positives, which come first."""

    boxes: Tensor
    labels: Tensor
    deltas: Tensor


def roi_targets(
    proposals: Tensor,
    annotation: Annotation,
    *,
    classes: int,
    sampler: Sampler,
    append_ground_truth: bool,
    weights: Weights,
    generator: torch.Generator,
) -> RoiTargets:
    """Match (P, 4) proposals to one image's objects and sample them."""
    if append_ground_truth:
        proposals = torch.cat([proposals, annotation.boxes[~annotation.ignore]])
    positives, negatives, matched = sampler(proposals, annotation, generator)
    boxes = proposals[torch.cat([positives, negatives])]
    labels = torch.cat([matched.labels, torch.full_like(negatives, classes)])
    return RoiTargets(boxes, labels, box_ops.encode(matched.boxes, proposals[positives], weights))


def roi_loss(
    logits: Tensor,
    deltas: Tensor,
    targets: Sequence[RoiTargets],
    *,
    normalizer: Tensor | float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Class and box loss: sums over the sampled regions of N images over ``normalizer``.

    Both are divided by the number of all regions, positive or not, as in every reference system;
    dividing the box loss by the positives alone would give it up to four times the weight.
    """
    labels = torch.cat([target.labels for target in targets])
    classes = logits.shape[1] - 1
    positive = torch.nonzero(labels < classes).flatten()
    column = labels[positive] if deltas.shape[1] > 1 else torch.zeros_like(positive)
    wanted = torch.cat([target.deltas for target in targets])
    class_loss = F.cross_entropy(logits, labels, reduction="sum")
    box_loss = F.smooth_l1_loss(deltas[positive, column], wanted, beta=beta, reduction="sum")
    return class_loss / normalizer, box_loss / normalizer

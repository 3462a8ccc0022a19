"""Region proposals: network, selection, targets, loss (Faster R-CNN paper, section 3).

N images · C channels · A anchors per cell · B = h * w * A anchors per image · R ground-truth boxes.
Each stage is a function of its arguments; none knows the training mode or the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.winograd import Convolution
from ..ops import boxes as box_ops
from ..ops.matching import Sampler
from ..ops.nms import greedy_nms
from ..structures import Annotation

#: The RPN does not rescale the deltas, in every reference system.
WEIGHTS = (1.0, 1.0, 1.0, 1.0)


class RPNHead(nn.Module):
    """A 3x3 convolution and two sibling 1x1 convolutions, sigmoid objectness."""

    def __init__(self, inputs: int, channels: int, anchors: int) -> None:
        super().__init__()
        self.conv = Convolution(inputs, channels, 3, padding=1)
        self.logits = nn.Conv2d(channels, anchors, 1)
        self.deltas = nn.Conv2d(channels, 4 * anchors, 1)
        for layer in (self.conv, self.logits, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            if layer.bias is not None:  # for the type checker: Conv2d allows it
                nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) to logits (N, B) and deltas (N, B, 4) in the order of `grid_anchors`."""
        hidden = F.relu(self.conv(features), inplace=True)
        logits = self.logits(hidden).permute(0, 2, 3, 1).flatten(1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).flatten(1).unflatten(1, (-1, 4))
        return logits.float(), deltas.float()


def select_proposals(
    logits: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    sizes: Sequence[tuple[int, int]],
    *,
    pre_nms: int,
    post_nms: int,
    nms_iou: float,
    min_size: float,
) -> tuple[list[Tensor], list[Tensor]]:
    """Each image's best proposals, N x (P, 4), and their logits, sorted by score.

    Top ``pre_nms`` by logit, decode, clip, drop what has a side of at most ``min_size`` px, NMS,
    top ``post_nms``; all per image: selection over the whole batch costs AP. Anchors in the padding
    take part, as in detectron2; their proposals are clipped to the image.
    """
    proposals, scores = [], []
    for image_logits, image_deltas, size in zip(
        logits.detach(), deltas.detach(), sizes, strict=True
    ):
        best, index = image_logits.topk(min(pre_nms, len(image_logits)))
        boxes = box_ops.clip(box_ops.decode(image_deltas[index], anchors[index], WEIGHTS), size)
        keep = (boxes[:, 2:] - boxes[:, :2] > min_size).all(dim=1) & best.isfinite()
        boxes, best = boxes[keep], best[keep]
        keep = greedy_nms(boxes, best, iou=nms_iou)[:post_nms]
        proposals.append(boxes[keep])
        scores.append(best[keep])
    return proposals, scores


@dataclass(frozen=True)
class RpnTargets:
    """The anchors one image's loss is computed on, as indices into its B anchors.

    ``deltas`` (len(positives), 4) belong to the positives.
    """

    positives: Tensor
    negatives: Tensor
    deltas: Tensor


def rpn_targets(
    anchors: Tensor,
    annotation: Annotation,
    size: tuple[int, int],
    *,
    sampler: Sampler,
    drop_border: bool,
    generator: torch.Generator,
) -> RpnTargets:
    """Match B anchors to one image's objects and sample them.

    With ``drop_border`` anchors that cross the border of the image are left out.
    """
    allowed = _inside(anchors, size) if drop_border else torch.ones_like(anchors[:, 0]).bool()
    candidates = torch.nonzero(allowed).flatten()
    positives, negatives, matched = sampler(anchors[candidates], annotation, generator)
    positives, negatives = candidates[positives], candidates[negatives]
    deltas = box_ops.encode(matched.boxes, anchors[positives], WEIGHTS)
    return RpnTargets(positives, negatives, deltas)


def _inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    low = (anchors[:, :2] >= 0).all(dim=1)
    return low & (anchors[:, 2] <= width) & (anchors[:, 3] <= height)


def rpn_loss(
    logits: Tensor,
    deltas: Tensor,
    targets: Sequence[RpnTargets],
    *,
    normalizer: Tensor | float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Objectness and box loss: sums over the sampled anchors of N images over ``normalizer``."""
    objectness = logits.new_zeros(())
    boxes = logits.new_zeros(())
    for image_logits, image_deltas, target in zip(logits, deltas, targets, strict=True):
        positive, negative = image_logits[target.positives], image_logits[target.negatives]
        objectness = objectness + F.softplus(-positive).sum() + F.softplus(negative).sum()
        boxes = boxes + F.smooth_l1_loss(
            image_deltas[target.positives], target.deltas, beta=beta, reduction="sum"
        )
    return objectness / normalizer, boxes / normalizer

"""Where is the object of a known class? The paper's per-class RPN, and its R-CNN (appendix C).

N images · S samples · L labels asked for · A anchors per cell · B = h * w * A anchors per image ·
K classes · C channels. Images are (N, 3, H, W) uint8 RGB crops without padding.

The paper leaves three things open; what is chosen here, and what else can be had:

- "1000-d cls" and "1000x4-d reg" beside "multiple anchors at each position": every anchor has
  outputs of its own, as in Faster R-CNN (``shared=True``: one set for all anchors of a position);
- which of an anchor's 1000 logits get a loss: that of the image's class, as boxes are asked for
  by class (``every_class=True``: all of them, the other classes being negative everywhere);
- the anchors' sizes, and the scales of dense testing: `config/localizer.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.pixels import PixelNorm
from ..ops import boxes as box_ops
from ..ops.anchors import AnchorGrid
from ..ops.matching import NEGATIVE, POSITIVE, match
from ..structures import Annotation, Batch
from .class_head import ClassHead
from .faster_rcnn import expect_finite
from .rpn import WEIGHTS as ANCHOR_WEIGHTS
from .rpn import RpnTargets

LOSSES = ("loss_cls", "loss_box")
#: As a detector's second stage rescales its deltas.
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


class Localizer(nn.Module):
    """Stage one: a trunk, and for each class a logit and a box at every anchor of its map."""

    def __init__(
        self,
        *,
        pixels: PixelNorm,
        trunk: nn.Module,
        head: ClassHead,
        anchors: AnchorGrid,
        targets: Callable[..., RpnTargets],
        per_image: int,
        every_class: bool,
        smooth_l1_beta: float,
        box_loss_weight: float,
    ) -> None:
        super().__init__()
        self.pixels, self.trunk, self.head, self.anchors = pixels, trunk, head, anchors
        self.targets = targets
        self.per_image = per_image
        self.every_class = every_class
        self.beta, self.box_weight = smooth_l1_beta, box_loss_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of `LOSSES`: sums over the sampled anchors, over ``per_image`` times N.

        Anchors are drawn per image from ``batch.seeds``, so that neither the other images nor the
        process it is on changes them.
        """
        features = self.trunk(self.pixels.normalise(batch.images))
        anchors, per_cell = self.anchors(features), len(self.anchors.cells)
        found = [
            self.targets(anchors, annotation, generator=_generator(seed, features.device))
            for annotation, seed in zip(batch.annotations, batch.seeds, strict=True)
        ]
        chosen = [torch.cat([target.positives, target.negatives]) for target in found]
        rows = [
            image_map.flatten(1).t()[indices // per_cell]
            for image_map, indices in zip(features, chosen, strict=True)
        ]
        positive = [_marks(target) for target in found]
        labels = [label.expand(len(i)) for label, i in zip(batch.labels, chosen, strict=True)]
        sums = head_losses(
            self.head,
            torch.cat(rows),
            torch.cat(chosen) % per_cell,
            torch.cat(labels),
            torch.cat(positive),
            torch.cat([target.deltas for target in found]),
            every_class=self.every_class,
            beta=self.beta,
        )
        count = self.per_image * len(batch)
        return {"loss_cls": sums[0] / count, "loss_box": sums[1] / count * self.box_weight}

    def look(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (L, B) and clipped boxes (L, B, 4), image pixels, of ``labels`` in one image."""
        features = self.trunk(self.pixels.normalise(images))
        logits, deltas = self.head(features[0].flatten(1).t(), labels)
        expect_finite(logits, deltas)
        anchors = self.anchors(features)
        boxes = box_ops.decode(deltas.transpose(0, 1), anchors, ANCHOR_WEIGHTS).transpose(0, 1)
        return logits.sigmoid(), box_ops.clip(boxes, (images.shape[2], images.shape[3]))


class RegionLocalizer(nn.Module):
    """Stage two: a region warped to a square, and for each class a logit and a better box.

    The region itself lies ``padding`` pixels inside its square, among its surroundings: `region` is
    the one anchor that the deltas belong to.
    """

    region: Tensor

    def __init__(
        self,
        *,
        pixels: PixelNorm,
        trunk: nn.Module,
        head: ClassHead,
        size: int,
        padding: int,
        positive_iou: float,
        every_class: bool,
        smooth_l1_beta: float,
        box_loss_weight: float,
    ) -> None:
        super().__init__()
        self.pixels, self.trunk, self.head = pixels, trunk, head
        corner = float(size - padding)
        square = torch.tensor([[padding, padding, corner, corner]], dtype=torch.float32)
        self.register_buffer("region", square, persistent=False)
        self.positive_iou = positive_iou
        self.every_class = every_class
        self.beta, self.box_weight = smooth_l1_beta, box_loss_weight

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of `LOSSES`: means over the regions, one an image."""
        vectors = self._vectors(batch.images)
        known = [annotation.boxes[~annotation.ignore] for annotation in batch.annotations]
        matches = [
            match(
                self.region, boxes, positive_iou=self.positive_iou, negative_iou=self.positive_iou
            )
            for boxes in known
        ]
        positive = torch.cat([found.state == POSITIVE for found in matches])
        objects = [
            boxes[found.index]
            for boxes, found in zip(known, matches, strict=True)
            if bool(found.state == POSITIVE)
        ]
        goals = torch.cat([self.region.new_zeros(0, 4), *objects])
        sums = head_losses(
            self.head,
            vectors,
            torch.zeros_like(batch.labels),
            batch.labels,
            positive,
            box_ops.encode(goals, self.region.expand(len(goals), 4), REGION_WEIGHTS),
            every_class=self.every_class,
            beta=self.beta,
        )
        losses = (sums[0] / len(batch), sums[1] / len(batch) * self.box_weight)
        return dict(zip(LOSSES, losses, strict=True))

    def judge(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P,) and boxes (P, 4), image pixels, of (P, 3, s, s) warped regions whose classes
        are ``labels`` (P,)."""
        vectors = self._vectors(images)
        first = torch.zeros_like(labels)
        logits = self.head.logits_at(vectors, first, labels)
        deltas = self.head.deltas_at(vectors, first, labels)
        expect_finite(logits, deltas)
        boxes = box_ops.decode(deltas, self.region.expand(len(labels), 4), REGION_WEIGHTS)
        return logits.sigmoid(), boxes

    def _vectors(self, images: Tensor) -> Tensor:
        return self.trunk(self.pixels.normalise(images)).mean(dim=(2, 3))


def anchor_targets(
    anchors: Tensor,
    annotation: Annotation,
    *,
    positive_iou: float,
    negative_iou: float,
    low_quality: bool,
    count: int,
    generator: torch.Generator,
) -> RpnTargets:
    """Match B anchors to one crop's objects and draw ``count`` of them, half of each kind.

    Where one kind has too few, its anchors are drawn more than once: the ratio is 1:1 ("to avoid
    negative samples being dominate"), and a large object in a crop has few anchors on either side.
    A crop without an object gives negatives only, and half as many.
    """
    objects = annotation.boxes[~annotation.ignore]
    found = match(
        anchors,
        objects,
        positive_iou=positive_iou,
        negative_iou=negative_iou,
        low_quality=low_quality,
        ignored=annotation.boxes[annotation.ignore],
    )
    positives, negatives = (
        _drawn(torch.nonzero(found.state == kind).flatten(), count // 2, generator)
        for kind in (POSITIVE, NEGATIVE)
    )
    matched = objects[found.index[positives]] if len(objects) else objects
    deltas = box_ops.encode(matched, anchors[positives], ANCHOR_WEIGHTS)
    return RpnTargets(positives, negatives, deltas)


def head_losses(
    head: ClassHead,
    rows: Tensor,
    anchors: Tensor,
    labels: Tensor,
    positive: Tensor,
    deltas: Tensor,
    *,
    every_class: bool,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """Sums of the logistic and of the smooth-L1 loss over S samples.

    ``rows`` (S, C) are their features, ``anchors`` (S,) those of their cell, ``labels`` (S,) their
    images' classes, ``positive`` (S,) whether they show an object of it; ``deltas`` (S', 4) are
    the goals of the positives, in their order. With ``every_class`` a sample's loss is the sum over
    all K logits.
    """
    if every_class:
        logits = head.all_logits_at(rows, anchors)
        wanted = torch.zeros_like(logits)
        wanted[positive, labels[positive]] = 1.0
    else:
        logits = head.logits_at(rows, anchors, labels)
        wanted = positive.to(logits.dtype)
    cls = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
    answers = head.deltas_at(rows[positive], anchors[positive], labels[positive])
    return cls, F.smooth_l1_loss(answers, deltas, beta=beta, reduction="sum")


def _drawn(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` of them at random, in turn again where there are fewer; none of none."""
    if len(indices) == 0:
        return indices
    order = torch.randperm(len(indices), generator=generator, device=generator.device)
    turns = torch.arange(count, device=indices.device) % len(indices)
    return indices[order.to(indices.device)[turns]]


def _marks(target: RpnTargets) -> Tensor:
    counts = (len(target.positives), len(target.negatives))
    device = target.positives.device
    return torch.cat([torch.ones(counts[0]), torch.zeros(counts[1])]).bool().to(device)


def _generator(seed: int, device: torch.device) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)

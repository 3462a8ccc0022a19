"""The localizer of appendix C: a per-class RPN (stage one) and the R-CNN on its proposals (two).

N images · S samples · L requested labels · A anchors per cell · B = h * w * A anchors per image ·
K classes · C channels. Images are (N, 3, H, W) uint8 RGB crops without padding.

The paper leaves three choices open. The defaults, and the alternatives:

- "1000-d cls" and "1000x4-d reg" beside "multiple anchors at each position": every anchor has its
  own outputs, as in Faster R-CNN (``shared=True``: one set for all anchors of a position);
- which of an anchor's 1000 logits get a loss: that of the image's class, as boxes are requested by
  class (``every_class=True``: all of them, the other classes being negative everywhere);
- the anchors' sizes, and the scales of dense testing: `config/localizer.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.pixels import PixelNorm
from ..ops import boxes as box_ops
from ..ops.anchors import AnchorGrid
from ..ops.matching import POSITIVE, Match, match_images, sample_images_evenly
from ..structures import Annotation, Batch
from .class_head import ClassHead
from .compiled import Part
from .faster_rcnn import expect_finite
from .rpn import WEIGHTS as ANCHOR_WEIGHTS

LOSSES = ("loss_cls", "loss_box")
#: CUDA graphs compute multiples of so many regions, so that there are few shapes.
REGIONS = 16
#: Scales of the deltas, as in the second stage of a detector.
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True)
class HeadLoss:
    """The logistic and the smooth-L1 loss of a `ClassHead`, with their settings.

    With ``every_class`` a sample's logistic loss is the sum over all K logits, else that of its own
    class.
    """

    every_class: bool
    smooth_l1_beta: float
    box_loss_weight: float

    def __call__(
        self,
        head: ClassHead,
        rows: Tensor,
        anchors: Tensor,
        labels: Tensor,
        positives: Tensor,
        deltas: Tensor,
        *,
        normalizer: int,
    ) -> dict[str, Tensor]:
        """The `LOSSES`: sums over S samples, over ``normalizer``.

        Args:
            head: the head.
            rows: (S, C) features of the samples.
            anchors: (S,) indices of their anchors within their cells.
            labels: (S,) classes of their images.
            positives: (P,) indices of those samples that show an object of that class.
            deltas: the targets of the positives, in their order.
            normalizer: what both sums are divided by.
        """
        if self.every_class:
            logits = head.all_logits_at(rows, anchors)
            wanted = torch.zeros_like(logits)
            wanted[positives, labels[positives]] = 1.0
        else:
            logits = head.logits_at(rows, anchors, labels)
            wanted = torch.zeros_like(logits)
            wanted[positives] = 1.0
        cls = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        found = head.deltas_at(rows[positives], anchors[positives], labels[positives])
        box = F.smooth_l1_loss(found, deltas, beta=self.smooth_l1_beta, reduction="sum")
        losses = (cls / normalizer, box / normalizer * self.box_loss_weight)
        return dict(zip(LOSSES, losses, strict=True))


@dataclass(frozen=True)
class AnchorSamples:
    """The anchors that the loss of N images is computed on: ``images`` and ``anchors`` (S,), which
    ``positives`` (P,) of them show an object, and the ``deltas`` (P, 4) to it."""

    images: Tensor
    anchors: Tensor
    positives: Tensor
    deltas: Tensor


def sample_anchors(
    anchors: Tensor,
    annotations: Sequence[Annotation],
    seeds: Sequence[int],
    *,
    matching: Callable[..., tuple[Match, Tensor]],
    count: int,
) -> AnchorSamples:
    """Match B anchors with the objects of each image and sample up to ``count`` of each, positives
    first. ``matching`` is `match_images` with its thresholds."""
    device = anchors.device
    found, truth = matching(anchors, annotations)
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
    parts = sample_images_evenly(found.state, count=count, generators=generators)
    chosen = torch.cat([kind for part in parts for kind in part])
    # How many there are of each kind is known without asking a GPU.
    sizes = np.array([[len(kind) for kind in part] for part in parts])
    owner = np.repeat(np.arange(len(parts)), sizes.sum(axis=1))
    place = np.flatnonzero(np.repeat(np.tile([True, False], len(parts)), sizes.flatten()))
    images, positives = (torch.from_numpy(each).to(device) for each in (owner, place))
    owners, own = images[positives], chosen[positives]
    # Without objects there are no positives either.
    matched = truth[owners, found.index[owners, own]] if truth.shape[1] else truth.flatten(0, 1)
    deltas = box_ops.encode(matched, anchors[own], ANCHOR_WEIGHTS)
    return AnchorSamples(images, chosen, positives, deltas)


class Localizer(nn.Module):
    """Stage one: a trunk, and for each class a logit and a box at every anchor of its map."""

    def __init__(
        self,
        *,
        pixels: PixelNorm,
        trunk: nn.Module,
        head: ClassHead,
        anchors: AnchorGrid,
        samples: Callable[..., AnchorSamples],
        per_image: int,
        loss: HeadLoss,
    ) -> None:
        """``samples`` is `sample_anchors` with its settings; ``per_image`` divides the losses."""
        super().__init__()
        self.pixels, self.trunk, self.head, self.anchors = pixels, trunk, head, anchors
        self.samples = samples
        self.per_image = per_image
        self.loss = loss

    def parts_to_compile(self) -> list[Part]:
        return [Part(self.trunk)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The `LOSSES`: sums over the sampled anchors, over ``per_image`` times N.

        Anchors are sampled per image from ``batch.seeds``: neither the other images nor the process
        changes them.
        """
        features = self.trunk(self.pixels.normalise(batch.images))
        anchors, per_cell = self.anchors(features), len(self.anchors.cells)
        chosen = self.samples(anchors, batch.annotations, batch.seeds)
        rows = features.flatten(2).transpose(1, 2)
        return self.loss(
            self.head,
            rows[chosen.images, chosen.anchors // per_cell],
            chosen.anchors % per_cell,
            batch.labels[chosen.images],
            chosen.positives,
            chosen.deltas,
            normalizer=self.per_image * len(batch),
        )

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (L, B) and clipped boxes (L, B, 4), image pixels, of ``labels`` in one image;
        raises DivergedError for NaN and infinity."""
        logits, deltas, boxes = self.outputs(images, labels)
        expect_finite(logits, deltas)
        return logits.sigmoid(), boxes

    def outputs(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits (L, B) and deltas (L, B, 4) of ``labels`` in one image, and `score`'s
        boxes."""
        features = self.trunk(self.pixels.normalise(images))
        logits, deltas = self.head(features[0].flatten(1).t(), labels)
        anchors = self.anchors(features)
        boxes = box_ops.decode(deltas.transpose(0, 1), anchors, ANCHOR_WEIGHTS).transpose(0, 1)
        return logits, deltas, box_ops.clip(boxes, (images.shape[2], images.shape[3]))


class RegionLocalizer(nn.Module):
    """Stage two: for a region warped to a square, a logit and a refined box of each class.

    The square includes ``padding`` pixels of context around the region. `region`, the box of the
    region in the square, is the only anchor. It is positive if its IoU with an object is at least
    ``positive_iou``.
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
        loss: HeadLoss,
    ) -> None:
        super().__init__()
        self.pixels, self.trunk, self.head = pixels, trunk, head
        corner = float(size - padding)
        square = torch.tensor([[padding, padding, corner, corner]], dtype=torch.float32)
        self.register_buffer("region", square, persistent=False)
        self.positive_iou = positive_iou
        self.loss = loss

    def parts_to_compile(self) -> list[Part]:
        return [Part(self.trunk, rows=REGIONS)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The `LOSSES`: means over the regions, one an image."""
        iou = self.positive_iou
        found, truth = match_images(
            self.region, batch.annotations, positive_iou=iou, negative_iou=iou
        )
        positives = torch.nonzero(found.state[:, 0] == POSITIVE).flatten()
        matched = found.index[positives, 0]
        goals = truth[positives, matched] if truth.shape[1] else truth.flatten(0, 1)
        return self.loss(
            self.head,
            self._features(batch.images),
            torch.zeros_like(batch.labels),
            batch.labels,
            positives,
            box_ops.encode(goals, self.region.expand(len(goals), 4), REGION_WEIGHTS),
            normalizer=len(batch),
        )

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores (P,) and boxes (P, 4), image pixels, of (P, 3, s, s) warped regions whose classes
        are ``labels`` (P,); raises DivergedError for NaN and infinity."""
        logits, deltas, boxes = self.outputs(images, labels)
        expect_finite(logits, deltas)
        return logits.sigmoid(), boxes

    def outputs(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The logits (P,) and deltas (P, 4) of warped regions, and `score`'s boxes."""
        features, first = self._features(images), torch.zeros_like(labels)
        logits = self.head.logits_at(features, first, labels)
        deltas = self.head.deltas_at(features, first, labels)
        boxes = box_ops.decode(deltas, self.region.expand(len(labels), 4), REGION_WEIGHTS)
        return logits, deltas, boxes

    def _features(self, images: Tensor) -> Tensor:
        """(P, C), the mean of the last map."""
        return self.trunk(self.pixels.normalise(images)).mean(dim=(2, 3))

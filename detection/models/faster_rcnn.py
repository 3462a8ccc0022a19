"""Faster R-CNN C4: how trunk, proposals and region head make losses and detections.

N images · P proposals · K classes, background is class K · C channels.

``images`` are (N, 3, H, W) uint8 RGB with the (h, w) inside the padding in ``sizes``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ...backbones.c4 import STRIDE
from ..errors import DivergedError
from ..ops import boxes as box_ops
from ..ops.anchors import grid_anchors
from ..structures import Batch, Detections, Geometry
from .roi_head import RoIHead, RoiTargets, decode_regions, roi_loss
from .rpn import RPNHead, RpnTargets, rpn_loss

LOSSES = ("loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box")


class FasterRCNN(nn.Module):
    """The detector, from parts that are handed in; `detection/tasks/detector.py` assembles it.

    The verbs: `extract`, `propose`, `score` for whoever composes them anew (`detection/inference`),
    `forward` for losses in either mode, `predict` for detections.
    """

    cells: Tensor

    def __init__(
        self,
        *,
        pixels: nn.Module,
        trunk: nn.Module,
        rpn_head: RPNHead,
        roi_head: RoIHead,
        cell_anchors: Tensor,
        select_train: Callable[..., tuple[list[Tensor], list[Tensor]]],
        select_test: Callable[..., tuple[list[Tensor], list[Tensor]]],
        rpn_targets: Callable[..., RpnTargets],
        roi_targets: Callable[..., RoiTargets],
        rpn_normalizer: int | None,
        smooth_l1_beta: tuple[float, float],
        box_loss_weights: tuple[float, float],
        box_weights: tuple[float, float, float, float],
        score_threshold: float,
        suppress: Callable[[Detections], Detections],
    ) -> None:
        """``rpn_normalizer`` is per image; None divides by the sampled anchors."""
        super().__init__()
        self.pixels = pixels
        self.trunk = trunk
        self.rpn_head = rpn_head
        self.roi_head = roi_head
        self.register_buffer("cells", cell_anchors, persistent=False)
        self.select_train = select_train
        self.select_test = select_test
        self.rpn_targets = rpn_targets
        self.roi_targets = roi_targets
        self.rpn_normalizer = rpn_normalizer
        self.rpn_beta, self.roi_beta = smooth_l1_beta
        self.rpn_box_weight, self.roi_box_weight = box_loss_weights
        self.box_weights = box_weights
        self.score_threshold = score_threshold
        self.suppress = suppress
        #: Turns this process's count of samples into the mean over all processes.
        self.mean_count: Callable[[Tensor], Tensor] = lambda count: count

    def extract(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Normalise and run the trunk: (N, C, H/16, W/16)."""
        return self.trunk(self.pixels(images, sizes))

    def propose(self, features: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Test-time proposals, N x (P, 4) network pixels, best first."""
        logits, deltas = self.rpn_head(features)
        expect_finite(logits, deltas)
        return self.select_test(logits, deltas, self._anchors(features), sizes)[0]

    def score(
        self, features: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Class probabilities N x (P, K + 1) and clipped boxes N x (P, K, 4), network pixels."""
        return self.judge(self.roi_head.describe(features, proposals, sizes), proposals, sizes)

    def judge(
        self, vectors: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """The second half of `score`: from the (P, V) vectors of all regions together."""
        logits, deltas = self.roi_head.classify(vectors)
        expect_finite(logits, deltas)
        probs, boxes = decode_regions(logits, deltas, proposals, weights=self.box_weights)
        return probs, [box_ops.clip(b, size) for b, size in zip(boxes, sizes, strict=True)]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The four losses of `LOSSES`, in training and evaluation mode alike.

        Random choices are drawn per image from ``batch.seeds``: neither the other images of a
        batch of this height and width nor the process it is on changes them.
        """
        features = self.extract(batch.images, batch.sizes)
        logits, deltas = self.rpn_head(features)
        anchors = self._anchors(features)
        generators = [torch.Generator(features.device).manual_seed(seed) for seed in batch.seeds]
        rpn = [
            self.rpn_targets(anchors, annotation, size, generator=generator)
            for annotation, size, generator in zip(
                batch.annotations, batch.sizes, generators, strict=True
            )
        ]
        rpn_cls, rpn_box = rpn_loss(
            logits, deltas, rpn, normalizer=self._rpn_count(rpn, features), beta=self.rpn_beta
        )
        proposals, _ = self.select_train(logits, deltas, anchors, batch.sizes)
        roi = [
            self.roi_targets(regions, annotation, generator=generator)
            for regions, annotation, generator in zip(
                proposals, batch.annotations, generators, strict=True
            )
        ]
        roi_logits, roi_deltas = self.roi_head(
            features, [target.boxes for target in roi], batch.sizes
        )
        count = self._mean_count(sum(len(target.labels) for target in roi), features)
        cls, box = roi_loss(roi_logits, roi_deltas, roi, normalizer=count, beta=self.roi_beta)
        losses = (rpn_cls, rpn_box * self.rpn_box_weight, cls, box * self.roi_box_weight)
        return dict(zip(LOSSES, losses, strict=True))

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        """Detections in original pixels, suppressed and sorted by score. Needs ``eval()``."""
        if self.training:
            raise RuntimeError("predict needs the model in eval mode: call eval() first")
        features = self.extract(batch.images, batch.sizes)
        proposals = self.propose(features, batch.sizes)
        scored = zip(*self.score(features, proposals, batch.sizes), batch.geometries, strict=True)
        return [
            self.suppress(restore(probs, boxes, geometry, score_threshold=self.score_threshold))
            for probs, boxes, geometry in scored
        ]

    def _anchors(self, features: Tensor) -> Tensor:
        return grid_anchors(self.cells, (features.shape[2], features.shape[3]), STRIDE)

    def _rpn_count(self, targets: Sequence[RpnTargets], like: Tensor) -> Tensor | float:
        if self.rpn_normalizer is not None:
            return float(self.rpn_normalizer * len(targets))
        return self._mean_count(sum(len(t.positives) + len(t.negatives) for t in targets), like)

    def _mean_count(self, count: int, like: Tensor) -> Tensor:
        """At least one, so that images without any sample give a loss of 0, not NaN."""
        counted = torch.tensor(float(count), device=like.device)
        return self.mean_count(counted).clamp(min=1.0)


def expect_finite(*outputs: Tensor) -> None:
    """A network that computes NaN would otherwise find nothing, without a word.

    Raises:
        DivergedError: an output is NaN or infinite.
    """
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise DivergedError(
            "the network's outputs are not finite: its weights are damaged or overflow in the "
            "chosen precision"
        )


def restore(
    probs: Tensor, boxes: Tensor, geometry: Geometry, *, score_threshold: float
) -> Detections:
    """(P, K + 1) and (P, K, 4) in network pixels to candidates in original pixels.

    Boxes that are empty after clipping, or not finite, cannot be objects and are left out.
    """
    scores = probs[:, :-1]
    keep = scores > score_threshold
    keep &= (boxes[..., 2:] > boxes[..., :2]).all(dim=-1) & boxes.isfinite().all(dim=-1)
    region, label = torch.nonzero(keep, as_tuple=True)
    original = box_ops.clip(geometry.invert(boxes[region, label]), geometry.original)
    return Detections(original, scores[region, label], label)

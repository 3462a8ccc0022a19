"""Faster R-CNN C4: extract, propose and score, and the losses of both stages.

N images · P proposals · K classes, background is class K · C channels · V region features.

``images`` are (N, 3, H, W) uint8 RGB with the (h, w) inside the padding in ``sizes``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..errors import DivergedError
from ..ops.anchors import AnchorGrid
from ..structures import Batch
from .compiled import Part
from .roi_head import RoIHead, RoiTargets
from .rpn import RPNHead, RpnTargets

LOSSES = ("loss_rpn_cls", "loss_rpn_box", "loss_cls", "loss_box")

#: CUDA graphs compute multiples of so many regions, so that there are few shapes.
REGIONS = 50

#: Class probabilities N x (P, K + 1) and clipped boxes N x (P, K, 4), network pixels.
Scored = tuple[list[Tensor], list[Tensor]]
#: `select_proposals` with its counts and thresholds.
Select = Callable[..., tuple[list[Tensor], list[Tensor]]]
Losses = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Criterion:
    """The functions of rpn.py and roi_head.py that compute the losses, with their settings.

    ``box_loss_weights`` are those of the two stages. ``rpn_normalizer`` is a number of anchors per
    image; None divides by the sampled ones.
    """

    select: Select
    rpn_targets: Callable[..., RpnTargets]
    roi_targets: Callable[..., RoiTargets]
    rpn_loss: Losses
    roi_loss: Losses
    box_loss_weights: tuple[float, float]
    rpn_normalizer: int | None


def _own_count(count: Tensor) -> Tensor:
    """The count of the only process; no lambda, which could not be pickled."""
    return count


class FasterRCNN(nn.Module):
    """The networks of the detector, from built parts; `inference/pipeline.py` makes detections.

    `extract`, `propose` and `score` are the steps of prediction, `forward` gives the losses in
    training and evaluation mode alike.
    """

    def __init__(
        self,
        *,
        pixels: nn.Module,
        trunk: nn.Module,
        anchors: AnchorGrid,
        rpn_head: RPNHead,
        roi_head: RoIHead,
        select: Select,
        decode: Callable[..., Scored],
        criterion: Criterion,
    ) -> None:
        """``select`` is used at test time, ``decode`` is `decode_regions` with its weights."""
        super().__init__()
        self.pixels = pixels
        self.trunk = trunk
        self.anchors = anchors
        self.rpn_head = rpn_head
        self.roi_head = roi_head
        self.select = select
        self.decode = decode
        self.criterion = criterion
        #: Turns this process's count of samples into the mean over all processes.
        self.mean_count: Callable[[Tensor], Tensor] = _own_count

    def parts_to_compile(self) -> list[Part]:
        # Block by block: the first one may run on the map, in parts, and the others on its crops.
        blocks = [Part(block, rows=REGIONS) for block in self.roi_head.res5]
        return [Part(self.trunk), *blocks]

    def extract(self, images: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Normalise and run the trunk: (N, C, H / stride, W / stride)."""
        return self.trunk(self.pixels(images, sizes))

    def propose(self, features: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
        """Test-time proposals, N x (P, 4) network pixels, best first."""
        logits, deltas = self.rpn_head(features)
        expect_finite(logits, deltas)
        return self.select(logits, deltas, self.anchors(features), sizes)[0]

    def score(
        self, features: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Scored:
        """Class probabilities N x (P, K + 1) and clipped boxes N x (P, K, 4), network pixels."""
        roi_features = self.roi_head.roi_features(features, proposals, sizes)
        return self.score_features(roi_features, proposals, sizes)

    def score_features(
        self, roi_features: Tensor, proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Scored:
        """The second half of `score`, from the (P, V) features of all images' proposals."""
        logits, deltas = self.roi_head.classify(roi_features)
        expect_finite(logits, deltas)
        return self.decode(logits, deltas, proposals, sizes)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The four `LOSSES`, in training and evaluation mode alike.

        Random choices are drawn per image from ``batch.seeds``: neither the other images of a
        batch of this height and width nor the process it is on changes them.
        """
        use = self.criterion
        features = self.extract(batch.images, batch.sizes)
        logits, deltas = self.rpn_head(features)
        anchors = self.anchors(features)
        generators = [torch.Generator(features.device).manual_seed(seed) for seed in batch.seeds]
        rpn = [
            use.rpn_targets(anchors, annotation, size, generator=generator)
            for annotation, size, generator in zip(
                batch.annotations, batch.sizes, generators, strict=True
            )
        ]
        rpn_cls, rpn_box = use.rpn_loss(
            logits, deltas, rpn, normalizer=self._rpn_count(rpn, features)
        )
        proposals, _ = use.select(logits, deltas, anchors, batch.sizes)
        roi = [
            use.roi_targets(regions, annotation, generator=generator)
            for regions, annotation, generator in zip(
                proposals, batch.annotations, generators, strict=True
            )
        ]
        sampled = [target.boxes for target in roi]
        roi_logits, roi_deltas = self.roi_head(features, sampled, batch.sizes)
        count = self._mean_count(sum(map(len, sampled)), features)
        cls, box = use.roi_loss(roi_logits, roi_deltas, roi, normalizer=count)
        rpn_weight, roi_weight = use.box_loss_weights
        losses = (rpn_cls, rpn_box * rpn_weight, cls, box * roi_weight)
        return dict(zip(LOSSES, losses, strict=True))

    def _rpn_count(self, targets: Sequence[RpnTargets], like: Tensor) -> Tensor | float:
        if self.criterion.rpn_normalizer is not None:
            return float(self.criterion.rpn_normalizer * len(targets))
        return self._mean_count(sum(len(t.positives) + len(t.negatives) for t in targets), like)

    def _mean_count(self, count: int, like: Tensor) -> Tensor:
        """At least one, so that images without any sample give a loss of 0, not NaN."""
        counted = torch.tensor(float(count), device=like.device)
        return self.mean_count(counted).clamp(min=1.0)


def expect_finite(*outputs: Tensor) -> None:
    """Check the outputs: with NaN no box would be selected, and the result silently be empty.

    Raises:
        DivergedError: an output is NaN or infinite.
    """
    if not all(bool(output.isfinite().all()) for output in outputs):
        raise DivergedError(
            "the network's outputs are not finite: its weights are damaged or overflow in the "
            "chosen precision"
        )

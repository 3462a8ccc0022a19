"""The prediction of detections: networks, scales, flips and refinement, then one suppression.

Every option adds candidates, and all candidates meet in one suppression; so refinement, test-time
scales, the pyramid and ensembles combine freely. One member without options is the plain detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...datasets.loading.transforms import EvalTransform
from ..models.faster_rcnn import FasterRCNN
from ..ops import boxes as box_ops
from ..structures import Batch, Detections, Geometry
from .scorers import EnsembleScorer, FeatureMap, NetworkScorer, Scorer, score_refined


@dataclass(frozen=True)
class DetectorMember:
    """One network, the ``scales`` it proposes on, one pass for each, and the ``pyramid`` of scales,
    small to large, that regions are scored on where those are not the pass's own."""

    model: FasterRCNN
    scales: tuple[EvalTransform, ...]
    pyramid: tuple[EvalTransform, ...] = ()


class Pipeline(nn.Module):
    """Detections from one or several networks; the classes of all have the same order.

    ``transforms`` are the views that a batch must carry: the first one its own, the others in
    `Batch.views`. ``suppress`` is that of `ops/nms.py` with its settings; candidates that score
    ``score_threshold`` or less do not reach it. ``flip`` adds the flipped images, ``rounds`` are
    those of `score_refined`, ``region_side`` that of `adjacent_scales`.
    """

    def __init__(
        self,
        members: Sequence[DetectorMember],
        *,
        suppress: Callable[[Detections], Detections],
        score_threshold: float = 0.0,
        flip: bool = False,
        rounds: int = 0,
        region_side: float = 224.0,
    ) -> None:
        super().__init__()
        self.members = tuple(members)
        self.networks = nn.ModuleList(member.model for member in members)
        self.suppress = suppress
        self.score_threshold = score_threshold
        self.orientations = (False, True) if flip else (False,)
        self.rounds = rounds
        self.region_side = region_side
        self.transforms = tuple(
            dict.fromkeys(
                replace(transform, flipped=flipped)
                for flipped in self.orientations
                for member in members
                for transform in (*member.scales, *member.pyramid)
            )
        )

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        """Detections in original pixels, suppressed and sorted by score. Needs ``eval()``."""
        if any(network.training for network in self.networks):
            raise RuntimeError("predict needs the models in eval mode: call eval() first")
        views = dict(zip(self.transforms, (batch, *batch.views), strict=True))
        candidates: list[list[Detections]] = [[] for _ in range(len(batch))]
        for scorer in self._scorers(views):
            scored = score_refined(scorer, scorer.propose(), rounds=self.rounds)
            for found, probs, boxes, geometry in zip(
                candidates, *scored, scorer.geometries, strict=True
            ):
                found.append(restore(probs, boxes, geometry, score_threshold=self.score_threshold))
        return [self.suppress(Detections.cat(parts)) for parts in candidates]

    def _scorers(self, views: Mapping[EvalTransform, Batch]) -> Iterator[Scorer]:
        """One for each pass over the images; the maps of one orientation live at a time."""
        for flipped in self.orientations:
            scorers = [self._network_scorers(member, views, flipped) for member in self.members]
            for members in zip(*scorers, strict=True):
                yield EnsembleScorer(members) if len(members) > 1 else members[0]

    def _network_scorers(
        self, member: DetectorMember, views: Mapping[EvalTransform, Batch], flipped: bool
    ) -> list[NetworkScorer]:
        """One network's scorer for each of its passes; every scale is extracted once."""
        maps = {
            transform: FeatureMap.of(member.model, views[replace(transform, flipped=flipped)])
            for transform in dict.fromkeys((*member.scales, *member.pyramid))
        }
        pyramid = [maps[transform] for transform in member.pyramid]
        return [
            NetworkScorer(member.model, maps[scale], pyramid, region_side=self.region_side)
            for scale in member.scales
        ]


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

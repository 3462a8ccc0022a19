"""How networks, sizes and mirrored images are put together at test time.

Every option is a way to come by candidates, and all candidates meet in one suppression step; so
refinement, test-time scales, the pyramid and ensembles combine freely.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from ...datasets.loading.transforms import TestTransform
from ..models.faster_rcnn import FasterRCNN, restore
from ..structures import Batch, Detections
from .scorers import FeatureMap, Joint, Scorer, Sight, score_refined


@dataclass(frozen=True)
class Member:
    """One network and the sizes it looks at: a pass for each of ``scales``, and the sizes that
    regions are scored on, small to large, where they are not those of the pass."""

    model: FasterRCNN
    scales: tuple[TestTransform, ...]
    pyramid: tuple[TestTransform, ...] = ()


class Pipeline:
    """Detections from one or several networks; the classes of all have the same order.

    ``transforms`` are the views that a batch must carry: the first one its own, the others in
    `Batch.views`. Threshold and suppression are the first network's.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        flip: bool = False,
        rounds: int = 0,
        region_side: float = 224.0,
    ) -> None:
        self.members = members
        self.mirrored = (False, True) if flip else (False,)
        self.rounds = rounds
        self.region_side = region_side
        self.transforms = tuple(
            dict.fromkeys(
                _mirror(transform, flipped)
                for flipped in self.mirrored
                for member in members
                for transform in (*member.scales, *member.pyramid)
            )
        )

    def to(self, device: torch.device) -> Pipeline:
        for member in self.members:
            member.model.to(device)
        return self

    def eval(self) -> Pipeline:
        for member in self.members:
            member.model.eval()
        return self

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        """Detections in original pixels, suppressed and sorted by score. Needs ``eval()``."""
        first = self.members[0].model
        if any(member.model.training for member in self.members):
            raise RuntimeError("predict needs the models in eval mode: call eval() first")
        forms = dict(zip(self.transforms, (batch, *batch.views), strict=True))
        candidates: list[list[Detections]] = [[] for _ in range(len(batch))]
        for scorer in self._scorers(forms):
            scored = score_refined(scorer, scorer.propose(), rounds=self.rounds)
            for image, (probs, boxes, geometry) in enumerate(
                zip(*scored, scorer.geometries, strict=True)
            ):
                found = restore(probs, boxes, geometry, score_threshold=first.score_threshold)
                candidates[image].append(found)
        return [first.suppress(Detections.cat(parts)) for parts in candidates]

    def _scorers(self, forms: Mapping[TestTransform, Batch]) -> Iterator[Scorer]:
        """One for each pass over the images; the maps of one orientation live at a time."""
        for flipped in self.mirrored:
            sights = [self._sights(member, forms, flipped) for member in self.members]
            for members in zip(*sights, strict=True):
                yield Joint(members) if len(members) > 1 else members[0]

    def _sights(
        self, member: Member, forms: Mapping[TestTransform, Batch], flipped: bool
    ) -> list[Sight]:
        """What one network sees in each of its passes; every size is extracted once."""
        maps = {
            transform: FeatureMap.of(member.model, forms[_mirror(transform, flipped)])
            for transform in dict.fromkeys((*member.scales, *member.pyramid))
        }
        pyramid = [maps[transform] for transform in member.pyramid]
        return [
            Sight(member.model, maps[scale], pyramid, region_side=self.region_side)
            for scale in member.scales
        ]


def _mirror(transform: TestTransform, flipped: bool) -> TestTransform:
    return TestTransform(transform.short_side, transform.long_side_max, flipped)

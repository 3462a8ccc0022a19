"""Class scores of images: the mean over their crops, sizes and networks.

N images · K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...datasets.loading.crops import Crop, TenCrop, crop_sample
from ..models.classifier import Classifier
from ..structures import Batch, Sample
from .pipeline import Prepared, in_equal_batches
from .ranked_classes import RankedClasses


@dataclass(frozen=True)
class ClassifierMember:
    """A network and the crops that it scores, with ``dense`` in its fully-convolutional form."""

    model: Classifier
    crops: tuple[Crop, ...]
    dense: bool = False


class ScorePipeline(nn.Module):
    """The mean of the softmax scores of all members over all their views.

    ``crops`` are the views that batches must have: every crop of any member, once. Raises
    ValueError without members, or for one that has no crops.
    """

    def __init__(self, members: Sequence[ClassifierMember]) -> None:
        super().__init__()
        if not members or not all(member.crops for member in members):
            raise ValueError("a pipeline needs networks, and crops for each")
        self.members = tuple(members)
        self.networks = nn.ModuleList(member.model for member in members)
        self.crops = tuple(dict.fromkeys(crop for member in members for crop in member.crops))
        self._views: dict[Crop, range] = {}
        first = 0
        for crop in self.crops:
            self._views[crop] = range(first, first := first + _count(crop))

    @torch.inference_mode()
    def predict(self, batch: Batch) -> list[Tensor]:
        """(K,) scores of each image, float32 on the CPU, that add up to 1.

        Raises ValueError for a batch of other views than ``crops`` give.
        """
        parts = (batch, *batch.views)
        if len(parts) != sum(map(len, self._views.values())):
            raise ValueError(f"batch with {len(parts)} views for crops {list(self.crops)}")
        scores = torch.stack([self._scores(member, parts) for member in self.members]).mean(dim=0)
        return list(scores.cpu().unbind())

    def sample(self, pixels: NDArray[np.uint8], image_id: str = "") -> Sample:
        """The input for one image (h, w, 3) uint8 RGB, under all ``crops``."""
        return crop_sample(pixels, self.crops, image_id=image_id)

    def detect(self, prepared: Sequence[Prepared]) -> list[RankedClasses]:
        """All K classes of each image, best first; of equal scores, the first class is first."""
        device = next(self.parameters()).device
        found = in_equal_batches(prepared, lambda batch: self.predict(batch.to(device)))
        return [RankedClasses(*one.sort(descending=True, stable=True)) for one in found]

    def _scores(self, member: ClassifierMember, parts: Sequence[Batch]) -> Tensor:
        """(N, K): the mean over the member's views."""
        logits = member.model.dense_logits if member.dense else member.model.logits
        views = [parts[index] for crop in member.crops for index in self._views[crop]]
        return torch.stack([logits(view.images).float().softmax(dim=1) for view in views]).mean(0)


def _count(crop: Crop) -> int:
    """The number of views of a crop."""
    return 10 if isinstance(crop, TenCrop) else 1

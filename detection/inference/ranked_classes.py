"""The result of a classifier for one image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..structures import expect


@dataclass(frozen=True)
class RankedClasses:
    """The classes of one image, best first: ``scores`` (C,) f32, ``labels`` (C,) i64.

    ``found[:5]`` are the five best ones.
    """

    scores: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        expect(self.scores, "RankedClasses.scores", (None,), torch.float32)
        expect(self.labels, "RankedClasses.labels", (len(self.scores),), torch.int64)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, index: Tensor | slice) -> RankedClasses:
        return RankedClasses(self.scores[index], self.labels[index])

"""Regions scored again from where their boxes went (iterative refinement, ResNet paper, app. B).

N images · P regions · K classes, background is class K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .sight import Scored, Scorer


def score_refined(scorer: Scorer, regions: Sequence[Tensor], *, rounds: int) -> Scored:
    """Predictions of the regions and of each round, joined: N x ((rounds + 1) P, ...).

    A regressed box is another region than its proposal, with features of its own: it is pooled
    again, and gets a new score and a new box. The old predictions stay (300 + 300 in the paper).
    """
    probs, boxes = scorer.score(regions)
    joined = [([p], [b]) for p, b in zip(probs, boxes, strict=True)]
    for _ in range(rounds):
        regions = [regressed(p, b) for p, b in zip(probs, boxes, strict=True)]
        probs, boxes = scorer.score(regions)
        for (all_probs, all_boxes), p, b in zip(joined, probs, boxes, strict=True):
            all_probs.append(p)
            all_boxes.append(b)
    return [torch.cat(p) for p, _ in joined], [torch.cat(b) for _, b in joined]


def regressed(probs: Tensor, boxes: Tensor) -> Tensor:
    """(P, 4): the box of each region's likeliest class, the background left aside.

    The paper does not say which of the K class-specific boxes is pooled again; one region stays
    one region this way.
    """
    best = probs[:, :-1].argmax(dim=1)
    return boxes[torch.arange(len(boxes), device=boxes.device), best]

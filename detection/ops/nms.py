"""Suppression of an image's candidate detections: NMS, Soft-NMS, box voting; `fusion.py` has
weighted-box fusion.

D candidates · S survivors.

The candidates may come from one network or from several rounds, scales or networks. Each class is
processed separately. Overlapping detections are dropped (NMS), lose score (Soft-NMS) or
are merged (weighted-box fusion), then the best are taken, and optionally all candidates vote on the
boxes of the survivors.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import ConfigError
from ..structures import Detections
from . import boxes as box_ops
from .fusion import weighted_box_fusion
from .kernels import operators

Method = Literal["nms", "soft_nms", "linear_soft_nms", "wbf"]
VoteScore = Literal["keep", "average"]

#: Largest number of boxes of one class: torchvision's CUDA kernel indexes n x ceil(n / 64) words
#: with 32 bits, without a check.
MAX_NMS_BOXES = 370_000
#: Up to so many boxes of all classes, one NMS is faster than one for each class; torchvision's
#: figures.
FEW_BOXES_CPU, FEW_BOXES_GPU = 1000, 25_000


def suppress(
    candidates: Detections,
    *,
    nms_iou: float,
    max_detections: int,
    method: Method = "nms",
    soft_sigma: float = 0.5,
    soft_floor: float = 0.001,
    vote_iou: float | None = None,
    vote_score: VoteScore = "keep",
) -> Detections:
    """The ``max_detections`` best of one image, sorted by score.

    Args:
        candidates: scored boxes of every class, in any order.
        nms_iou: overlap above which the lower score is dropped (``nms``), lowered
            (``linear_soft_nms``) or merged (``wbf``; 0.55 in its paper); ``soft_nms`` has none.
        method: ``nms``, or Soft-NMS (Bodla et al., arXiv:1704.04503) with its Gaussian
            (``soft_nms``) or linear (``linear_soft_nms``) decay, or weighted-box fusion (``wbf``,
            see `weighted_box_fusion`).
        soft_sigma: width of the Gaussian; the smaller, the harder. 0.5 in the paper.
        soft_floor: Soft-NMS and fusion drop lower scores; 0.001 in the code of Soft-NMS.
        vote_iou: overlap from which a candidate votes on a survivor's box; None disables voting.
            0.5 in Gidaris and Komodakis (arXiv:1505.01749), 0.8 in Detectron.
        vote_score: ``keep`` the survivor's score (as both of them do; Detectron's ``ID``), or take
            the ``average`` of its voters' scores (Detectron's ``AVG``). Where Soft-NMS lowered the
            survivor, the average is lowered by the same factor.
    """
    if method in ("soft_nms", "linear_soft_nms"):
        sigma = soft_sigma if method == "soft_nms" else None
        survivors, factors = soft_nms(
            candidates, iou=nms_iou, sigma=sigma, floor=soft_floor, limit=max_detections
        )
    else:
        fuse = partial(weighted_box_fusion, floor=soft_floor)
        survivors = (fuse if method == "wbf" else nms)(candidates, iou=nms_iou)
        factors = torch.ones_like(survivors.scores)
    best = _best_first(survivors.scores * factors)[:max_detections]
    survivors, factors = survivors[best], factors[best]
    if vote_iou is not None:
        survivors = vote(survivors, candidates, iou=vote_iou, score=vote_score)
    # After voting, because the average of the voters' scores is not lowered by Soft-NMS.
    scores = survivors.scores * factors
    return replace(survivors, scores=scores)[_best_first(scores)]


def nms(candidates: Detections, *, iou: float) -> Detections:
    """Class-wise greedy NMS: drops what overlaps a better one of its class by more than ``iou``."""
    boxes, scores = candidates.boxes.double(), candidates.scores.double()
    labels = candidates.labels
    if len(boxes) <= (FEW_BOXES_CPU if boxes.device.type == "cpu" else FEW_BOXES_GPU):
        # All classes at once, each in a place of its own, up to K image sides away: in float32 the
        # thousandth class of a 1000-px image would be rounded to 1/16 px.
        side = boxes.max() + 1 if len(boxes) else 1
        return candidates[greedy_nms(boxes + (labels * side)[:, None], scores, iou=iou)]
    members = [torch.nonzero(labels == label).flatten() for label in labels.unique()]
    kept = torch.cat([own[greedy_nms(boxes[own], scores[own], iou=iou)] for own in members])
    kept = kept.sort().values
    return candidates[kept[_best_first(scores[kept])]]


def suppress_across_classes(
    candidates: Detections, *, nms_iou: float, **settings: Any
) -> Detections:
    """`suppress` of what is left by one NMS over all classes: of boxes that overlap by more than
    ``nms_iou``, the one with the best score stays, whatever their classes."""
    kept = greedy_nms(candidates.boxes.double(), candidates.scores.double(), iou=nms_iou)
    return suppress(candidates[kept], nms_iou=nms_iou, **settings)


def greedy_nms(boxes: Tensor, scores: Tensor, *, iou: float) -> Tensor:
    """Indices of the boxes (D, 4) of one class that NMS keeps, best first.

    Raises:
        ConfigError: more than the CUDA kernel can count.
    """
    _expect_countable(len(boxes), boxes.device)
    return operators().nms(boxes, scores, iou)


def _expect_countable(boxes: int, device: torch.device) -> None:
    if boxes > MAX_NMS_BOXES and device.type != "cpu":
        raise ConfigError(
            f"NMS of {boxes} boxes at once: the kernel for {device.type} takes {MAX_NMS_BOXES}; "
            "lower rpn.pre_nms_train, rpn.pre_nms_test or the number of scales, or raise "
            "test.score_threshold"
        )


def soft_nms(
    candidates: Detections, *, iou: float, sigma: float | None, floor: float, limit: int
) -> tuple[Detections, Tensor]:
    """Class-wise Soft-NMS: takes the best ``limit`` times, each lowers those that it overlaps.

    The factor for an overlap o is exp(-o²/sigma), or with ``sigma`` None 1 - o where o > ``iou``.
    Taking the best of all classes gives the same as class after class, and stops at the limit.
    Returns the survivors with their original scores, and the factor (S,) on each one's score.
    """
    here = candidates[candidates.scores >= floor].to("cpu")  # many small steps: faster there
    left, taken = here.scores.clone(), torch.zeros_like(here.scores)
    for _ in range(min(limit, len(here))):
        best = int(left.argmax())
        if left[best] < floor or left[best] == 0:
            break
        taken[best] = left[best]
        others = torch.nonzero(here.labels == here.labels[best]).flatten()
        overlap = box_ops.iou(here.boxes[others], here.boxes[best, None])[:, 0]
        left[others] *= _factor(overlap, iou=iou, sigma=sigma)
        left[best] = 0.0
    kept, device = taken > 0, candidates.boxes.device
    factors = taken[kept] / here.scores[kept]
    return here[kept].to(device), factors.to(device)


def _factor(overlap: Tensor, *, iou: float, sigma: float | None) -> Tensor:
    if sigma is None:
        return torch.where(overlap > iou, 1 - overlap, 1.0)
    return torch.exp(-overlap.square() / sigma)


def vote(
    survivors: Detections, candidates: Detections, *, iou: float, score: VoteScore = "keep"
) -> Detections:
    """Box voting: each survivor's box becomes the mean of its voters, weighted by score.

    Voters are the candidates of its class with an IoU of at least ``iou`` with it, itself among
    them, with their scores before suppression. A box without area has no voters and stays.
    """
    boxes, scores = survivors.boxes.clone(), survivors.scores.clone()
    for label in survivors.labels.unique():  # class by class to bound the memory
        mine = survivors.labels == label
        voters = candidates[candidates.labels == label]
        votes = (box_ops.iou(boxes[mine], voters.boxes) >= iou).double()  # (S, D) of the class
        weights = votes * voters.scores
        boxes[mine] = _mean(weights, voters.boxes, otherwise=boxes[mine])
        if score == "average":
            mean = _mean(votes, voters.scores[:, None], otherwise=scores[mine, None])
            scores[mine] = mean[:, 0]
    return Detections(boxes, scores, survivors.labels)


def _mean(weights: Tensor, values: Tensor, *, otherwise: Tensor) -> Tensor:
    """Weighted means (S, C) of values (D, C), summed in float64; weights (S, D) may be all 0."""
    total = weights.sum(dim=1, keepdim=True)
    mean = (weights @ values.double() / total).to(otherwise.dtype)
    return torch.where(total > 0, mean, otherwise)


def _best_first(scores: Tensor) -> Tensor:
    return torch.argsort(scores, descending=True, stable=True)

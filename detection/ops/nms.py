"""Which of an image's candidate detections are kept, and where do the kept boxes lie?

D candidates · S survivors.

One step, whatever made the candidates: one network, several rounds, scales or networks. Classes
never see each other. First rivals are dropped (NMS), lose score (Soft-NMS) or are merged
(weighted-box fusion), then the best are taken, then, where asked for, all candidates vote on the
boxes of the survivors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from ..structures import Detections
from . import boxes as box_ops

Method = Literal["nms", "soft_nms", "linear_soft_nms", "wbf"]
VoteScore = Literal["keep", "average"]


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
            (``soft_nms``) or linear (``linear_soft_nms``) decay of rivals, or weighted-box
            fusion (``wbf``), see `fuse_rivals`.
        soft_sigma: width of the Gaussian; the smaller, the harder. 0.5 in the paper.
        soft_floor: Soft-NMS drops what has or comes to a lower score; 0.001 in its code. Fusion
            leaves it out too.
        vote_iou: overlap from which a candidate votes on a survivor's box; None leaves the boxes.
            0.5 in Gidaris and Komodakis (arXiv:1505.01749), 0.8 in Detectron.
        vote_score: ``keep`` the survivor's score (both of them; Detectron's ``ID``), or
            the ``average`` of its voters' scores (Detectron's ``AVG``), of which a survivor
            that Soft-NMS lowered gets the share that it had left of its own.
    """
    if method == "nms":
        survivors = drop_rivals(candidates, iou=nms_iou)
        share = torch.ones_like(survivors.scores)
    elif method == "wbf":
        survivors = fuse_rivals(candidates, iou=nms_iou, floor=soft_floor)
        share = torch.ones_like(survivors.scores)
    else:
        sigma = soft_sigma if method == "soft_nms" else None
        survivors, share = soften_rivals(
            candidates, iou=nms_iou, sigma=sigma, floor=soft_floor, limit=max_detections
        )
    best = _best_first(survivors.scores * share)[:max_detections]
    survivors, share = survivors[best], share[best]
    if vote_iou is not None:
        survivors = vote(survivors, candidates, iou=vote_iou, score=vote_score)
    # Only now: the mean of its voters' scores would give a softened rival its score back.
    scores = survivors.scores * share
    return replace(survivors, scores=scores)[_best_first(scores)]


def drop_rivals(candidates: Detections, *, iou: float) -> Detections:
    """Class-wise greedy NMS: what overlaps a better one of its class by more than ``iou`` goes."""
    # torchvision parts the classes by shifting their boxes by up to K image sides. In float32 a
    # thousandth class of a 1000-px image would lie on a grid of 1/16 px.
    boxes, scores = candidates.boxes.double(), candidates.scores.double()
    return candidates[batched_nms(boxes, scores, candidates.labels, iou)]


def soften_rivals(
    candidates: Detections, *, iou: float, sigma: float | None, floor: float, limit: int
) -> tuple[Detections, Tensor]:
    """Class-wise Soft-NMS: the best is taken, its rivals lose score, and again, ``limit`` times.

    The factor for an overlap o is exp(-o²/sigma), or with ``sigma`` None 1 - o where o > ``iou``.
    Taking the best of all classes gives the same as class after class, and stops at the limit.
    Returns what is taken, with the scores it had, and the share (S,) of them that each has left.
    """
    here = candidates[candidates.scores >= floor].to("cpu")  # tiny steps: a GPU would only wait
    left, taken = here.scores.clone(), torch.zeros_like(here.scores)
    for _ in range(min(limit, len(here))):
        best = int(left.argmax())
        if left[best] < floor or left[best] == 0:
            break
        taken[best] = left[best]
        rivals = torch.nonzero(here.labels == here.labels[best]).flatten()
        overlap = box_ops.iou(here.boxes[rivals], here.boxes[best, None])[:, 0]
        left[rivals] *= _factor(overlap, iou=iou, sigma=sigma)
        left[best] = 0.0
    kept, device = taken > 0, candidates.boxes.device
    share = taken[kept] / here.scores[kept]
    return here[kept].to(device), share.to(device)


def _factor(overlap: Tensor, *, iou: float, sigma: float | None) -> Tensor:
    if sigma is None:
        return torch.where(overlap > iou, 1 - overlap, 1.0)
    return torch.exp(-overlap.square() / sigma)


def fuse_rivals(candidates: Detections, *, iou: float, floor: float) -> Detections:
    """Class-wise weighted-box fusion (Solovyev et al., arXiv:1910.13302): the best first, each
    joins the fused box that it overlaps most, if by more than ``iou``, or starts one.

    A fused box is the mean of its members, weighted by score, and has the score of its best. The
    paper's mean score, less where few of N networks agree, is for lists that have been through NMS
    and say who found what: here weak neighbours of every object are among the candidates.
    """
    wanted = (candidates.scores >= floor) & (candidates.scores > 0)
    here = candidates[wanted].to("cpu")  # tiny steps: a GPU would only wait
    here = here[_best_first(here.scores)]
    parts = [_fuse(here[here.labels == label], iou=iou) for label in here.labels.unique()]
    return Detections.cat([here[:0], *parts]).to(candidates.boxes.device)


def _fuse(members: Detections, *, iou: float) -> Detections:
    """`fuse_rivals` of one class, best first; means are kept in float64."""
    boxes, scores = members.boxes.double(), members.scores.double()
    fused, totals = torch.empty_like(boxes), torch.empty_like(scores)
    firsts: list[int] = []
    for index, (box, score) in enumerate(zip(boxes, scores, strict=True)):
        overlap = box_ops.iou(fused[: len(firsts)], box[None])[:, 0]
        place = int(overlap.argmax()) if firsts else 0
        if firsts and overlap[place] > iou:
            totals[place] += score
            fused[place] += score / totals[place] * (box - fused[place])
        else:
            fused[len(firsts)], totals[len(firsts)] = box, score
            firsts.append(index)
    return replace(members[torch.tensor(firsts)], boxes=fused[: len(firsts)].float())


def vote(
    survivors: Detections, candidates: Detections, *, iou: float, score: VoteScore = "keep"
) -> Detections:
    """Each survivor's box becomes the mean of the candidates that overlap it, weighted by score.

    Voters are the candidates of its class with an IoU of at least ``iou`` with it, itself among
    them, with the scores they had before suppression. A box without area has no voters and stays.
    """
    boxes, scores = survivors.boxes.clone(), survivors.scores.clone()
    for label in survivors.labels.unique():  # class by class: memory of the largest, not of all
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

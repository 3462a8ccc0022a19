"""Weighted-box fusion: overlapping candidates of a class become their weighted mean.

D candidates · K classes · M candidates of the largest class.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from ..structures import Detections

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def weighted_box_fusion(candidates: Detections, *, iou: float, floor: float) -> Detections:
    """Class-wise weighted-box fusion (Solovyev et al., arXiv:1910.13302): the best first, each
    joins the fused box that it overlaps most, if by more than ``iou``, or starts one.

    A fused box is the mean of its members, weighted by score, and has the score of its best. The
    paper's mean score, lower where few of N networks agree, is for lists after NMS, one for each
    network; here the weak neighbours of every object are among the candidates.
    """
    wanted = (candidates.scores >= floor) & (candidates.scores > 0)
    here = candidates[wanted].to("cpu")  # many small steps: faster there
    here = here[torch.argsort(here.scores, descending=True, stable=True)]
    here = here[torch.argsort(here.labels, stable=True)]
    _, counts = here.labels.unique_consecutive(return_counts=True)
    starts = counts.cumsum(0) - counts
    # The largest class first: those with a candidate of rank r are then the first of the rows.
    order = torch.argsort(counts, descending=True, stable=True)
    found = _fuse(here, starts[order].numpy(), counts[order].numpy(), iou)
    firsts, boxes = (torch.from_numpy(each) for each in found)
    by_class = torch.argsort(firsts)
    fused = replace(here[firsts[by_class]], boxes=boxes[by_class].float())
    return fused.to(candidates.boxes.device)


def _fuse(members: Detections, starts: Ints, counts: Ints, iou: float) -> tuple[Ints, Floats]:
    """The index of each fused box's best member, and the box; means are kept in float64.

    ``members`` are sorted by class, best first; the K classes have ``counts``, falling, from
    ``starts`` on. The r-th candidates of all classes take their step together.
    """
    every, weights = members.boxes.double().numpy(), members.scores.double().numpy()
    shape = len(counts), int(counts.max(initial=0))
    fused, totals = np.zeros((*shape, 4)), np.zeros(shape)
    firsts, used = np.zeros(shape, np.int64), np.zeros(len(counts), np.int64)
    for rank in range(shape[1]):
        rows = np.arange(np.searchsorted(-counts, -rank))  # with more than ``rank`` candidates
        index = starts[rows] + rank
        box, weight, width = every[index], weights[index], used[rows].max()
        overlap = _overlaps(fused[rows, :width], box)
        overlap[np.arange(width) >= used[rows, None]] = 0
        place = overlap.argmax(axis=1) if width else np.zeros_like(rows)
        joins = overlap[rows, place] > iou if width else np.zeros(len(rows), bool)
        row, at = rows[joins], place[joins]
        totals[row, at] += weight[joins]
        share = (weight[joins] / totals[row, at])[:, None]
        fused[row, at] += share * (box[joins] - fused[row, at])
        row = rows[~joins]
        at = used[row]
        fused[row, at], totals[row, at] = box[~joins], weight[~joins]
        firsts[row, at] = index[~joins]
        used[row] += 1
    kept = np.arange(shape[1]) < used[:, None]
    return firsts[kept], fused[kept]


def _overlaps(fused: Floats, boxes: Floats) -> Floats:
    """The IoU (K, W) of boxes (K, W, 4) with the one (K, 4) of their row, as in `boxes.iou`."""
    sides = np.minimum(fused[..., 2:], boxes[:, None, 2:])
    sides -= np.maximum(fused[..., :2], boxes[:, None, :2])
    shared = sides.clip(min=0).prod(axis=-1)
    union = (fused[..., 2:] - fused[..., :2]).prod(axis=-1)
    union += (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)[:, None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)

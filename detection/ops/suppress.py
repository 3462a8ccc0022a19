"""Which of an image's candidate detections are kept: class-wise NMS, then the best."""

from __future__ import annotations

import torch
from torchvision.ops import batched_nms

from ..structures import Detections


def suppress(candidates: Detections, *, nms_iou: float, max_detections: int) -> Detections:
    """Class-wise NMS at ``nms_iou``, then the ``max_detections`` best, sorted by score."""
    keep = batched_nms(candidates.boxes, candidates.scores, candidates.labels, nms_iou)
    kept = candidates[keep]
    order = torch.argsort(kept.scores, descending=True, stable=True)
    return kept[order[:max_detections]]

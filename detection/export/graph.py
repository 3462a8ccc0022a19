"""The whole detector as one module that ONNX can hold: from an image to its suppressed detections.

N images · P proposals · K classes · D detections. It computes what `Pipeline.predict` does for one
network on one scale, in network pixels, with operators that every ONNX runtime has: `batched_nms`
becomes NonMaxSuppression, RoIAlign torchvision's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..inference.pipeline import Pipeline
from ..models.faster_rcnn import FasterRCNN
from ..models.rpn import WEIGHTS
from ..ops import boxes as box_ops
from ..ops.nms import greedy_nms, suppress, suppress_across_classes
from ..ops.roi_align import roi_align

#: The score of boxes that must not be selected.
NEVER = -1.0e30


@torch.library.custom_op("resdet::batched_nms", mutates_args=())
def batched_nms(boxes: Tensor, scores: Tensor, limit: int, iou: float, above: float) -> Tensor:
    """NMS within each of B sets of boxes (B, P, 4) with scores (B, P): rows (set, box), best first
    in a set, of at most ``limit`` boxes that score more than ``above``."""
    rows = []
    for number, (own, values) in enumerate(zip(boxes, scores, strict=True)):
        some = torch.nonzero(values > above).flatten()
        kept = some[greedy_nms(own[some], values[some], iou=iou)[:limit]]
        rows.append(torch.stack([torch.full_like(kept, number), kept], dim=1))
    return torch.cat(rows) if rows else boxes.new_zeros(0, 2).long()


@batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, limit: int, iou: float, above: float) -> Tensor:
    rows = torch.library.get_ctx().new_dynamic_size(min=0)
    return boxes.new_empty(rows, 2, dtype=torch.int64)


def obstacles(pipeline: Pipeline) -> list[str]:
    """The options of a pipeline that one graph cannot hold, each with the setting that drops it."""
    found = []
    if len(pipeline.members) > 1:
        found.append("an ensemble: export its networks one by one")
    member = pipeline.members[0]
    if len(member.scales) > 1:
        found.append("several scales: test.scales=[]")
    if member.flip:
        found.append("the flipped image: test.flip=false")
    if member.pyramid:
        found.append("the feature pyramid: test.pyramid=[]")
    if pipeline.rounds:
        found.append("refinement: test.refine.rounds=0")
    settings = _settings(pipeline.suppress, suppress, suppress_across_classes)
    if settings.get("method", "nms") != "nms":
        found.append(f"{settings['method']}: test.suppress.method=nms")
    if settings.get("vote_iou") is not None:
        found.append("box voting: test.vote.iou=null")
    if not _is_partial_of(member.model.roi_head.pool, roi_align):
        found.append("roi.pool=pool, whose bins ONNX rounds differently: no setting changes that")
    return found


class DetectorGraph(nn.Module):
    """(N, 3, H, W) uint8 RGB to ``image`` (D,), ``boxes`` (D, 4), ``scores`` (D,), ``labels`` (D,)
    and ``finite`` (), the detections of all images, best first.

    ``image`` is the index of the image. Boxes are in pixels of the input. ``finite`` is false where
    an output of the network is NaN or infinite: the detections are then worthless.

    Raises ConfigError for a pipeline with `obstacles`.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        if found := obstacles(pipeline):
            raise ConfigError(
                f"one ONNX graph cannot hold {'; nor '.join(found)}; or give --graphs two"
            )
        model: FasterRCNN = pipeline.members[0].model
        self.model = model
        self.classes = model.roi_head.classes
        self.threshold = pipeline.score_threshold
        self.select = _settings(model.select)
        self.suppress = _settings(pipeline.suppress)
        self.pool = _settings(model.roi_head.pool)
        self.weights = _settings(model.decode)["weights"]
        self.across = _is_partial_of(pipeline.suppress, suppress_across_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = self.model.pixels.normalise(images)  # type: ignore[operator]
        return self.detect(pixels, (images.shape[2], images.shape[3]))

    def detect(self, pixels: Tensor, size: tuple[int, int]) -> tuple[Tensor, ...]:
        """The same for images of ``size`` (h, w) that are normalised and may be padded with 0."""
        model = self.model
        features = model.trunk(pixels)
        objectness, shifts = model.rpn_head(features)
        proposals, image = self._propose(objectness, shifts, model.anchors(features), size)
        logits, deltas = model.roi_head.classify(self._pooled(features, proposals, image, size))
        boxes = box_ops.decode(deltas, proposals, self.weights)
        boxes = box_ops.clip(boxes.expand(-1, self.classes, 4), size)
        scores = logits.softmax(dim=1)[:, :-1]
        finite = torch.stack(
            [part.isfinite().all() for part in (objectness, shifts, logits, deltas)]
        ).all()
        return (*self._detections(boxes, scores, image, pixels.shape[0]), finite)

    def _propose(
        self, logits: Tensor, deltas: Tensor, anchors: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Proposals (P, 4) of all images and the index of each one's image (P,)."""
        use = self.select
        count = torch.sym_min(use["pre_nms"], logits.shape[1])
        best, index = logits.topk(count)  # (N, B)
        chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4)).flatten(0, 1)
        boxes = box_ops.clip(
            box_ops.decode(chosen, anchors[index.flatten()], WEIGHTS), size
        ).unflatten(0, (-1, count))
        large = (boxes[..., 2:] - boxes[..., :2] > use["min_size"]).all(dim=-1)
        best = torch.where(large, best, torch.full_like(best, NEVER))
        rows = batched_nms(boxes, best, use["post_nms"], use["nms_iou"], NEVER / 2)
        return boxes[rows[:, 0], rows[:, 1]], rows[:, 0]

    def _pooled(
        self, features: Tensor, proposals: Tensor, image: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """The input (P, V) of the sibling layers."""
        head = self.model.roi_head
        if not head.context:
            return self._own(features, proposals, image)
        every = torch.arange(features.shape[0], device=features.device)
        corner = box_ops.clip(torch.full((1, 4), 1e9, device=features.device), size)
        whole = (corner * corner.new_tensor([0, 0, 1, 1])).expand(features.shape[0], 4)
        own = self._own(features, proposals, image)
        return torch.cat([own, self._own(features, whole, every)[image]], dim=1)

    def _own(self, features: Tensor, boxes: Tensor, image: Tensor) -> Tensor:
        import torchvision.ops  # takes more than a second

        use, head = self.pool, self.model.roi_head
        regions = torch.cat([image[:, None].to(boxes.dtype), boxes], dim=1)
        crops = torchvision.ops.roi_align(
            features, regions, use["size"], 1 / use["stride"], use["sampling_ratio"], aligned=True
        )
        return head.res5(crops).mean(dim=(2, 3))

    def _detections(
        self, boxes: Tensor, scores: Tensor, image: Tensor, images: int
    ) -> tuple[Tensor, ...]:
        """Image, boxes, scores and labels of the best of (P, K, 4) boxes with (P, K) scores."""
        slots, classes = self.select["post_nms"], self.classes
        limit = self.suppress["max_detections"]
        valid = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1) & boxes.isfinite().all(dim=-1)
        scores = torch.where(valid & (scores > self.threshold), scores, -1.0)
        place = (image, _rank(image, images))
        every_box = boxes.new_zeros(images, slots, classes, 4).index_put(place, boxes)
        every_score = scores.new_full((images, slots, classes), -1.0).index_put(place, scores)
        if self.across:
            every_box, every_score = every_box.flatten(1, 2), every_score.flatten(1, 2)
        else:  # a set for each class of each image
            every_box = every_box.transpose(1, 2).flatten(0, 1)
            every_score = every_score.transpose(1, 2).flatten(0, 1)
        rows = batched_nms(every_box, every_score, limit, self.suppress["nms_iou"], -0.5)
        group, member = rows[:, 0], rows[:, 1]
        found = every_score[group, member]
        found, order = found.topk(found.shape[0])  # of equal ones, the first is first in ONNX
        group, member = group[order], member[order]
        label = member % classes if self.across else group % classes
        image = group if self.across else group // classes
        kept = torch.nonzero(_rank(image, images) < limit).flatten()
        best = every_box[group[kept], member[kept]]
        return image[kept], best, found[kept], label[kept]


def _rank(image: Tensor, images: int) -> Tensor:
    """How many entries before each one of (P,) have the same value, of 0 to ``images`` - 1."""
    same = image[:, None] == torch.arange(images, device=image.device)
    return (same.long().cumsum(0) * same).sum(dim=1) - 1


def _is_partial_of(function: Any, *wanted: Any) -> bool:
    return isinstance(function, partial) and function.func in wanted


def _settings(function: Any, *wanted: Any) -> dict[str, Any]:
    """The keywords of a partial, of one of the ``wanted`` functions if any are named."""
    if not isinstance(function, partial) or (wanted and function.func not in wanted):
        raise ConfigError(f"a pipeline whose {function!r} is not the detector's cannot be exported")
    return dict(function.keywords)

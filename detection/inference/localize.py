"""The best box of each requested class, over the views, stages and networks of a localizer.

L requested labels · P proposals of one label. Boxes are in the pixels of their image. Only the
boxes of requested classes are computed, typically five of 1000.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from ...datasets.loading.crops import Crop, PlacedCrop, crop_sample
from ...datasets.loading.regions import Square, warp_regions
from ..models.localizer import Localizer, RegionLocalizer
from ..ops import boxes as box_ops
from ..ops.nms import greedy_nms, vote
from ..structures import Batch, Detections, Located, Sample
from .classify import ScorePipeline
from .pipeline import Prepared

#: Maximum number of anchors per view and class; a dense view has thousands.
BEST_OF_VIEW = 1000


@dataclass(frozen=True)
class FirstStage:
    """A network of stage one and the crops of an image that it scores."""

    model: Localizer
    crops: tuple[PlacedCrop, ...]


@dataclass(frozen=True)
class SecondStage:
    """A network of stage two and the input it takes."""

    model: RegionLocalizer
    square: Square


@dataclass(frozen=True)
class Classifiers:
    """The classifiers that choose the classes to locate.

    ``order[i]`` is the index of the localizer's class i among the classifiers' classes.
    """

    scores: ScorePipeline
    order: Tensor


@dataclass(frozen=True)
class Candidates:
    """The result of a stage for one image: scored boxes of each requested label, and the ``likely``
    labels, best first, with their ``probabilities``."""

    boxes: dict[int, Detections]
    likely: list[int]
    probabilities: list[float]

    def rescored(self, parts: Iterable[tuple[int, Detections]]) -> Candidates:
        """The same labels with the boxes of ``parts`` (label, boxes), joined in order."""
        found: dict[int, list[Detections]] = {label: [] for label in self.boxes}
        for label, boxes in parts:
            found[label].append(boxes)
        return replace(self, boxes={k: Detections.cat(joined) for k, joined in found.items()})


class LocationPipeline(nn.Module):
    """One box for each requested class, from one or several networks of either stage.

    Without ``second`` stages it is the best candidate of stage one, over all views and networks.
    With them, the best proposals of each class after NMS at ``nms_iou``, ``count`` times the number
    of networks of stage one, are warped, scored and regressed again; the scores and boxes of the
    networks of stage two are averaged. With ``vote_iou`` all candidates that overlap the best box
    by at least this IoU vote on it.

    ``crops`` are the views that batches must have, as made by `crop_sample`.
    """

    def __init__(
        self,
        first: Sequence[FirstStage],
        second: Sequence[SecondStage] = (),
        classifiers: Classifiers | None = None,
        *,
        count: int = 200,
        nms_iou: float = 0.7,
        regions_at_once: int = 64,
        top: int = 5,
        vote_iou: float | None = None,
    ) -> None:
        super().__init__()
        self.first, self.second, self.classifiers = tuple(first), tuple(second), classifiers
        self.networks = nn.ModuleList(stage.model for stage in first)
        self.networks.extend(stage.model for stage in second)
        if classifiers is not None:
            self.networks.append(classifiers.scores)
        self.count, self.nms_iou = count, nms_iou
        self.regions_at_once = regions_at_once
        self.top = top
        self.vote_iou = vote_iou
        #: The labels among which the classifiers choose, as if they knew no others: their
        #: scores are divided by their sum. None: all.
        self.among: Tensor | None = None
        self._scored: tuple[Crop, ...] = classifiers.scores.crops if classifiers else ()
        self._placed = tuple(dict.fromkeys(crop for stage in self.first for crop in stage.crops))
        self.crops: tuple[Crop, ...] = (*self._scored, *self._placed)
        self.squares = tuple(dict.fromkeys(stage.square for stage in self.second))

    @property
    def device(self) -> torch.device:
        return next(chain(self.parameters(), self.buffers())).device

    def sample(self, pixels: np.ndarray, image_id: str = "") -> Sample:
        """The input for one image (h, w, 3) uint8 RGB, under all ``crops``."""
        return crop_sample(pixels, self.crops, image_id=image_id)

    def detect(self, prepared: Sequence[Prepared]) -> list[Detections]:
        """The boxes of the most likely classes, scored with the classes' probabilities."""
        return [self.locate(one.sample, one.loaded.pixels).predicted for one in prepared]

    def locate(self, sample: Sample, pixels: np.ndarray, truth: int | None = None) -> Located:
        """The boxes of the most likely classes and of the true class ``truth`` in one image.
        ``sample`` is the result of `sample` for its ``pixels`` (h, w, 3) uint8."""
        candidates = self.first_stage(Batch.collate([sample], pad=False), truth)
        if self.second:
            candidates = candidates.rescored(
                (label, self.score_regions(warp_regions(pixels, boxes, self.squares), label))
                for label, boxes in self.parts(candidates)
            )
        return self.located(candidates, truth)

    def located(self, candidates: Candidates, truth: int | None = None) -> Located:
        """The best box of each label that has one, scored with the label's probability."""
        best = {
            label: self._merged(found) for label, found in candidates.boxes.items() if len(found)
        }
        predicted = [
            Detections(best[label].boxes, torch.tensor([probability]), best[label].labels)
            for label, probability in zip(candidates.likely, candidates.probabilities, strict=True)
            if label in best
        ]
        true_class = Detections.empty() if truth is None else best.get(truth, Detections.empty())
        return Located(Detections.cat(predicted), true_class)

    def _merged(self, candidates: Detections) -> Detections:
        """The best candidate of one label, after box voting if ``vote_iou`` is given."""
        best = int(candidates.scores.argmax())
        survivor = candidates[best : best + 1]
        if self.vote_iou is None:
            return survivor
        return vote(survivor, candidates, iou=self.vote_iou)

    # ---------------------------------------------------------------------------- stage one

    @torch.inference_mode()
    def first_stage(self, batch: Batch, truth: int | None = None) -> Candidates:
        """Stage one on a batch of one image, for the likely labels and the ``truth``, on the CPU:
        the proposals where there is a second stage, else all candidates."""
        batch = batch.to(self.device)
        parts = (batch, *batch.views)
        count = len(parts) - len(self._placed)
        likely, probabilities = self._likely(parts[:count])
        labels = list(dict.fromkeys([*likely, *([] if truth is None else [truth])]))
        views = dict(zip(self._placed, parts[count:], strict=True))
        found: dict[int, list[Detections]] = {label: [] for label in labels}
        for stage in self.first if labels else ():
            for crop in stage.crops:
                scored = _score_view(stage.model, views[crop], labels)
                for label, part in zip(labels, scored, strict=True):
                    found[label].append(part)
        boxes = {label: Detections.cat(joined) for label, joined in found.items()}
        if self.second:
            boxes = {label: self._best(candidates) for label, candidates in boxes.items()}
        return Candidates(boxes, likely, probabilities)

    @torch.inference_mode()
    def propose(self, batch: Batch, label: int) -> Tensor:
        """(P, 4) proposals for ``label`` in a batch of one image, best first, on the CPU."""
        return self._best(self.first_stage(batch, label).boxes[label]).boxes

    def _likely(self, views: Sequence[Batch]) -> tuple[list[int], list[float]]:
        if self.classifiers is None:
            return [], []
        batch = replace(views[0], views=tuple(views[1:]))
        scores = self.classifiers.scores.predict(batch)[0][self.classifiers.order]
        labels = torch.arange(len(scores)) if self.among is None else self.among
        chosen = scores[labels]
        if self.among is not None:
            chosen = chosen / chosen.sum().clamp(min=torch.finfo(chosen.dtype).tiny)
        best = chosen.topk(min(self.top, len(labels)))
        return labels[best.indices].tolist(), best.values.tolist()

    def _best(self, candidates: Detections) -> Detections:
        """The best candidates after NMS, ``count`` for each network."""
        kept = greedy_nms(candidates.boxes, candidates.scores, iou=self.nms_iou)
        return candidates[kept[: self.count * len(self.first)]]

    # ---------------------------------------------------------------------------- stage two

    def parts(self, candidates: Candidates) -> list[tuple[int, Tensor]]:
        """The inputs of stage two: (label, boxes), at most ``regions_at_once`` boxes each."""
        return [
            (label, boxes)
            for label, found in candidates.boxes.items()
            if len(found)
            for boxes in found.boxes.split(self.regions_at_once)
        ]

    @torch.inference_mode()
    def score_regions(self, regions: Batch, label: int) -> Detections:
        """Scores and boxes averaged over the networks of stage two, on the CPU; ``regions`` are
        `warp_regions` of the image, some boxes and ``squares``."""
        views = dict(zip(self.squares, (regions, *regions.views), strict=True))
        members = [
            _score_regions(stage.model, views[stage.square].to(self.device), label)
            for stage in self.second
        ]
        scores = torch.stack([scores for scores, _ in members]).mean(dim=0)
        boxes = torch.stack([boxes for _, boxes in members]).mean(dim=0)
        return _usable(box_ops.clip(boxes, regions.geometries[0].original), scores, label)


def _score_view(model: Localizer, view: Batch, labels: Sequence[int]) -> list[Detections]:
    """The best anchors of each label in one view of the image, in the image's pixels."""
    geometry = view.geometries[0]
    scores, boxes = model.score(view.images, torch.tensor(labels, device=view.images.device))
    best = scores.topk(min(BEST_OF_VIEW, scores.shape[1]))
    found = []
    for values, indices, own, label in zip(best.values, best.indices, boxes, labels, strict=True):
        original = geometry.invert(own[indices].float().cpu())
        clipped = box_ops.clip(original, geometry.original)
        found.append(_usable(clipped, values.float().cpu(), label))
    return found


def _score_regions(model: RegionLocalizer, regions: Batch, label: int) -> tuple[Tensor, Tensor]:
    """Scores (P,) and boxes (P, 4), in the image's pixels, of one network."""
    labels = torch.full((len(regions),), label, device=regions.images.device)
    scores, boxes = model.score(regions.images, labels)
    original = [
        geometry.invert(box)
        for geometry, box in zip(regions.geometries, boxes.float().cpu(), strict=True)
    ]
    return scores.float().cpu(), torch.stack(original)


def _usable(boxes: Tensor, scores: Tensor, label: int) -> Detections:
    """Detections without boxes that are empty or not finite."""
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1)
    kept = int(keep.sum())
    return Detections(boxes[keep], scores[keep], torch.full((kept,), label))

"""Where is each class in an image, over all sizes, stages and networks of a localizer?

L labels asked for · P proposals of one label. Images are (h, w, 3) uint8 RGB, boxes in their
pixels. A box is asked for by class, so that 1000 classes cost what the five asked for do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.ops import nms

from ...datasets.loading.crops import PlacedCrop, crop_sample
from ...datasets.loading.regions import warp
from ..models.localizer import Localizer, RegionLocalizer
from ..ops import boxes as box_ops
from ..ops.nms import vote
from ..structures import Batch, Detections, Located
from .classify import ScorePipeline

#: Anchors of one view and class that are looked at further; a dense view has thousands.
BEST_OF_VIEW = 1000


@dataclass(frozen=True)
class Proposer:
    """A network of stage one and the crops of an image it looks at."""

    model: Localizer
    crops: tuple[PlacedCrop, ...]


@dataclass(frozen=True)
class Judge:
    """A network of stage two and how it wants its regions."""

    model: RegionLocalizer
    size: int
    padding: int


@dataclass(frozen=True)
class Chooser:
    """The classifiers that say which classes to look for.

    ``order[i]`` is the place of the localizer's class i among the classifiers' classes.
    """

    scores: ScorePipeline
    order: Tensor

    def probabilities(self, pixels: np.ndarray, device: torch.device) -> Tensor:
        """(K,) of the localizer's classes, on the CPU."""
        batch = Batch.collate([crop_sample(pixels, self.scores.crops)], pad=False)
        return self.scores.predict(batch.to(device))[0][self.order]


class LocationPipeline:
    """One box for each class asked for, from one or several networks of either stage.

    Without ``judges`` it is the best of stage one: candidates of all views and networks are joined.
    With them, the best proposals of each class, left by NMS at ``nms_iou``, are warped, and scored
    and regressed again; the members' scores and boxes are averaged. Proposals of several networks
    are joined, and ``count`` times as many as there are networks are kept. With
    ``vote_iou`` all candidates that overlap the best box by as much vote on it.
    """

    def __init__(
        self,
        proposers: Sequence[Proposer],
        judges: Sequence[Judge] = (),
        chooser: Chooser | None = None,
        *,
        count: int = 200,
        nms_iou: float = 0.7,
        regions_at_once: int = 64,
        top: int = 5,
        vote_iou: float | None = None,
    ) -> None:
        self.proposers, self.judges, self.chooser = tuple(proposers), tuple(judges), chooser
        self.count, self.nms_iou = count, nms_iou
        self.regions_at_once = regions_at_once
        self.top = top
        self.vote_iou = vote_iou

    @property
    def device(self) -> torch.device:
        return self.proposers[0].model.anchors.cells.device

    def to(self, device: torch.device) -> LocationPipeline:
        for model in self._models():
            model.to(device)
        return self

    def eval(self) -> LocationPipeline:
        for model in self._models():
            model.eval()
        return self

    def _models(self) -> Iterator[nn.Module]:
        yield from (proposer.model for proposer in self.proposers)
        yield from (judge.model for judge in self.judges)
        if self.chooser is not None:
            yield from (member.model for member in self.chooser.scores.members)

    @torch.inference_mode()
    def locate(self, pixels: np.ndarray, truth: int | None = None) -> Located:
        """Boxes of the classes that the classifiers think most likely, and of the ``truth``."""
        likely, probabilities = self._likely(pixels)
        asked = list(dict.fromkeys([*likely, *([] if truth is None else [truth])]))
        found = {int(row.labels[0]): row for row in self.boxes_of(pixels, asked)}
        predicted = [
            Detections(found[label].boxes, torch.tensor([probability]), found[label].labels)
            for label, probability in zip(likely, probabilities, strict=True)
            if label in found
        ]
        of_true_class = (
            Detections.empty() if truth is None else found.get(truth, Detections.empty())
        )
        return Located(Detections.cat(predicted), of_true_class)

    @torch.inference_mode()
    def boxes_of(self, pixels: np.ndarray, labels: Sequence[int]) -> list[Detections]:
        """The best box of each label, one row each, on the CPU; what has none is left out."""
        candidates = self._candidates(pixels, labels)
        if self.judges:
            proposals = {label: self._best(candidates[label]).boxes for label in labels}
            candidates = {label: self._judged(pixels, proposals[label], label) for label in labels}
        return [self._merged(candidates[label]) for label in labels if len(candidates[label])]

    @torch.inference_mode()
    def propose(self, pixels: np.ndarray, label: int) -> Tensor:
        """(P, 4) regions that may show ``label``, best first, on the CPU."""
        return self._best(self._candidates(pixels, [label])[label]).boxes

    def _likely(self, pixels: np.ndarray) -> tuple[list[int], list[float]]:
        if self.chooser is None:
            return [], []
        scores = self.chooser.probabilities(pixels, self.device)
        best = scores.topk(min(self.top, len(scores)))
        return best.indices.tolist(), best.values.tolist()

    # ---------------------------------------------------------------------------- stage one

    def _candidates(self, pixels: np.ndarray, labels: Sequence[int]) -> dict[int, Detections]:
        """Scored boxes of each label over all views of all proposers, best of each first."""
        found: dict[int, list[Detections]] = {label: [] for label in labels}
        for proposer in self.proposers:
            if not labels:
                break
            for crop in proposer.crops:
                for label, part in zip(labels, _seen(proposer, crop, pixels, labels), strict=True):
                    found[label].append(part)
        return {label: Detections.cat(parts) for label, parts in found.items()}

    def _best(self, candidates: Detections) -> Detections:
        """The best that do not overlap a better one: ``count`` for each network."""
        kept = nms(candidates.boxes, candidates.scores, self.nms_iou)
        return candidates[kept[: self.count * len(self.proposers)]]

    # ---------------------------------------------------------------------------- stage two

    def _judged(self, pixels: np.ndarray, proposals: Tensor, label: int) -> Detections:
        """The proposals (P, 4) of one label with new scores and boxes, averaged over the judges."""
        if len(proposals) == 0:
            return Detections.empty()
        answers = [self._judge(judge, pixels, proposals, label) for judge in self.judges]
        scores = torch.stack([scores for scores, _ in answers]).mean(dim=0)
        boxes = torch.stack([boxes for _, boxes in answers]).mean(dim=0)
        boxes = box_ops.clip(boxes, (pixels.shape[0], pixels.shape[1]))
        return _usable(boxes, scores, label)

    def _judge(
        self, judge: Judge, pixels: np.ndarray, proposals: Tensor, label: int
    ) -> tuple[Tensor, Tensor]:
        """Scores (P,) and boxes (P, 4) of one network, a few regions at a time."""
        scores, boxes = [], []
        for part in proposals.split(self.regions_at_once):
            warped = [warp(pixels, box, size=judge.size, padding=judge.padding) for box in part]
            images = torch.from_numpy(np.stack([image for image, _ in warped]))
            labels = torch.full((len(part),), label, device=self.device)
            answers = judge.model.score(images.permute(0, 3, 1, 2).to(self.device), labels)
            scores.append(answers[0].float().cpu())
            boxes += [
                cut.invert(box)
                for (_, cut), box in zip(warped, answers[1].float().cpu(), strict=True)
            ]
        return torch.cat(scores), torch.stack(boxes)

    # ------------------------------------------------------------------------------- answer

    def _merged(self, candidates: Detections) -> Detections:
        """The best of one label, where the others may have voted on its box."""
        best = int(candidates.scores.argmax())
        survivor = candidates[best : best + 1]
        if self.vote_iou is None:
            return survivor
        return vote(survivor, candidates, iou=self.vote_iou)


class ImageLocator:
    """A pipeline with classifiers as a `Predictor` takes it: images in, boxes of the most likely
    classes out, scored with their probabilities. Batches must hold the images untouched."""

    def __init__(self, pipeline: LocationPipeline) -> None:
        self.pipeline = pipeline

    def to(self, device: torch.device) -> ImageLocator:
        self.pipeline.to(device)
        return self

    def eval(self) -> ImageLocator:
        self.pipeline.eval()
        return self

    def predict(self, batch: Batch) -> list[Detections]:
        images = zip(batch.images.cpu(), batch.sizes, strict=True)
        return [
            self.pipeline.locate(image[:, :h, :w].permute(1, 2, 0).numpy()).predicted
            for image, (h, w) in images
        ]


def _seen(
    proposer: Proposer, crop: PlacedCrop, pixels: np.ndarray, labels: Sequence[int]
) -> list[Detections]:
    """The best anchors of each label in one view of the image, in the image's pixels."""
    size = (pixels.shape[0], pixels.shape[1])
    cut = crop.place(size, 0)
    device = proposer.model.anchors.cells.device
    image = crop(pixels, 0).permute(2, 0, 1)[None].to(device)
    scores, boxes = proposer.model.score(image, torch.tensor(labels, device=device))
    best = scores.topk(min(BEST_OF_VIEW, scores.shape[1]))
    found = []
    for values, indices, own, label in zip(best.values, best.indices, boxes, labels, strict=True):
        original = box_ops.clip(cut.invert(own[indices].float().cpu()), size)
        found.append(_usable(original, values.float().cpu(), label))
    return found


def _usable(boxes: Tensor, scores: Tensor, label: int) -> Detections:
    """Without boxes that are empty or not finite, which show nothing."""
    keep = (boxes[:, 2:] > boxes[:, :2]).all(dim=1) & boxes.isfinite().all(dim=1)
    kept = int(keep.sum())
    return Detections(boxes[keep], scores[keep], torch.full((kept,), label))

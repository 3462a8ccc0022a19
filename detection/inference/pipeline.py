"""The prediction of detections: networks, scales, flips and refinement, then one suppression.

Every option adds candidates, and all candidates go through one suppression, so that refinement,
test-time scales, the pyramid and ensembles can be combined. One member without options is the plain
detector.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...datasets.image import LoadedImage
from ...datasets.loading.transforms import EvalTransform, make_sample
from ..errors import ConfigError
from ..models.faster_rcnn import FasterRCNN
from ..ops import boxes as box_ops
from ..structures import Annotation, Batch, Detections, Geometry, Sample
from .scorers import EnsembleScorer, FeatureMap, NetworkScorer, Scorer, score_refined

Result = TypeVar("Result")
Given = TypeVar("Given", covariant=True)


@dataclass(frozen=True)
class DetectorMember:
    """One network with the ``scales`` of its passes, on each of which it proposes, and the
    ``pyramid`` of scales, small to large, on which regions are scored; empty: on the scale of the
    pass. ``flip`` adds passes over the flipped image; ``region_side`` is that of
    `adjacent_scales`."""

    model: FasterRCNN
    scales: tuple[EvalTransform, ...]
    pyramid: tuple[EvalTransform, ...] = ()
    flip: bool = False
    region_side: float = 224.0


@dataclass(frozen=True)
class Prepared:
    """One image as displayed (``loaded``) and as the networks' input (``sample``)."""

    loaded: LoadedImage
    sample: Sample

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) as displayed."""
        return self.loaded.size


class ImagePipeline(Protocol[Given]):
    """The interface of `Pipeline`, `LocationPipeline` and `ScorePipeline` that a predictor uses."""

    def to(self, device: torch.device) -> object: ...

    def eval(self) -> object: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def sample(self, pixels: NDArray[np.uint8], image_id: str = "") -> Sample:
        """The input for one image (h, w, 3) uint8 RGB."""

    def detect(self, prepared: Sequence[Prepared]) -> Sequence[Given]:
        """The results of images of any sizes, in their order, on the CPU."""


class Pipeline(nn.Module):
    """Detections from one or several networks; the classes of all have the same order.

    ``transforms`` are the views that a batch must carry: the first one its own, the others in
    `Batch.views`. ``suppress`` is that of `ops/nms.py` with its settings; candidates that score
    ``score_threshold`` or less do not reach it. ``rounds`` are those of `score_refined`.

    In each pass all members score the union of their proposals. There are as many passes as the
    member with the most scales has, and as many again, flipped, if a member is tested so: a member
    with fewer scales repeats its last one, and one without ``flip`` its unflipped passes.
    """

    def __init__(
        self,
        members: Sequence[DetectorMember],
        *,
        suppress: Callable[[Detections], Detections],
        score_threshold: float = 0.0,
        rounds: int = 0,
    ) -> None:
        super().__init__()
        self.members = tuple(members)
        self.networks = nn.ModuleList(member.model for member in members)
        self.suppress = suppress
        self.score_threshold = score_threshold
        self.rounds = rounds
        self.transforms = tuple(
            dict.fromkeys(
                replace(transform, flipped=flipped)
                for flipped in (False, True)
                for member in members
                for transform in (*member.scales, *member.pyramid)
                if member.flip or not flipped
            )
        )

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        """Detections in original pixels, suppressed and sorted by score. Needs ``eval()``."""
        return [self.suppress(found) for found in self.candidates(batch)]

    @torch.no_grad()
    def candidates(self, batch: Batch) -> list[Detections]:
        """Scored boxes in original pixels before suppression. Needs ``eval()``."""
        if any(network.training for network in self.networks):
            raise RuntimeError("predict needs the models in eval mode: call eval() first")
        views = dict(zip(self.transforms, (batch, *batch.views), strict=True))
        candidates: list[list[Detections]] = [[] for _ in range(len(batch))]
        for scorer in self._scorers(views):
            scored = score_refined(scorer, scorer.propose(), rounds=self.rounds)
            for found, probs, boxes, geometry in zip(
                candidates, *scored, scorer.geometries, strict=True
            ):
                found.append(restore(probs, boxes, geometry, score_threshold=self.score_threshold))
        return [Detections.cat(parts) for parts in candidates]

    def sample(self, pixels: NDArray[np.uint8], image_id: str = "") -> Sample:
        """The input for one image (h, w, 3) uint8 RGB, with the views of ``transforms``."""
        return make_sample(pixels, Annotation.empty(), self.transforms, image_id=image_id)

    @torch.inference_mode()
    def detect(self, prepared: Sequence[Prepared]) -> list[Detections]:
        """`predict` for images of any sizes, in their order, on the CPU; those of equal network
        size share a batch, so that none is padded."""
        found = in_equal_batches(prepared, lambda batch: self.predict(batch.to(self.device)))
        return [one.to("cpu") for one in found]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def _scorers(self, views: Mapping[EvalTransform, Batch]) -> Iterator[Scorer]:
        """A scorer for each pass over the images; keeps the maps of one orientation in memory."""
        flips = any(member.flip for member in self.members)
        for flipped in (False, True) if flips else (False,):
            scorers = [_network_scorers(member, views, flipped) for member in self.members]
            for index in range(max(map(len, scorers))):
                members = [passes[min(index, len(passes) - 1)] for passes in scorers]
                yield EnsembleScorer(members) if len(members) > 1 else members[0]


def expect_ready(pipeline: ImagePipeline[Any]) -> None:
    """Raise ConfigError where the networks of a pipeline were changed by hand."""
    if any(module.training for module in pipeline.modules()):
        raise ConfigError("the networks are in training mode: call model.pipeline.eval()")
    types = {each.dtype for each in pipeline.parameters() if each.is_floating_point()}
    if types - {torch.float32}:
        raise ConfigError(
            f"the weights are {', '.join(map(str, types))}: keep them float32, and compute in half "
            "precision with model.to(precision='fp16') or 'bf16'"
        )


def network_shapes(prepared: Prepared) -> tuple[torch.Size, ...]:
    """The shapes of all views of an image: those of equal shapes can share a batch."""
    return tuple(view.image.shape for view in (prepared.sample, *prepared.sample.views))


def in_equal_batches(
    prepared: Sequence[Prepared], predict: Callable[[Batch], list[Result]]
) -> list[Result]:
    """The results of ``predict`` for images of any sizes, in their order: those of equal network
    size share a batch, so that none is padded."""
    groups: dict[tuple[torch.Size, ...], list[int]] = {}
    for index, image in enumerate(prepared):
        groups.setdefault(network_shapes(image), []).append(index)
    found: dict[int, Result] = {}
    for indices in groups.values():
        batch = Batch.collate([prepared[index].sample for index in indices], pad=False)
        found |= zip(indices, predict(batch), strict=True)
    return [found[index] for index in range(len(prepared))]


def _network_scorers(
    member: DetectorMember, views: Mapping[EvalTransform, Batch], flipped: bool
) -> list[NetworkScorer]:
    """One network's scorer for each of its passes; every scale is extracted once."""
    flipped = flipped and member.flip
    maps = {
        transform: FeatureMap.of(member.model, views[replace(transform, flipped=flipped)])
        for transform in dict.fromkeys((*member.scales, *member.pyramid))
    }
    pyramid = [maps[transform] for transform in member.pyramid]
    return [
        NetworkScorer(member.model, maps[scale], pyramid, region_side=member.region_side)
        for scale in member.scales
    ]


def restore(
    probs: Tensor, boxes: Tensor, geometry: Geometry, *, score_threshold: float
) -> Detections:
    """(P, K + 1) and (P, K, 4) in network pixels to candidates in original pixels.

    Boxes that are empty after clipping, or not finite, are left out.
    """
    scores = probs[:, :-1]
    keep = scores > score_threshold
    keep &= (boxes[..., 2:] > boxes[..., :2]).all(dim=-1) & boxes.isfinite().all(dim=-1)
    region, label = torch.nonzero(keep, as_tuple=True)
    original = box_ops.clip(geometry.invert(boxes[region, label]), geometry.original)
    return Detections(original, scores[region, label], label)

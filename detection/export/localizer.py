"""An exported localizer of either stage: its graph, what stands in its place, and the comparison.

L requested labels · B anchors of the image · P regions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..models.faster_rcnn import expect_finite
from ..models.localizer import Localizer, RegionLocalizer
from .detector import EXAMPLE, IMAGES
from .folder import MODEL, RUNNER
from .network import Export, ExportedNetwork, open_network
from .verify import Agreement, agreement, as_batch, draw_shapes, trials
from .writing import Graph

FINITE = "() bool, false where the network gave NaN or infinity: raise an error then"
FIRST_OUTPUTS = {
    "scores": "(L, B) float32 of each label at each anchor",
    "boxes": "(L, B, 4) float32, x1 y1 x2 y2 in pixels of the input",
    "finite": FINITE,
}
SECOND_OUTPUTS = {
    "scores": "(P,) float32 of each region's label",
    "boxes": "(P, 4) float32, x1 y1 x2 y2 in pixels of the input, not clipped",
    "finite": FINITE,
}
FIRST_LABELS = "labels (L,) int64, indices into classes; one image at a time"
SECOND_LABELS = "labels (P,) int64, an index into classes for each region"


class LocalizerGraph(nn.Module):
    """Images and labels to ``scores``, ``boxes`` and ``finite`` of a localizer of either stage."""

    def __init__(self, model: Localizer | RegionLocalizer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, deltas, boxes = self.model.outputs(images, labels)
        finite = logits.isfinite().all() & deltas.isfinite().all()
        return logits.sigmoid(), boxes, finite


class ExportedLocalizer(nn.Module):
    """The interface of `Localizer` and `RegionLocalizer` in prediction, for their graph."""

    def __init__(self, network: ExportedNetwork) -> None:
        super().__init__()
        self.network = network

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and boxes, as those of the network; raises DivergedError for NaN and infinity."""
        scores, boxes, finite = self.network(images, labels)
        if not finite:
            expect_finite(torch.tensor(torch.nan))
        return scores, boxes


def first_localizer(model: Localizer, classes: int, side: int, crops: Mapping[str, Any]) -> Export:
    """The first stage as one graph; ``side`` is that of its crops, ``crops`` describe them for
    ``meta.json``."""

    def images() -> Iterator[tuple[str, Tensor]]:
        for content, pixels in trials(side, 2 * side):
            if len(pixels) == 1:
                yield content, as_batch(pixels).images

    example = torch.randint(0, 256, (1, *EXAMPLE[1:]), dtype=torch.uint8)
    graph = Graph(
        LocalizerGraph(model),
        {
            "images": example.to(memory_format=torch.channels_last),
            "labels": torch.arange(3) % classes,
        },
        {"images": {2: "height", 3: "width"}, "labels": {0: "labels"}},
        FIRST_OUTPUTS,
    )
    given = {"name": "images", **IMAGES, "labels": FIRST_LABELS, **crops}
    labels = torch.arange(min(5, classes))
    return Export({MODEL: graph}, given, {}, _verify(model, images, lambda _: labels), (RUNNER,))


def second_localizer(
    model: RegionLocalizer, classes: int, size: int, regions: Mapping[str, Any]
) -> Export:
    """The second stage as one graph, for warped regions of ``size`` pixels, which ``regions``
    describe for ``meta.json``."""

    def images() -> Iterator[tuple[str, Tensor]]:
        for count in (1, 3):
            pixels = [draw_shapes((size, size), count + index) for index in range(count)]
            yield "shapes", as_batch(pixels).images
        yield "nothing", as_batch([np.full((size, size, 3), 128, np.uint8)]).images

    example = torch.randint(0, 256, (3, 3, size, size), dtype=torch.uint8)
    graph = Graph(
        LocalizerGraph(model),
        {
            "images": example.to(memory_format=torch.channels_last),
            "labels": torch.arange(3) % classes,
        },
        {"images": {0: "regions"}, "labels": {0: "regions"}},
        SECOND_OUTPUTS,
    )
    given = {"name": "images", **IMAGES, "labels": SECOND_LABELS, **regions}
    check = _verify(model, images, lambda batch: torch.arange(len(batch)) % classes)
    return Export({MODEL: graph}, given, {}, check)


def _verify(
    model: Localizer | RegionLocalizer,
    images: Callable[[], Iterator[tuple[str, Tensor]]],
    labels: Callable[[Tensor], Tensor],
) -> Callable[[Path], list[Agreement]]:
    def verify(folder: Path) -> list[Agreement]:
        exported, found = ExportedLocalizer(open_network(folder)), []
        for content, batch in images():
            pairs = zip(
                exported.score(batch, labels(batch)),
                model.score(batch, labels(batch)),
                strict=True,
            )
            scores, boxes = pairs
            found.append(agreement(content, batch, scores, boxes))
        return found

    return verify

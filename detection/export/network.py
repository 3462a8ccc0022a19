"""An exported network in its runtime, in the place of the torch network, and what is exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...datasets.loading.transforms import EvalTransform, make_sample
from ..inference.pipeline import Prepared, in_equal_batches
from ..models.faster_rcnn import expect_finite
from ..ops import boxes as box_ops
from ..structures import Annotation, Batch, Detections, Sample
from .folder import MODEL, graph_file
from .runtimes import RUNTIMES, open_graph
from .verify import Agreement
from .writing import Graph


class ExportedNetwork(nn.Module):
    """A graph in its runtime, on the CPU; it can be pickled and used from several threads.

    ``place`` is empty: it is on the device that inputs come from and outputs go to. Raises as
    `open_graph`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self._session = open_graph(path)

    @property
    def runtime(self) -> str:
        """The package that runs it."""
        return RUNTIMES[self.path.suffix].package

    def forward(self, *inputs: Tensor, outputs: Sequence[str] | None = None) -> list[Tensor]:
        """The ``outputs`` of the graph, or all, for its inputs in order, on their device."""
        arrays = [np.ascontiguousarray(given.cpu().numpy()) for given in inputs]
        found = self._session.run(arrays, outputs)
        return [torch.from_numpy(value).to(inputs[0].device) for value in found]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._session = open_graph(self.path)


def open_network(folder: Path, name: str = MODEL) -> ExportedNetwork:
    """The graph ``name`` in ``folder``; raises as `open_graph`."""
    return ExportedNetwork(graph_file(folder, name))


class ExportedPipeline(nn.Module):
    """The interface of `Pipeline` for a graph of the whole detector, `DetectorGraph`, which holds
    the thresholds and the suppression; ``transform`` is the resize before it."""

    def __init__(self, network: ExportedNetwork, transform: EvalTransform) -> None:
        super().__init__()
        self.network = network
        self.transforms = (transform,)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Detections]:
        """Detections in original pixels, sorted by score. Images of different sizes run apart,
        without their padding."""
        groups: dict[tuple[int, int], list[int]] = {}
        for index, size in enumerate(batch.sizes):
            groups.setdefault(size, []).append(index)
        found: dict[int, Detections] = {}
        for (height, width), indices in groups.items():
            image, boxes, scores, labels, finite = self.network(
                batch.images[indices, :, :height, :width]
            )
            if not finite:
                expect_finite(torch.tensor(torch.nan))
            for place, index in enumerate(indices):
                own = image == place
                geometry = batch.geometries[index]
                original = box_ops.clip(geometry.invert(boxes[own]), geometry.original)
                found[index] = Detections(original, scores[own], labels[own])
        return [found[index] for index in range(len(batch))]

    def sample(self, pixels: NDArray[np.uint8], image_id: str = "") -> Sample:
        """The input for one image (h, w, 3) uint8 RGB."""
        return make_sample(pixels, Annotation.empty(), self.transforms, image_id=image_id)

    @torch.inference_mode()
    def detect(self, prepared: Sequence[Prepared]) -> list[Detections]:
        """`predict` for images of any sizes, in their order."""
        return in_equal_batches(prepared, self.predict)


@dataclass(frozen=True)
class Export:
    """What is to be exported: the graphs by name, what they take, their settings, and the
    comparison of the files in a folder with the checkpoint."""

    graphs: Mapping[str, Graph]
    input: Mapping[str, Any]
    settings: Mapping[str, Any]
    verify: Callable[[Path], list[Agreement]]
    #: Scripts that run the graphs, beside them.
    runners: Sequence[Path] = ()
    #: Writes what else belongs into the folder.
    write_rest: Callable[[Path], None] | None = None

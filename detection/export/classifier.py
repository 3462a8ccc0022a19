"""An exported classifier: its graph, what stands in the place of the network, and the comparison.

N images · K classes · C channels · h, w the last feature map.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..models.classifier import Classifier
from .detector import EXAMPLE, IMAGE_SIDES, IMAGES
from .folder import MODEL, RUNNER
from .network import Export, ExportedNetwork, open_network
from .verify import Agreement, agreement, as_batch, trials
from .writing import Graph

OUTPUTS = {
    "logits": "(N, K) float32 of the image as one crop: softmax gives the scores",
    "dense_logits": "(N, K) float32, the mean over all positions of a crop in a larger image",
}


class ClassifierGraph(nn.Module):
    """(N, 3, H, W) uint8 RGB to ``logits`` and ``dense_logits`` (N, K) of a `Classifier`."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        network = self.model.network
        features = network.features(self.model.pixels.normalise(images))
        weights = self._coverage(features[0, 0, :, 0])[:, None] * self._coverage(features[0, 0, 0])
        middle, dense = features.mean(dim=(2, 3)), (features * weights).sum(dim=(2, 3))
        return network.fc(middle), network.fc(dense)

    def _coverage(self, line: Tensor) -> Tensor:
        """The share (n,) of each of n cells in a row in the mean over all places of the window.

        A mean of means over windows is one weighted mean, which needs no pooling of a size that
        depends on the image.
        """
        index = torch.arange(line.shape[0], device=line.device)
        count = index[-1] + 1
        window = count.clamp(max=self.model.window)
        inside = torch.minimum(index + 1, count - index)  # windows that hold the cell, if they fit
        covered = torch.minimum(inside, torch.minimum(window, count - window + 1)).float()
        return covered / covered.sum()


class ExportedClassifier(nn.Module):
    """The interface of `Classifier` in prediction, for a `ClassifierGraph`."""

    def __init__(self, network: ExportedNetwork) -> None:
        super().__init__()
        self.network = network

    def logits(self, images: Tensor) -> Tensor:
        """(N, K), as `Classifier.logits`."""
        return self.network(images, outputs=["logits"])[0]

    def dense_logits(self, images: Tensor) -> Tensor:
        """(N, K), as `Classifier.dense_logits`."""
        return self.network(images, outputs=["dense_logits"])[0]


def whole_classifier(
    model: Classifier, side: int, crops: Mapping[str, Any], settings: Mapping[str, Any]
) -> Export:
    """A classifier as one graph; ``side`` is that of its crops, ``crops`` describe them for
    ``meta.json``."""
    example = torch.randint(0, 256, EXAMPLE, dtype=torch.uint8)
    graph = Graph(
        ClassifierGraph(model),
        {"images": example.to(memory_format=torch.channels_last)},
        {"images": IMAGE_SIDES},
        OUTPUTS,
    )

    def verify(folder: Path) -> list[Agreement]:
        exported, found = ExportedClassifier(open_network(folder)), []
        for content, pixels in trials(side, 2 * side):
            images = as_batch(pixels).images
            pairs = [
                (exported.logits(images), model.logits(images)),
                (exported.dense_logits(images), model.dense_logits(images)),
            ]
            own, wanted = (torch.stack(each).softmax(dim=2) for each in zip(*pairs, strict=True))
            none = own.new_zeros(*own.shape, 4)
            found.append(agreement(content, images, (own, wanted), (none, none)))
        return found

    given = {"name": "images", **IMAGES, **crops}
    return Export({MODEL: graph}, given, settings, verify, (RUNNER,))

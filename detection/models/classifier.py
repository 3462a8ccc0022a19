"""The classifier: a network, its pixel normalisation, and its scores of crops or whole images.

N images · K classes · C channels · h, w the last feature map.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.base import ClassifierNet
from ...backbones.pixels import PixelNorm
from ..structures import Batch
from .compiled import Part


class Classifier(nn.Module):
    """A network with its pixel normalisation; images are (N, 3, H, W) uint8 RGB, unpadded.

    ``window`` is the side of the last map for an image of the training size: the mean before ``fc``
    is over that many cells; see `dense_logits`.
    """

    def __init__(
        self,
        pixels: PixelNorm,
        network: ClassifierNet,
        *,
        window: int,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.pixels = pixels
        self.network = network
        self.window = window
        self.label_smoothing = label_smoothing

    def parts_to_compile(self) -> list[Part]:
        return [Part(self.network, "features")]  # of both forms

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss_cls``, the cross-entropy, and ``top1_error``, a fraction without gradient.

        With ``label_smoothing`` e the true class's target is 1 - e + e / K, any other's e / K
        (Szegedy et al., arXiv:1512.00567, section 7).
        """
        logits = self.logits(batch.images)
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.label_smoothing)
        wrong = logits.detach().argmax(dim=1) != batch.labels
        return {"loss_cls": loss, "top1_error": wrong.float().mean()}

    def logits(self, images: Tensor) -> Tensor:
        """(N, K): the logits of each image as one crop, with the mean over all positions."""
        return self.network(self.pixels.normalise(images))

    def dense_logits(self, images: Tensor) -> Tensor:
        """(N, K): the fully-convolutional form (paper, section 3.4), for images of any size.

        Mean and ``fc`` slide over the last map in steps of one cell, as the network of the training
        size, and the logits of all positions are averaged. An image of the training size has one
        position: `logits`. Where the map is smaller than the window, the window is cut to it.
        """
        features = self.network.features(self.pixels.normalise(images))
        height, width = (min(self.window, side) for side in features.shape[2:])
        means = F.avg_pool2d(features, (height, width), stride=1)
        fc = self.network.fc
        return F.conv2d(means, fc.weight[:, :, None, None], fc.bias).mean(dim=(2, 3))

"""The interface of backbones: a chain of stages from which trunk, tail and classifier are built.

N images · P regions · H, W input size · C channels · K classes. A family derives from `Backbone`,
names its stages and builds each; what detectors, localizers and classifiers need follows from that.
The last stage is the tail: detectors run it on each region (ResNet paper, appendix A).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from .blocks import Pool, Shortcut
from .pixels import PIXELS, PixelStats


class Trunk(nn.Sequential):
    """(N, 3, H, W) normalised images to (N, ``channels``, H / ``stride``, W / ``stride``).

    The first ``frozen_stages`` stages have no gradients and keep their BN statistics in any mode.
    """

    def __init__(
        self, stages: Mapping[str, nn.Module], *, channels: int, stride: int, frozen_stages: int = 0
    ) -> None:
        super().__init__()
        _add(self, stages)
        self.channels, self.stride = channels, stride
        self._frozen = list(stages.values())[:frozen_stages]
        for stage in self._frozen:
            stage.requires_grad_(False)

    def train(self, mode: bool = True) -> Trunk:
        super().train(mode)
        for stage in self._frozen:
            stage.eval()
        return self


class ClassifierNet(nn.Module):
    """(N, 3, H, W) normalised images to (N, K) logits: all stages, global mean, one linear layer.

    ``stride`` is the number of input pixels per cell of the last map.
    """

    def __init__(
        self, stages: Mapping[str, nn.Module], *, channels: int, stride: int, classes: int
    ) -> None:
        super().__init__()
        _add(self, stages)
        self._stages = tuple(stages)
        self.stride = stride
        self.fc = nn.Linear(channels, classes)
        # He's initialisation without the factor for a ReLU, as none follows.
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="linear")
        nn.init.zeros_(self.fc.bias)

    def features(self, images: Tensor) -> Tensor:
        """(N, C, h, w), the last map, whose mean over all positions ``fc`` reads."""
        for name in self._stages:
            images = getattr(self, name)(images)
        return images

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean(dim=(2, 3)))


def _add(module: nn.Module, stages: Mapping[str, nn.Module]) -> None:
    for name, stage in stages.items():
        module.add_module(name, stage)


@runtime_checkable
class RunsOnMap(Protocol):
    """Optional interface of the first block of a tail: it runs on the feature map itself.

    ``forward_on_map(features, pool)`` equals ``forward(pool(features, 1))`` for a linear ``pool``
    and does less work where regions overlap. Other tails run on pooled crops.
    """

    stride: int
    forward_on_map: Callable[[Tensor, Pool], Tensor]


@dataclass(frozen=True)
class Backbone(ABC):
    """The description of a network, which builds its parts.

    The fields are the settings of a config. A family ignores those that do not apply, such
    as ``stride_in`` without bottlenecks.
    """

    depth: int
    #: Channels of the first stage.
    width: int = 64
    norm: str = "frozen"
    stride_in: str = "3x3"
    shortcut: Shortcut = "B"
    #: The pixel normalization that its weights expect.
    pixels: PixelStats = PIXELS["torchvision"]

    #: The depths that a config may ask for.
    depths: ClassVar[tuple[int, ...]]
    #: {stage: input pixels per cell of its output}, in order.
    strides: ClassVar[Mapping[str, int]]
    #: Whether detectors and localizers may be built on it, or classifiers only.
    detects: ClassVar[bool] = True

    @abstractmethod
    def stage(self, name: str, *, stride: int | None = None) -> nn.Module:
        """A stage with random weights; ``stride`` replaces its own, for the tail only.

        The last stage is an ``nn.Sequential`` whose first block may be a `RunsOnMap`.
        """

    @abstractmethod
    def channels_of(self, stage: str) -> int:
        """Channels of a stage's output."""

    @property
    def name(self) -> str:
        return f"{type(self).__name__}-{self.depth}"

    @property
    def description(self) -> str:
        """The network in words, for one line of a log."""
        return f"{self.name}, norm {self.norm}"

    @property
    def stride(self) -> int:
        """Input pixels per cell of the trunk's output, which all regions share."""
        return self.strides[self._names[-2]]

    @property
    def channels(self) -> int:
        """Channels of the trunk's output."""
        return self.channels_of(self._names[-2])

    @property
    def tail_stage(self) -> str:
        """Name of the last stage."""
        return self._names[-1]

    @property
    def tail_channels(self) -> int:
        return self.channels_of(self.tail_stage)

    def trunk(self, *, frozen_stages: int = 0, whole: bool = False) -> Trunk:
        """All stages but the tail, for detectors; ``whole`` includes it, for localizers."""
        names = self._names if whole else self._names[:-1]
        return Trunk(
            self._build(names),
            channels=self.channels_of(names[-1]),
            stride=self.strides[names[-1]],
            frozen_stages=frozen_stages,
        )

    def tail(self, *, stride: int) -> nn.Sequential:
        """The last stage: (P, C, s, s) crops to (P, ``tail_channels``, s / stride, s / stride)."""
        tail = self.stage(self.tail_stage, stride=stride)
        assert isinstance(tail, nn.Sequential)  # noqa: S101  narrows types
        return tail

    def classifier(self, classes: int = 1000) -> ClassifierNet:
        """The whole network for K ``classes``."""
        return ClassifierNet(
            self._build(self._names),
            channels=self.tail_channels,
            stride=self.strides[self.tail_stage],
            classes=classes,
        )

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(self.strides)

    def _build(self, names: Iterable[str]) -> dict[str, nn.Module]:
        return {name: self.stage(name) for name in names}

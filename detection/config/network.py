"""The settings of a backbone that the configurations of all tasks share.

Families and their depths are those of `backbones.BACKBONES`, pixel statistics those of
`backbones/pixels.py`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from ...backbones import BACKBONES, Backbone
from ...backbones.norm import Norm
from ...backbones.pixels import PIXELS
from .base import Section, TrainConfig, joined, one_of

_SETTINGS = {field.name for field in fields(Backbone)}


class NetworkSection(Section):
    """Which backbone, and the weights it starts from."""

    #: Whether the task needs a trunk and a tail, which not every family has.
    needs_trunk: ClassVar[bool] = True

    #: ``resnet``: the paper's nets for ImageNet; ``cifar``: its 6n+2 nets for small images,
    #: for classification only.
    family: str = "resnet"
    #: One of the family's depths.
    depth: int = 50
    #: Channels of conv1: 64 in the paper's ImageNet nets, 16 in those for CIFAR.
    width: Annotated[int, Field(ge=1, le=1024)] = 64
    #: ``frozen`` keeps BN statistics and affine fixed as buffers (paper, appendix A), for
    #: fine-tuning; ``batch``, which is the paper's, and ``group`` are for training from scratch.
    norm: Norm = "frozen"
    #: Where a bottleneck halves the map: ``3x3`` for torchvision weights, ``1x1`` for the paper's
    #: models (MSRA, Caffe).
    stride_in: Literal["3x3", "1x1"] = "3x3"
    #: A path, URL or ``torchvision:ResNet101_Weights.IMAGENET1K_V1``, of any known layout; the
    #: layers of the classes are re-initialised. Null trains from scratch.
    weights: str | None = None
    #: Mean, standard deviation and channel order that go with the weights.
    pixels: str = "torchvision"

    @field_validator("family")
    @classmethod
    def _known_family(cls, family: str) -> str:
        usable = [name for name, kind in BACKBONES.items() if kind.detects or not cls.needs_trunk]
        return one_of(family, usable)

    @field_validator("pixels")
    @classmethod
    def _known_pixels(cls, pixels: str) -> str:
        return one_of(pixels, PIXELS)

    @field_validator("depth", mode="before")
    @classmethod
    def _known_depth(cls, depth: Any, info: ValidationInfo) -> Any:
        family = info.data.get("family")
        if family is None or depth in BACKBONES[family].depths:
            return depth
        known = joined(map(str, BACKBONES[family].depths))
        raise PydanticCustomError("depth", f"Input should be {known} for family {family}")

    def build(self) -> Backbone:
        """The backbone that these settings describe."""
        settings = self.model_dump(include=_SETTINGS) | {"pixels": PIXELS[self.pixels]}
        return BACKBONES[self.family](**settings)


def started_from(train: TrainConfig, network: NetworkSection) -> str:
    """The weights that a training starts from, for reports."""
    return str(train.start_from or network.weights or "random weights")

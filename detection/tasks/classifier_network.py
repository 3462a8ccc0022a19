"""The classifier's network and its crops, assembled from a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ...backbones.pixels import PixelNorm
from ...datasets.loading.crops import (
    CentreCrop,
    Crop,
    FullImage,
    PaddedCrop,
    PaperCrop,
    ResizedCrop,
    TenCrop,
)
from ...datasets.loading.resampling import RESAMPLINGS
from ..config.classifier import ClassifierConfig, ClassifierTestConfig
from ..config.localizer import LocalizerConfig, LocalizerTestConfig
from ..export.folder import CROPS
from ..inference.classify import ClassifierMember
from ..models.classifier import Classifier
from .base import Loaded
from .seeded import seeded


def build_classifier(config: ClassifierConfig, classes: int) -> Classifier:
    """The network with random weights drawn from ``train.seed``."""
    return seeded(partial(_classifier, config, classes), config.train.seed)


def _classifier(config: ClassifierConfig, classes: int) -> Classifier:
    backbone = config.network.build()
    network = backbone.classifier(classes)
    return Classifier(
        PixelNorm(backbone.pixels),
        network,
        window=-(-config.crop.size // network.stride),
        label_smoothing=config.train.label_smoothing,
    )


def train_crop(config: ClassifierConfig | LocalizerConfig) -> Crop:
    """The random crop of training, of a classifier or of the first stage of a localizer."""
    crop = config.crop
    if crop.kind == "paper":
        return PaperCrop(crop.short_sides, crop.size, crop.flip, crop.colour_std)
    if crop.kind == "padded":
        return PaddedCrop(crop.size, crop.padding, crop.flip)
    return ResizedCrop(crop.size, crop.scale, crop.ratio, crop.flip, crop.augment)


def eval_crops(test: ClassifierTestConfig | LocalizerTestConfig) -> tuple[Crop, ...]:
    """The crops of ``test.protocol``, of a classifier or of the first stage of a localizer."""
    flips = (False, True) if test.flip else (False,)
    how, resize, size = test.resampling, test.resize, test.size
    if test.protocol == "ten_crop":
        return (TenCrop(resize, size, how),)
    if test.protocol in ("one_crop", "centre"):
        return tuple(CentreCrop(resize, size, flipped, how) for flipped in flips)
    return tuple(FullImage(side, flipped, how) for side in test.short_sides for flipped in flips)


def exported_crops(test: ClassifierTestConfig | LocalizerTestConfig) -> dict[str, object]:
    """The crops of ``test.protocol`` for the description of an export."""
    return {
        "crops": "; ".join(describe_crops(eval_crops(test))),
        "short_side": test.resize,
        "size": test.size,
        "resize": f"{RESAMPLINGS[test.resampling].words}; {CROPS}",
    }


def classifier_member(member: Loaded[Classifier, ClassifierConfig]) -> ClassifierMember:
    """A network with the crops of its own protocol and sizes."""
    test = member.config.test
    return ClassifierMember(member.model, eval_crops(test), dense=test.protocol == "multi_scale")


def describe_crops(crops: Sequence[Crop]) -> list[str]:
    """The result of `eval_crops` in words."""
    first, flipped = crops[0], any(getattr(crop, "flipped", False) for crop in crops)
    sides = dict.fromkeys(str(crop.short_side) for crop in crops if isinstance(crop, FullImage))
    if isinstance(first, TenCrop):
        words = [f"10 crops of {first.size} of shorter side {first.resize}"]
    elif isinstance(first, CentreCrop):
        words = [f"middle crop {first.size} of shorter side {first.resize}"]
    else:
        words = [f"fully convolutional, shorter sides {', '.join(sides)}"]
    pillow = getattr(first, "resampling", "opencv") == "pillow"
    words += ["resized by Pillow"] if pillow else []
    return [*words, *(["flipped too"] if flipped else [])]

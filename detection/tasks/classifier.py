"""From a classifier's configuration to objects."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...backbones.pixels import PixelNorm
from ...datasets.catalog import DataSplit
from ...datasets.formats.format import Part
from ...datasets.loading.crops import (
    CentreCrop,
    Crop,
    FullImage,
    PaddedCrop,
    PaperCrop,
    ResizedCrop,
    TenCrop,
)
from ..config.classifier import ClassifierConfig, ClassifierTestConfig
from ..errors import ConfigError, DataError
from ..inference.classify import ScorePipeline, Viewed
from ..models.classifier import Classifier
from .class_layers import class_difference
from .classifier_data import Images, image_rules, read_split

__all__ = [
    "LoadedClassifier",
    "build_classifier",
    "build_score_pipeline",
    "build_test_images",
    "build_test_split",
    "describe_testing",
    "image_rules",
    "test_crops",
    "train_crop",
]


@dataclass(frozen=True)
class LoadedClassifier:
    """A network with what it needs to be used: its configuration and class names."""

    model: Classifier
    config: ClassifierConfig
    classes: tuple[str, ...]
    #: Further members of an ensemble, with their classes in the order of this one's.
    others: tuple[LoadedClassifier, ...] = ()


# ------------------------------------------------------------------------------------ network


def build_classifier(config: ClassifierConfig, classes: int) -> Classifier:
    """The network with random weights, in channels-last memory, drawn from ``train.seed``."""
    backbone = config.network.build()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        network = backbone.classifier(classes)
    model = Classifier(
        PixelNorm(backbone.pixels),
        network,
        window=-(-config.test.size // network.stride),
        label_smoothing=config.train.label_smoothing,
    )
    return model.to(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------------- data


def build_test_images(classifier: LoadedClassifier, part: Part) -> Images:
    """The images of ``train`` or ``val``, labelled in the classifier's order.

    Raises:
        DataError: the data name classes that the classifier does not know.
    """
    config, own = classifier.config, classifier.config.data.classes
    if own is not None and set(own) != set(classifier.classes):
        raise DataError(class_difference("the classifier", classifier.classes, "the data", own))
    return read_split(config, part, classifier.classes)


def build_test_split(classifier: LoadedClassifier, part: Part) -> DataSplit:
    """The same as files; raises ConfigError for a stream of shards."""
    images = build_test_images(classifier, part)
    if images.shards is not None:
        raise ConfigError(
            f"data.source: {images.shards.folder} holds shards, and this needs images as files:"
            " set data.source to an image_folder or ilsvrc"
        )
    return images.split


def train_crop(config: ClassifierConfig) -> Crop:
    crop = config.crop
    if crop.kind == "paper":
        return PaperCrop(crop.short_sides, crop.size, crop.flip, crop.colour_std)
    if crop.kind == "padded":
        return PaddedCrop(crop.size, crop.padding, crop.flip)
    return ResizedCrop(crop.size, crop.scale, crop.ratio, crop.flip, crop.augment)


def test_crops(test: ClassifierTestConfig) -> tuple[Crop, ...]:
    """What ``test.protocol`` looks at."""
    mirrored = (False, True) if test.flip else (False,)
    if test.protocol == "ten_crop":
        return (TenCrop(test.resize, test.size),)
    if test.protocol == "one_crop":
        return tuple(CentreCrop(test.resize, test.size, flipped) for flipped in mirrored)
    return tuple(FullImage(side, flipped) for side in test.short_sides for flipped in mirrored)


# ------------------------------------------------------------------------------------ testing


def build_score_pipeline(classifier: LoadedClassifier) -> ScorePipeline:
    """What scores images as ``classifier.config.test`` says, alone or as an ensemble.

    An ensemble's members take the leader's protocol, each with crops of its own size.
    """
    members = (classifier, *classifier.others)
    return ScorePipeline([_viewed(member, classifier.config.test) for member in members])


def _viewed(member: LoadedClassifier, lead: ClassifierTestConfig) -> Viewed:
    own = member.config.test
    test = lead.model_copy(update={"resize": own.resize, "size": own.size})
    return Viewed(member.model, test_crops(test), dense=test.protocol == "multi_scale")


def describe_testing(classifier: LoadedClassifier) -> str:
    """One line that says which crops, sizes and networks make the scores."""
    test = classifier.config.test
    parts = {
        "one_crop": f"middle crop {test.size} of shorter side {test.resize}",
        "ten_crop": f"10 crops of {test.size} of shorter side {test.resize}",
        "multi_scale": "fully convolutional, shorter sides "
        + ", ".join(map(str, test.short_sides)),
    }
    words = [parts[test.protocol]]
    words += ["mirrored too"] if test.flip and test.protocol != "ten_crop" else []
    words += [f"ensemble of {1 + len(classifier.others)}"] if classifier.others else []
    return "; ".join(words)

"""From a localizer's configuration to objects, for either stage."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import torch
from torch import nn

from ...backbones.pixels import PixelNorm
from ...datasets.catalog import DataSplit
from ...datasets.catalog_localization import localization_split
from ...datasets.formats.format import Part
from ...datasets.image import ImageRules
from ...datasets.loading.crops import CentreCrop, FullImage, PaperCrop, PlacedCrop, ResizedCrop
from ..config.localizer import (
    AnyLocalizerConfig,
    HeadConfig,
    LocalizerConfig,
    LocalizerTestConfig,
    RegionConfig,
    RegionLocalizerConfig,
)
from ..errors import ConfigError, DataError
from ..inference.localize import Chooser, Judge, LocationPipeline, Proposer
from ..models.class_head import ClassHead
from ..models.localizer import HeadLoss, Localizer, RegionLocalizer
from ..models.rpn import rpn_targets
from ..ops.anchors import AnchorGrid, cell_anchors
from ..ops.matching import Sampler, sample_evenly
from .class_layers import class_difference
from .classifier import LoadedClassifier, build_score_pipeline

Model = TypeVar("Model", bound=nn.Module)
Config = TypeVar("Config", bound=AnyLocalizerConfig)


@dataclass(frozen=True)
class Loaded(Generic[Model, Config]):
    """A network with its configuration and class names (wnids)."""

    model: Model
    config: Config
    classes: tuple[str, ...]


LoadedLocalizer = Loaded[Localizer, LocalizerConfig]
LoadedRegionLocalizer = Loaded[RegionLocalizer, RegionLocalizerConfig]


@dataclass(frozen=True)
class Ensemble:
    """All networks that locate together; the classes of all have the order of ``classes``.

    ``lead`` is the configuration whose ``test`` holds: stage two's, where there is one.
    """

    lead: AnyLocalizerConfig
    classes: tuple[str, ...]
    proposers: tuple[LoadedLocalizer, ...]
    judges: tuple[LoadedRegionLocalizer, ...] = ()
    #: An ensemble of them hangs together by `LoadedClassifier.others`.
    classifier: LoadedClassifier | None = None


# ------------------------------------------------------------------------------------ network


def build_localizer(config: LocalizerConfig, classes: int) -> Localizer:
    """Stage one with random weights, in channels-last memory, drawn from ``train.seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = _localizer(config, classes)
    return model.to(memory_format=torch.channels_last)


def _localizer(config: LocalizerConfig, classes: int) -> Localizer:
    head = config.head
    backbone = config.network.build()
    trunk = backbone.trunk(whole=head.level == "conv5")
    cells = cell_anchors(head.anchor_sizes, head.anchor_ratios)
    shared = head.outputs == "shared"
    return Localizer(
        pixels=PixelNorm(backbone.pixels),
        trunk=trunk,
        head=ClassHead(trunk.channels, classes, len(cells), shared=shared),
        anchors=AnchorGrid(cells, trunk.stride),
        targets=partial(
            rpn_targets,
            sampler=Sampler(
                positive_iou=head.positive_iou,
                negative_iou=head.negative_iou,
                low_quality=head.low_quality_matches,
                sample=partial(sample_evenly, count=head.per_image),
            ),
            drop_border=False,
        ),
        per_image=head.per_image,
        loss=_head_loss(head),
    )


def _head_loss(settings: HeadConfig | RegionConfig) -> HeadLoss:
    return HeadLoss(
        every_class=settings.classes_in_loss == "every",
        smooth_l1_beta=settings.smooth_l1_beta,
        box_loss_weight=settings.box_loss_weight,
    )


def build_region_localizer(config: RegionLocalizerConfig, classes: int) -> RegionLocalizer:
    """Stage two, likewise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = _region_localizer(config, classes)
    return model.to(memory_format=torch.channels_last)


def _region_localizer(config: RegionLocalizerConfig, classes: int) -> RegionLocalizer:
    region = config.region
    backbone = config.network.build()
    trunk = backbone.trunk(whole=True)
    return RegionLocalizer(
        pixels=PixelNorm(backbone.pixels),
        trunk=trunk,
        head=ClassHead(trunk.channels, classes, 1),
        size=region.size,
        padding=region.padding,
        positive_iou=region.positive_iou,
        loss=_head_loss(region),
    )


# --------------------------------------------------------------------------------------- data


def image_rules(config: AnyLocalizerConfig) -> ImageRules:
    data = config.data
    return ImageRules(exif=data.exif, on_truncated=data.on_truncated, max_pixels=data.max_pixels)


def read_split(
    config: AnyLocalizerConfig, part: Part, classes: tuple[str, ...] | None = None
) -> DataSplit:
    """The images of ``train`` or ``val`` with their classes and boxes; ``classes`` go before
    those configured.

    Raises:
        ConfigError: there is no ``data.source``.
        DataError: anything in the data is an error.
    """
    data, source = config.data, config.data.source
    if source is None:
        raise ConfigError("data.source: not given; set its format and root")
    split = localization_split(
        source,
        part,
        classes=classes or data.classes,
        on_bad_box=data.on_bad_box,
        rules=image_rules(config),
    )
    if not split.records:
        raise DataError(f"{source.title}: no images in {part!r}")
    return split


def train_crop(config: LocalizerConfig) -> PlacedCrop:
    crop = config.crop
    if crop.kind == "paper":
        return PaperCrop(crop.short_sides, crop.size, crop.flip, crop.colour_std)
    return ResizedCrop(crop.size, crop.scale, crop.ratio, crop.flip, crop.augment)


def test_crops(test: LocalizerTestConfig) -> tuple[PlacedCrop, ...]:
    """What ``test.protocol`` looks at."""
    mirrored = (False, True) if test.flip else (False,)
    if test.protocol == "centre":
        return tuple(CentreCrop(test.resize, test.size, flipped) for flipped in mirrored)
    return tuple(FullImage(side, flipped) for side in test.short_sides for flipped in mirrored)


# ------------------------------------------------------------------------------------ testing


def build_location_pipeline(ensemble: Ensemble) -> LocationPipeline:
    """What locates as the lead's ``test`` says. A proposer below stage two keeps its own crops."""
    lead = ensemble.lead
    if isinstance(lead, RegionLocalizerConfig):
        proposers = [Proposer(one.model, test_crops(one.config.test)) for one in ensemble.proposers]
        judges = [
            Judge(one.model, one.config.region.size, one.config.region.padding)
            for one in ensemble.judges
        ]
        return LocationPipeline(
            proposers,
            judges,
            _chooser(ensemble),
            count=lead.proposals.count,
            nms_iou=lead.proposals.nms_iou,
            regions_at_once=lead.test.batch_size,
            top=lead.test.top,
            vote_iou=lead.test.vote_iou,
        )
    proposers = [
        Proposer(one.model, test_crops(_with_own_sizes(lead.test, one.config.test)))
        for one in ensemble.proposers
    ]
    return LocationPipeline(
        proposers, (), _chooser(ensemble), top=lead.test.top, vote_iou=lead.test.vote_iou
    )


def _with_own_sizes(lead: LocalizerTestConfig, own: LocalizerTestConfig) -> LocalizerTestConfig:
    """An ensemble's members take the leader's protocol, each with crops of its own size."""
    sizes = {name: getattr(own, name) for name in ("resize", "size", "short_sides")}
    return lead.model_copy(update=sizes)


def _chooser(ensemble: Ensemble) -> Chooser | None:
    classifier = ensemble.classifier
    if classifier is None:
        return None
    if set(classifier.classes) != set(ensemble.classes):
        raise DataError(
            class_difference(
                "the classifier", classifier.classes, "the localizer", ensemble.classes
            )
        )
    order = [classifier.classes.index(name) for name in ensemble.classes]
    return Chooser(build_score_pipeline(classifier), torch.tensor(order))


def true_class_pipeline(localizer: LoadedLocalizer) -> LocationPipeline:
    """The middle crop of stage one alone: what evaluations during training can afford."""
    test = localizer.config.test.model_copy(update={"protocol": "centre", "flip": False})
    return LocationPipeline([Proposer(localizer.model, test_crops(test))])


def describe_locating(ensemble: Ensemble) -> str:
    """One line that says which views, stages and networks make the boxes."""
    lead = ensemble.lead
    if isinstance(lead, RegionLocalizerConfig):
        views = ensemble.proposers[0].config.test
    else:
        views = lead.test
    words = [
        f"middle crop {views.size} of shorter side {views.resize}"
        if views.protocol == "centre"
        else "fully convolutional, shorter sides " + ", ".join(map(str, views.short_sides))
    ]
    words += ["mirrored too"] if views.flip else []
    if isinstance(lead, RegionLocalizerConfig):
        words.append(f"{lead.proposals.count} proposals of each class to stage two")
    counts = {"proposer": len(ensemble.proposers), "stage two": len(ensemble.judges)}
    words += [f"ensemble of {count} ({name})" for name, count in counts.items() if count > 1]
    if lead.test.vote_iou is not None:
        words.append(f"box voting at {lead.test.vote_iou:g}")
    if ensemble.classifier is None:
        words.append("no classifier: the true class is given")
    else:
        words.append(f"{1 + len(ensemble.classifier.others)} classifier(s), top {lead.test.top}")
    return "; ".join(words)

"""The tasks of localization: the box of a known class in an image, in two stages (ResNet paper,
appendix C)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ...datasets.catalog import DataSplit
from ...datasets.catalog_classes import localization_split
from ...datasets.loading.crops import CentreCrop, FullImage, PlacedCrop
from ...datasets.loading.dataset import (
    ImageDataset,
    LocalizationDataset,
)
from ...datasets.loading.regions import RegionDataset, Square
from ..config.localizer import (
    AnyLocalizerConfig,
    LocalizerConfig,
    LocalizerTestConfig,
    RegionLocalizerConfig,
)
from ..engine.distributed import Group
from ..engine.log import RunLog
from ..engine.plots import plot_labels
from ..engine.synced_norm import synchronise_norms
from ..errors import ConfigError, DataError
from ..evaluation.localization import (
    Localization,
    evaluate_located,
)
from ..evaluation.prediction import Timer, autocast
from ..inference.localize import Classifiers, FirstStage, LocationPipeline, SecondStage
from ..inference.locate_records import RecordReader, locate_records, propose_records
from ..inference.predictor import LocationPredictor
from ..models.localizer import Localizer, RegionLocalizer
from ..structures import Located
from .base import Loaded, Part, Splits, Task, image_rules, with_notes, without_truncated
from .checkpoints import class_difference, load_members, read_checkpoint
from .classifier import CLASSIFICATION, load_classifier_weights, train_crop
from .localizer_network import build_localizer, build_region_localizer
from .region_proposals import FILE, read_proposals, write_proposals
from .training import Training, describe_size, describe_splits

LoadedLocalizer = Loaded[Localizer, LocalizerConfig]
LoadedRegionLocalizer = Loaded[RegionLocalizer, RegionLocalizerConfig]
_NETWORK = ("family", "depth", "width", "shortcut", "norm", "stride_in", "pixels")


class _StageTask(Task):
    """What both stages share: data with one class an image, and the errors of localization."""

    command = "train-loc"
    metric = "1 - error given the true class"
    class_layers: ClassVar[Mapping[str, int]] = {"head.cls_logits.": 1, "head.box_deltas.": 1}
    plot_labels = staticmethod(plot_labels)

    def load_pretrained(self, loaded: Loaded) -> list[str]:
        """Load ``network.weights``, a classifier of any known layout, into the trunk."""
        network = loaded.config.network
        if network.weights is None and network.norm == "frozen":
            raise ConfigError(
                "network.weights: not given, and network.norm=frozen has no statistics without "
                "them; name a classifier (`resdet freeze-bn` writes one), or train with "
                "network.norm=batch"
            )
        if network.weights is None:
            return [f"weights: random, seed {loaded.config.train.seed}"]
        replaced = ("fc.",) if hasattr(loaded.model.trunk, "res5") else ("fc.", "res5.")
        left_out = " and ".join(name.rstrip(".") for name in replaced)
        missing = ("pixels.", *self.class_layers)
        return load_classifier_weights(loaded, "trunk.", replaced, missing, f"{left_out} left out")

    def join(self, loaded: Loaded, group: Group) -> None:
        settings = loaded.config.train
        if settings.sync_norm:
            synchronise_norms(loaded.model, group)
        if settings.compile:
            # In place, so that the tensors keep their names; the anchors around it are Python's.
            loaded.model.trunk.compile()

    def read(
        self,
        config: AnyLocalizerConfig,
        part: Part,
        classes: tuple[str, ...] | None = None,
        *,
        training: bool = False,
    ) -> DataSplit:
        data, source = config.data, config.data.source
        if source is None:
            raise ConfigError("data.source: not given; set its format and root")
        return localization_split(
            source,
            part,
            classes=classes or data.classes,
            on_bad_box=data.on_bad_box,
            rules=image_rules(config),
        )

    def predictions(
        self,
        pipeline: LocationPipeline,
        config: AnyLocalizerConfig,
        split: DataSplit,
        group: Group,
        timer: Timer,
    ) -> Iterator[tuple[str, Located]]:
        """The boxes of the requested classes in each image."""
        records = split.records[group.rank :: group.world]
        reader = RecordReader(image_rules(config), config.data.workers)
        return locate_records(pipeline, records, reader, timer)

    def predictor(self, pipeline: LocationPipeline, **options: Any) -> LocationPredictor:
        if pipeline.classifiers is None:
            raise ConfigError(
                "a localizer finds the box of a class that is known; name the classifier that "
                "knows it: test.classifiers=[FILE]"
            )
        return LocationPredictor(pipeline, **options)

    def evaluate(
        self,
        found: Mapping[str, Located],
        split: DataSplit,
        config: AnyLocalizerConfig,
        *,
        quick: bool = False,
        baseline: Mapping[str, Located] | None = None,
        **options: Any,
    ) -> Localization:
        records, notes = without_truncated(split, found, config)
        return with_notes(evaluate_located(found, records, split.classes, baseline=baseline), notes)

    def logged(self, evaluation: Localization) -> dict[str, float]:
        """Those that an evaluation without a classifier has."""
        names = ("true_class_error", "mean_true_class_iou")
        return {f"val_{name}": evaluation.metrics[name] for name in names}

    def worth(self, evaluation: Localization, config: AnyLocalizerConfig) -> float:
        return 1 - evaluation.metrics["true_class_error"]

    def data_report(self, config: Any, splits: Splits, path: Path) -> str:
        return CLASSIFICATION.data_report(config, splits, path)

    def describe_testing(self, members: Sequence[Loaded], pipeline: LocationPipeline) -> str:
        config = members[0].config
        crops: Sequence[Any] = pipeline.first[0].crops
        sides = [str(crop.short_side) for crop in crops if isinstance(crop, FullImage)]
        words = [
            "fully convolutional, shorter sides " + ", ".join(dict.fromkeys(sides))
            if sides
            else f"middle crop {crops[0].size} of shorter side {crops[0].resize}"
        ]
        words += ["flipped too"] if any(crop.flipped for crop in crops) else []
        if pipeline.second:
            words.append(f"{pipeline.count} proposals of each class to stage two")
        counts = {"stage one": len(pipeline.first), "stage two": len(pipeline.second)}
        words += [f"ensemble of {count} ({name})" for name, count in counts.items() if count > 1]
        if pipeline.vote_iou is not None:
            words.append(f"box voting at {pipeline.vote_iou:g}")
        if pipeline.classifiers is None:
            words.append("no classifier: the true class is given")
        else:
            count = len(pipeline.classifiers.scores.members)
            words.append(f"{count} classifier(s), top {config.test.top}")
        return "; ".join(words)


class LocalizationTask(_StageTask):
    """The first stage: a per-class RPN on crops of images."""

    name = "localization"
    noun = "a localizer"
    schema = LocalizerConfig
    network_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "network": _NETWORK,
        "head": ("level", "anchor_sizes", "anchor_ratios", "outputs"),
    }

    def build(self, config: LocalizerConfig, classes: int) -> Localizer:
        return build_localizer(config, classes)

    def train_dataset(
        self, config: LocalizerConfig, split: DataSplit, prepared: None
    ) -> ImageDataset:
        return LocalizationDataset(
            split.records,
            cast(PlacedCrop, train_crop(config)),
            least_visible=config.crop.least_visible,
            rules=image_rules(config),
        )

    def pipeline(self, members: Sequence[LoadedLocalizer]) -> LocationPipeline:
        """An ensemble's members take the leader's protocol, each with crops of its own size."""
        lead = members[0].config.test
        proposers = []
        for member in members:
            own = member.config.test
            sizes = {name: getattr(own, name) for name in ("resize", "size", "short_sides")}
            proposers.append(FirstStage(member.model, _eval_crops(lead.model_copy(update=sizes))))
        return LocationPipeline(
            proposers, (), _classifiers(members[0]), top=lead.top, vote_iou=lead.vote_iou
        )

    def quick(self, config: LocalizerConfig) -> LocalizerConfig:
        """The middle crop, and the true class in place of a classifier's."""
        update = {"protocol": "centre", "flip": False, "classifiers": (), "vote_iou": None}
        return config.model_copy(update={"test": config.test.model_copy(update=update)})

    def describe(self, loaded: LoadedLocalizer, splits: Splits) -> list[str]:
        config = loaded.config
        crop, head = config.crop, config.head
        return [
            *describe_splits(splits),
            f"model: {config.network.build().description}, {describe_size(loaded.model)}",
            f"crops: {crop.kind}, {crop.size} px; batch {config.train.batch_size}; "
            f"{head.per_image} anchors each, of {list(head.anchor_sizes)} x "
            f"{list(head.anchor_ratios)} on {head.level}",
        ]


class RegionLocalizationTask(_StageTask):
    """The second stage: an R-CNN on regions that the first stage proposes for a class."""

    name = "localization_rcnn"
    noun = "the second stage of a localizer"
    schema = RegionLocalizerConfig
    network_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "network": _NETWORK,
        "region": ("size", "padding"),
    }

    def build(self, config: RegionLocalizerConfig, classes: int) -> RegionLocalizer:
        return build_region_localizer(config, classes)

    def prepare(self, run: Training, folder: Path, group: Group, log: RunLog) -> dict[str, Tensor]:
        """Propose regions, unless they are given or the run that is resumed has them."""
        config, split = run.loaded.config, run.splits["train"]
        given, records = config.proposals.file, split.records
        path = Path(given) if given else folder / FILE
        if not group.broadcast("proposals/there", path.is_file()):
            log.message(f"proposing regions in {len(records)} training images")
            own = records[group.rank :: group.world]
            reader = RecordReader(image_rules(config), config.data.workers)
            proposed = track(
                propose_records(run.pipeline, own, reader),
                "proposing",
                total=len(own),
                console=Console(stderr=True),
                transient=True,
                disable=not group.is_main,
            )
            with autocast(group.device, config.test.precision):
                found = group.gather(dict(proposed))
            if found is not None:
                none = torch.zeros(0, 4)  # of a truncated image that was skipped
                write_proposals(
                    {one.image_id: found.get(one.image_id, none) for one in records}, path
                )
            group.broadcast("proposals/written", True)
        proposals = read_proposals(path, records)
        counts = [len(proposals[record.image_id]) for record in records]
        log.message(f"proposals: {path}, {min(counts)} to {max(counts)} in an image")
        return proposals

    def train_dataset(
        self, config: RegionLocalizerConfig, split: DataSplit, prepared: Mapping[str, Tensor]
    ) -> ImageDataset:
        region = config.region
        return RegionDataset(
            split.records,
            prepared,
            size=region.size,
            padding=region.padding,
            positive_iou=region.positive_iou,
            positive_fraction=region.positive_fraction,
            flip=region.flip,
            rules=image_rules(config),
        )

    def pipeline(self, members: Sequence[LoadedRegionLocalizer]) -> LocationPipeline:
        """With the first stages that the members' configurations name; these keep their crops."""
        config = members[0].config
        return LocationPipeline(
            [FirstStage(one.model, _eval_crops(one.config.test)) for one in _first_stages(members)],
            [
                SecondStage(member.model, Square(region.size, region.padding))
                for member in members
                for region in (member.config.region,)
            ],
            _classifiers(members[0]),
            count=config.proposals.count,
            nms_iou=config.proposals.nms_iou,
            regions_at_once=config.test.batch_size,
            top=config.test.top,
            vote_iou=config.test.vote_iou,
        )

    def quick(self, config: RegionLocalizerConfig) -> RegionLocalizerConfig:
        """The true class in place of a classifier's."""
        return config.model_copy(
            update={"test": config.test.model_copy(update={"classifiers": ()})}
        )

    def follow(
        self, config: RegionLocalizerConfig, lead: RegionLocalizerConfig
    ) -> RegionLocalizerConfig:
        """The first stages that the given configuration names propose for all members."""
        return config.model_copy(update={"proposals": lead.proposals})

    def describe(self, loaded: LoadedRegionLocalizer, splits: Splits) -> list[str]:
        config = loaded.config
        region, proposals = config.region, config.proposals
        return [
            *describe_splits(splits),
            f"model: {config.network.build().description}, {describe_size(loaded.model)}",
            f"regions: {region.size} px with a margin of {region.padding}; batch "
            f"{config.train.batch_size}; the best {proposals.count} of {len(proposals.weights)} "
            "network(s) of stage one",
        ]


LOCALIZATION = LocalizationTask()
LOCALIZATION_RCNN = RegionLocalizationTask()


def _eval_crops(test: LocalizerTestConfig) -> tuple[PlacedCrop, ...]:
    """The crops of ``test.protocol``."""
    flips = (False, True) if test.flip else (False,)
    if test.protocol == "centre":
        return tuple(CentreCrop(test.resize, test.size, flipped) for flipped in flips)
    return tuple(FullImage(side, flipped) for side in test.short_sides for flipped in flips)


def _first_stages(members: Sequence[LoadedRegionLocalizer]) -> list[LoadedLocalizer]:
    """The first stages that the members' configurations name, with the members' classes.

    Raises:
        ConfigError: none is named.
        WeightsError, DataError: a file is unusable, or has other classes.
    """
    paths = dict.fromkeys(path for one in members for path in one.config.proposals.weights)
    if not paths:
        raise ConfigError(
            "proposals.weights: stage two scores proposals of stage one; name its checkpoint, "
            "proposals.weights=[FILE]"
        )
    classes = members[0].classes
    stages = [read_checkpoint(Path(path), LOCALIZATION) for path in paths]
    return [stage.ordered_as(classes, "the second stage").load() for stage in stages]


def _classifiers(lead: Loaded) -> Classifiers | None:
    """The classifiers that ``test.classifiers`` names; raises DataError for other classes."""
    paths = [Path(path) for path in lead.config.test.classifiers]
    if not paths:
        return None
    members = load_members([read_checkpoint(path, CLASSIFICATION) for path in paths])
    classes = members[0].classes
    if set(classes) != set(lead.classes):
        raise DataError(class_difference("the classifier", classes, "the localizer", lead.classes))
    order = [classes.index(name) for name in lead.classes]
    return Classifiers(CLASSIFICATION.pipeline(members), torch.tensor(order))

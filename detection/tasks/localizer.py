"""The first stage of localization: a per-class RPN (ResNet paper, appendix C), and the base class
of both stages; the second one is in `region_localizer.py`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import torch

from ...backbones.weights.convert import are_numbered
from ...datasets.catalog import DataSplit
from ...datasets.catalog_classes import localization_split
from ...datasets.formats.format import Reading
from ...datasets.loading.crops import PlacedCrop
from ...datasets.loading.dataset import (
    ImageDataset,
    LocalizationDataset,
)
from ..config.data_rules import image_rules
from ..config.localizer import (
    AnyLocalizerConfig,
    LocalizerConfig,
)
from ..config.network import started_from
from ..engine.distributed import Group
from ..engine.plots import plot_labels
from ..errors import ConfigError, DataError
from ..evaluation.localization import (
    Localization,
    evaluate_located,
)
from ..evaluation.prediction import Timer
from ..export.localizer import ExportedLocalizer, first_localizer
from ..export.network import Export, open_network
from ..inference.localize import Classifiers, FirstStage, LocationPipeline
from ..inference.locate_records import RecordReader, locate_records
from ..inference.outputs import LOCATED
from ..inference.predictor import Predictor
from ..inference.result_types import DetectionResult
from ..models.localizer import Localizer
from ..structures import Located
from .banner import describe_size, describe_splits
from .base import Loaded, Part, Splits
from .checkpoints import class_difference, load_members, read_applicable
from .classifier import CLASSIFICATION
from .classifier_network import describe_crops, eval_crops, exported_crops, train_crop
from .classifier_weights import load_classifier_weights
from .crop_task import CropTask, data_source
from .describing import describe_members
from .localizer_network import build_localizer
from .skipped import evaluate_read

LoadedLocalizer = Loaded[Localizer, LocalizerConfig]
NETWORK = ("family", "depth", "width", "shortcut", "norm", "stride_in", "pixels")


class StageTask(CropTask):
    """The base of both stages: data with one class per image, and the errors of localization."""

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
            return super().load_pretrained(loaded)
        tail = network.build().tail_stage
        replaced = ("fc.",) if hasattr(loaded.model.trunk, tail) else ("fc.", f"{tail}.")
        left_out = " and ".join(name.rstrip(".") for name in replaced)
        missing = ("pixels.", *self.class_layers)
        return load_classifier_weights(loaded, "trunk.", replaced, missing, f"{left_out} left out")

    def read(
        self,
        config: AnyLocalizerConfig,
        part: Part,
        classes: tuple[str, ...] | None = None,
        *,
        training: bool = False,
    ) -> DataSplit:
        data = config.data
        known = classes or data.classes
        read = partial(
            localization_split,
            data_source(config),
            part,
            classes=known,
            on_bad_box=data.on_bad_box,
            reading=Reading(image_rules(config), on_size_mismatch=data.on_size_mismatch),
        )
        (split,) = self.cached(config, (part, known), lambda: (read(),))
        return split

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

    def exported(self, folder: Path, config: Any, classes: int) -> ExportedLocalizer:
        return ExportedLocalizer(open_network(folder))

    def predictor(self, pipeline: LocationPipeline, **options: Any) -> Predictor[DetectionResult]:
        if pipeline.classifiers is None:
            raise ConfigError(
                "a localizer finds the box of a class that is known; name the classifier that "
                "knows it: test.classifiers=[FILE]"
            )
        return Predictor(pipeline, output=LOCATED, **options)

    def limit(self, pipeline: LocationPipeline, labels: Sequence[int]) -> None:
        pipeline.among = torch.tensor(labels)

    def evaluate(
        self,
        found: Mapping[str, Located],
        split: DataSplit,
        config: AnyLocalizerConfig,
        *,
        quick: bool = False,
        baseline: Mapping[str, Located] | None = None,
        only: Sequence[str] = (),
        **options: Any,
    ) -> Localization:
        evaluate = partial(evaluate_located, baseline=baseline, only=only)
        return evaluate_read(evaluate, found, split, config)

    def logged(self, evaluation: Localization) -> dict[str, float]:
        """The metrics that need no classifier."""
        names = ("true_class_error", "mean_true_class_iou")
        return {f"val_{name}": evaluation.metrics[name] for name in names}

    def selection_metric(self, evaluation: Localization, config: AnyLocalizerConfig) -> float:
        return 1 - evaluation.metrics["true_class_error"]

    def describe_best(self, config: Any, best: float) -> str:
        return f"true_class_error {1 - best:.4f}"

    def describe_testing(self, members: Sequence[Loaded], pipeline: LocationPipeline) -> str:
        config = members[0].config
        crops = [describe_crops(stage.crops) for stage in pipeline.first]
        words = describe_members(crops, " (stage one)")
        if pipeline.second:
            words.append(f"{pipeline.count} proposals of each class to stage two")
        if len(pipeline.second) > 1:
            words.append(f"ensemble of {len(pipeline.second)} (stage two)")
        if pipeline.vote_iou is not None:
            words.append(f"box voting at {pipeline.vote_iou:g}")
        if pipeline.classifiers is None:
            words.append("no classifier: the true class is given")
        else:
            classifiers = pipeline.classifiers.scores.members
            views = describe_members([describe_crops(member.crops) for member in classifiers])
            told = f"{len(classifiers)} classifier(s) ({'; '.join(views)}), top {config.test.top}"
            words.append(told)
        return "; ".join(words)


class LocalizationTask(StageTask):
    """The first stage: a per-class RPN on crops of images."""

    name = "localization"
    noun = "a localizer"
    schema = LocalizerConfig
    network_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "network": NETWORK,
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
        """Each member of an ensemble has the protocol and the sizes of its own configuration; the
        first one's says how the answer is made."""
        test = members[0].config.test
        stages = [first_stage(member) for member in members]
        classifiers = load_classifiers(members[0])
        return LocationPipeline(stages, (), classifiers, top=test.top, vote_iou=test.vote_iou)

    def export(self, loaded: LoadedLocalizer, graphs: str) -> Export:
        test, classes = loaded.config.test, len(loaded.classes)
        return first_localizer(loaded.model, classes, test.size, exported_crops(test))

    def quick_config(self, config: LocalizerConfig) -> LocalizerConfig:
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

    def facts(self, config: LocalizerConfig) -> list[tuple[str, str]]:
        crop, head = config.crop, config.head
        anchors = f"{list(head.anchor_sizes)} x {list(head.anchor_ratios)} on {head.level}"
        return [
            ("localizer, stage one", config.network.build().description),
            ("started from", started_from(config.train, config.network)),
            ("crops", f"{crop.kind}, {crop.size} px"),
            ("anchors", anchors),
        ]


LOCALIZATION = LocalizationTask()


def load_classifiers(lead: Loaded) -> Classifiers | None:
    """The classifiers that ``test.classifiers`` names; raises DataError for other classes."""
    paths = [Path(path) for path in lead.config.test.classifiers]
    if not paths:
        return None
    lead.named.expect_none("test")
    members = load_members([read_applicable(path, CLASSIFICATION) for path in paths])
    classes = members[0].classes
    if are_numbered(classes) and len(classes) == len(lead.classes):
        classes = tuple(sorted(lead.classes))  # the order of published ImageNet models
    if set(classes) != set(lead.classes):
        raise DataError(class_difference("the classifier", classes, "the localizer", lead.classes))
    order = [classes.index(name) for name in lead.classes]
    return Classifiers(CLASSIFICATION.pipeline(members), torch.tensor(order))


def first_stage(loaded: LoadedLocalizer) -> FirstStage:
    """A network of the first stage with the crops of ``test.protocol``."""
    return FirstStage(loaded.model, cast(tuple[PlacedCrop, ...], eval_crops(loaded.config.test)))

"""The task of classification: one of K classes for each image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from ...backbones.weights.convert import Converted, are_numbered
from ...datasets.catalog import DataSplit
from ...datasets.catalog_classes import describe_labelled, labelled_split, labelled_splits
from ...datasets.formats.shards import ShardsSource
from ...datasets.loading.dataset import ClassificationDataset, eval_loader
from ...datasets.shards.index import ShardSplit, read_shards
from ...datasets.shards.plan import StreamPlan
from ...datasets.shards.reader import ShardSource
from ...datasets.shards.stream import ShardEvalLoader, ShardTrainLoader
from ..config.classifier import ClassifierConfig
from ..config.data_rules import image_rules
from ..config.network import started_from
from ..engine.distributed import Group
from ..engine.plots import plot_image_labels
from ..errors import DataError
from ..evaluation.classification import (
    Classification,
    evaluate_scores,
)
from ..export.classifier import ExportedClassifier, whole_classifier
from ..export.network import Export, open_network
from ..inference.classify import ScorePipeline
from ..inference.outputs import ClassOutput
from ..inference.predictor import Predictor
from ..inference.result_types import ClassResult
from ..models.classifier import Classifier
from ..structures import Batch
from .banner import describe_size
from .base import ALONE, Loaded, Part, Splits
from .classifier_network import (
    build_classifier,
    classifier_member,
    describe_crops,
    exported_crops,
    train_crop,
)
from .classifier_weights import converted_classifier, load_classifier_weights
from .crop_task import CropTask, data_source
from .describing import describe_members, describe_overridden
from .skipped import evaluate_read

LoadedClassifier = Loaded[Classifier, ClassifierConfig]


class ClassificationTask(CropTask):
    """Classifiers: class folders, ImageNet or tar shards, top-1 and top-5 error."""

    name = "classification"
    noun = "a classifier"
    command = "train-cls"
    schema = ClassifierConfig
    metric = "top-1 accuracy"
    fixed_size = True
    class_layers: ClassVar[Mapping[str, int]] = {"network.fc.": 1}
    network_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "network": ("family", "depth", "width", "shortcut", "norm", "stride_in", "pixels")
    }
    plot_labels = staticmethod(plot_image_labels)

    # -- network ---------------------------------------------------------------------------------

    def build(self, config: ClassifierConfig, classes: int) -> Classifier:
        return build_classifier(config, classes)

    def load_pretrained(self, loaded: LoadedClassifier) -> list[str]:
        """Load ``network.weights``, of any known layout, into all but the last layer."""
        settings = loaded.config.network
        if settings.weights is None:
            return super().load_pretrained(loaded)
        missing = ("pixels.", *self.class_layers)
        return load_classifier_weights(loaded, "network.", ("fc.",), missing, "fc re-initialised")

    def read_converted(
        self, converted: Converted, path: Path
    ) -> tuple[Mapping[str, Tensor], ClassifierConfig, tuple[str, ...]]:
        return converted_classifier(converted, path)

    # -- data ------------------------------------------------------------------------------------

    def read(
        self,
        config: ClassifierConfig,
        part: Part,
        classes: tuple[str, ...] | None = None,
        *,
        training: bool = False,
    ) -> DataSplit:
        """``classes`` without names (of converted weights) become those of the data, sorted, which
        is the order of published ImageNet models; raises DataError if there are more or fewer."""
        source, known = data_source(config), classes or config.data.classes
        if classes and are_numbered(classes):
            known = self._named(config, part, classes)
        if isinstance(source, ShardsSource):
            return read_shards(source.place(part), classes=known).split()
        if known is None and part == "val":
            return self.read_both(config)[part]
        one = partial(labelled_split, source, part, classes=known, rules=image_rules(config))
        (split,) = self.cached(config, (part, known), lambda: (one(),))
        return split

    def _named(
        self, config: ClassifierConfig, part: Part, classes: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Names for the numbered ``classes``, unless those of the data are numbered, too."""
        source = data_source(config)
        if isinstance(source, ShardsSource):
            names = tuple(sorted(read_shards(source.place(part)).split().classes))
        else:
            names = labelled_split(source, part, classes=None, rules=image_rules(config)).classes
        if set(names) <= set(classes):
            return classes
        if len(names) != len(classes):
            raise DataError(
                f"{source.title}: {len(names)} classes in {part!r}, the weights have "
                f"{len(classes)} without names; name them in their order: data.classes=[...]"
            )
        return names

    def read_both(
        self, config: ClassifierConfig, classes: tuple[str, ...] | None = None
    ) -> dict[str, DataSplit]:
        """Also raises DataError if validation has a class that training lacks."""
        source, known = data_source(config), classes or config.data.classes
        if isinstance(source, ShardsSource):
            return super().read_both(config, classes)
        both = partial(labelled_splits, source, classes=known, rules=image_rules(config))
        train, val = self.cached(config, ("both", known), both)
        return {"train": train, "val": val}

    def train_dataset(
        self, config: ClassifierConfig, split: DataSplit, prepared: None
    ) -> ClassificationDataset:
        return ClassificationDataset(split.records, train_crop(config), rules=image_rules(config))

    def train_batches(
        self, config: ClassifierConfig, split: DataSplit, prepared: None, start: int, group: Group
    ) -> Iterable[Batch]:
        settings, source = config.train, config.data.source
        if not (isinstance(split, ShardSplit) and isinstance(source, ShardsSource)):
            return super().train_batches(config, split, prepared, start, group)
        counts = tuple(map(len, split.shards.shards))
        return ShardTrainLoader(
            ShardSource(split.shards, [train_crop(config)], image_rules(config)),
            StreamPlan(
                counts,
                settings.batch_size,
                settings.seed,
                lanes=source.lanes,
                buffer=source.buffer,
            ),
            range(start, settings.iterations),
            rank=group.rank,
            world=group.world,
            accumulate=settings.accumulate,
            workers=config.data.workers,
            pin_memory=group.device.type == "cuda",
        )

    def first_batch(self, config: ClassifierConfig, split: DataSplit, prepared: None) -> Any:
        if not isinstance(split, ShardSplit):
            return super().first_batch(config, split, prepared)
        data = config.data.model_copy(update={"workers": 0})
        config = config.model_copy(update={"data": data})
        return next(iter(self.train_batches(config, split, prepared, 0, ALONE)))

    def eval_batches(
        self, pipeline: ScorePipeline, config: ClassifierConfig, split: DataSplit, group: Group
    ) -> Iterable[Batch]:
        rules, pin_memory = image_rules(config), group.device.type == "cuda"
        if isinstance(split, ShardSplit):
            return ShardEvalLoader(
                ShardSource(split.shards, pipeline.crops, rules),
                batch_size=config.test.batch_size,
                rank=group.rank,
                world=group.world,
                workers=config.data.workers,
                pin_memory=pin_memory,
            )
        return eval_loader(
            ClassificationDataset(split.records, *pipeline.crops, rules=rules),
            batch_size=config.test.batch_size,
            workers=config.data.workers,
            rank=group.rank,
            world=group.world,
            pin_memory=pin_memory,
        )

    # -- prediction and evaluation -----------------------------------------------------------------

    def pipeline(self, members: Sequence[LoadedClassifier]) -> ScorePipeline:
        """Each member of an ensemble has the protocol and the sizes of its own configuration."""
        return ScorePipeline(list(map(classifier_member, members)))

    def predictor(self, pipeline: ScorePipeline, **options: Any) -> Predictor[ClassResult]:
        return Predictor(pipeline, output=ClassOutput(), **options)

    def export(self, loaded: LoadedClassifier, graphs: str) -> Export:
        testing = self.describe_testing([loaded], self.pipeline([loaded]))
        crops = exported_crops(loaded.config.test)
        return whole_classifier(loaded.model, loaded.config.test.size, crops, {"testing": testing})

    def exported(self, folder: Path, config: Any, classes: int) -> ExportedClassifier:
        return ExportedClassifier(open_network(folder))

    def quick_config(self, config: ClassifierConfig) -> ClassifierConfig:
        """One crop per image."""
        test = config.test.model_copy(update={"protocol": "one_crop", "flip": False})
        return config.model_copy(update={"test": test})

    def evaluate(
        self,
        found: Mapping[str, Tensor],
        split: DataSplit,
        config: ClassifierConfig,
        *,
        quick: bool = False,
        only: Sequence[str] = (),
        **options: Any,
    ) -> Classification:
        return evaluate_read(partial(evaluate_scores, only=only), found, split, config)

    def logged(self, evaluation: Classification) -> dict[str, float]:
        return {f"val_{name}": value for name, value in evaluation.metrics.items()}

    def selection_metric(self, evaluation: Classification, config: ClassifierConfig) -> float:
        return 1 - evaluation.metrics["top1_error"]

    def describe_best(self, config: Any, best: float) -> str:
        return f"top1_error {1 - best:.4f}"

    # -- words -----------------------------------------------------------------------------------

    def describe(self, loaded: LoadedClassifier, splits: Splits) -> list[str]:
        config = loaded.config
        return [
            *(f"{name}: {describe_labelled(split)}" for name, split in splits.items()),
            f"model: {config.network.build().description}, {describe_size(loaded.model)}",
            f"crops: {config.crop.kind}, {config.crop.size} px; batch {config.train.batch_size}",
        ]

    def facts(self, config: ClassifierConfig) -> list[tuple[str, str]]:
        network, crop = config.network, config.crop
        return [
            ("classifier", f"{network.build().description}, width {network.width}"),
            ("started from", started_from(config.train, network)),
            ("crops", f"{crop.kind}, {crop.size} px; {config.test.size} px in testing"),
        ]

    def describe_testing(self, members: Sequence[LoadedClassifier], pipeline: ScorePipeline) -> str:
        crops = describe_members([describe_crops(member.crops) for member in pipeline.members])
        unnamed = are_numbered(members[0].classes)
        names = (
            ["the weights have no class names (`eval` takes those of the data, sorted)"]
            if unnamed
            else []
        )
        told = describe_overridden(members, ("test.resize", "test.size", "test.resampling"))
        return "; ".join([*crops, *names, *told])


CLASSIFICATION = ClassificationTask()

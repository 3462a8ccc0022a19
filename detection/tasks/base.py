"""The interface of a task, and the prediction of a whole split, which all tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar

import torch
from rich.console import Console
from torch import nn

from ...backbones.weights.convert import Converted
from ...datasets.catalog import DataSplit
from ...datasets.formats.format import Part
from ...datasets.loading.dataset import train_loader
from ...datasets.loading.sampling import BatchPlan, any_shape
from ..config.base import Section, TrainConfig
from ..engine.distributed import Group
from ..engine.log import RunLog
from ..engine.plots import plot_batch
from ..errors import ConfigError, WeightsError
from ..evaluation.prediction import Timer, autocast, predict_batches
from ..export.network import Export, open_network
from ..inference.predictor import Predictor
from ..models.compiled import compile_parts
from ..printing import tracked
from ..structures import Batch
from .loaded import Loaded as Loaded

Splits = Mapping[str, DataSplit]

#: The group of a single process on the CPU.
ALONE = Group(0, 1, torch.device("cpu"))
SHOWN = 16  # the largest number of drawn images of the first batch


class Task(ABC):
    """The interface of a task: detection, classification, and each stage of localization.

    Everything else (starting, resuming, matching classes, training, evaluating, reporting) is
    generic: `checkpoints.py` and `training.py`. ``config`` is always of the task's ``schema``.
    """

    #: The value of ``task`` in configurations and checkpoints.
    name: ClassVar[str]
    #: The content of its checkpoints in words, such as "a detector"; the command that trains it.
    noun: ClassVar[str]
    command: ClassVar[str]
    schema: ClassVar[type[Section]]
    #: Name of the metric that selects ``best.pt``, for messages.
    metric: ClassVar[str]
    #: Layers whose rows belong to classes: {prefix of their tensors: rows of a class}. Rows beyond
    #: those of the classes are the background's.
    class_layers: ClassVar[Mapping[str, int]]
    #: {section: keys} of the settings that must be equal in config and checkpoint.
    network_settings: ClassVar[Mapping[str, tuple[str, ...]]]
    #: Whether batches are padded, so that their images should have one orientation.
    by_shape: ClassVar[bool] = False
    #: Whether all images in training, and in its evaluations, have one size.
    fixed_size: ClassVar[bool] = False
    #: ``plot_labels(records, classes, path)`` draws the statistics of the labels.
    plot_labels: ClassVar[Callable[..., object]]

    #: Settings that one graph holds, as in ``test.nms_iou``; others may change when it is loaded.
    exported_settings: ClassVar[tuple[str, ...]] = ()
    graph_counts: ClassVar[tuple[str, ...]] = ("one",)

    @abstractmethod
    def build(self, config: Any, classes: int) -> nn.Module:
        """The network with random weights drawn from ``train.seed``, in channels-last memory."""

    def load_pretrained(self, loaded: Loaded) -> list[str]:
        """Load the pretrained weights that the configuration names; returns lines for the log.

        Raises:
            WeightsError: unreadable or not fitting.
            ConfigError: trained with other pixels or strides than the configuration says.
        """
        return [f"weights: random, seed {loaded.config.train.seed}"]

    def read_converted(
        self, converted: Converted, path: Path
    ) -> tuple[Mapping[str, torch.Tensor], Section, tuple[str, ...]]:
        """Tensors, configuration and classes of a file of ``convert-weights``; raises
        WeightsError if it cannot be used as a checkpoint."""
        raise WeightsError(f"{path}: converted weights are no checkpoint of {self.noun}")

    def prepare_model(self, loaded: Loaded, group: Group) -> None:
        """Prepare the model, which is on its device, for training in ``group``."""
        if loaded.config.train.compile:
            compile_parts(loaded.model)

    @abstractmethod
    def read(
        self,
        config: Any,
        part: Part,
        classes: tuple[str, ...] | None = None,
        *,
        training: bool = False,
    ) -> DataSplit:
        """The images of one split, with labels; ``classes`` replace those of the configuration.

        Raises ConfigError if there are none, DataError for errors among the findings.
        """

    def read_test(self, config: Any, classes: tuple[str, ...]) -> DataSplit:
        """The images of ``data.test``, which may lack annotations; raises as `read`."""
        raise ConfigError(f"--split test: {self.noun} has no data.test")

    def read_both(
        self, config: Any, classes: tuple[str, ...] | None = None
    ) -> dict[str, DataSplit]:
        """``train`` and ``val`` with the same classes; raises as `read`."""
        train = self.read(config, "train", classes, training=True)
        return {"train": train, "val": self.read(config, "val", train.classes)}

    def prepare(self, run: Any, folder: Path, group: Group, log: RunLog) -> Any:
        """Compute what training needs besides weights and data, and keep it in the run ``folder``
        for a resumed run; the result is passed to `train_batches`."""
        return None

    @abstractmethod
    def train_dataset(self, config: Any, split: DataSplit, prepared: Any) -> Any:
        """The training samples by `SampleKey`; ``prepared`` is the result of `prepare`."""

    def train_batches(
        self, config: Any, split: DataSplit, prepared: Any, start: int, group: Group
    ) -> Iterable[Batch]:
        """This process's batches from step ``start`` on, the same after every restart."""
        return train_loader(
            self.train_dataset(config, split, prepared),
            self.batch_plan(config.train, split, start, group),
            workers=config.data.workers,
            pin_memory=group.device.type == "cuda",
        )

    def batch_plan(
        self, settings: TrainConfig, split: DataSplit, start: int = 0, group: Group = ALONE
    ) -> BatchPlan:
        """The plan of this process's batches."""
        records = split.records
        return BatchPlan(
            records.sizes if self.by_shape else any_shape(len(records)),
            batch_size=settings.batch_size,
            seed=settings.seed,
            start_step=start,
            steps=settings.iterations,
            rank=group.rank,
            world=group.world,
            accumulate=settings.accumulate,
        )

    def show_inputs(self, loaded: Loaded, split: DataSplit, prepared: Any, folder: Path) -> None:
        """Draw the first batch and the labels' statistics into ``folder``."""
        first = self.first_batch(loaded.config, split, prepared)
        plot_batch(first, loaded.classes, folder / "samples" / "train_batch0.jpg")
        self.plot_labels(split.records, loaded.classes, folder / "plots" / "labels.svg")

    def first_batch(self, config: Any, split: DataSplit, prepared: Any) -> Batch:
        """The beginning of the first batch, read in this process."""
        dataset = self.train_dataset(config, split, prepared)
        keys = next(iter(self.batch_plan(config.train, split)))[:SHOWN]
        return dataset.read(keys, replace_skipped=True)

    def eval_batches(
        self, pipeline: Any, config: Any, split: DataSplit, group: Group
    ) -> Iterable[Batch]:
        """Every image of ``split`` once over all processes, as ``pipeline.predict`` takes them."""
        raise NotImplementedError(f"{self.name}: predictions are not made batch by batch")

    def predictions(
        self, pipeline: Any, config: Any, split: DataSplit, group: Group, timer: Timer
    ) -> Iterator[tuple[str, Any]]:
        """(image id, prediction) of each image in this process's share of ``split``."""
        batches = self.eval_batches(pipeline, config, split, group)
        return predict_batches(pipeline, batches, device=group.device, timer=timer)

    def export(self, loaded: Loaded, graphs: str) -> Export:
        """What `resdet export` writes as one of `graph_counts`; raises ConfigError for what it
        cannot hold."""
        raise ConfigError(f"{self.noun} cannot be exported")

    def exported(self, folder: Path, config: Any, classes: int) -> nn.Module:
        """The model of a `Loaded` that the export in ``folder`` stands for."""
        return open_network(folder)

    @abstractmethod
    def pipeline(self, members: Sequence[Loaded]) -> Any:
        """The prediction of one or several members, with the settings of the first one."""

    def predictor(self, pipeline: Any, **options: Any) -> Predictor:
        """The `Predictor` of a pipeline; ``options`` are those of its constructor.

        Raises WeightsError where the task has none, ConfigError where its config does not allow it.
        """
        raise WeightsError(f"{self.noun} is not applied to images on its own")

    def member_config(self, config: Any, lead: Any) -> Any:
        """The configuration of a further member of an ensemble; ``lead`` is the first one's."""
        return config

    def quick_config(self, config: Any) -> Any:
        """The configuration of the faster testing in evaluations during training."""
        return config

    def predict_split(
        self,
        pipeline: Any,
        config: Any,
        split: DataSplit,
        group: Group,
        progress: Console | None = None,
        timer: Timer | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any] | None:
        """The prediction for every image by image id; each process takes its share, the main one
        gets all and the others None. The models must be in evaluation mode. ``timer`` measures
        this process's share. Once ``stop()`` is true, the images that follow are left out."""
        found = self.predictions(pipeline, config, split, group, timer or Timer())
        share = len(split.records) / group.world
        if progress is not None and group.is_main:
            found = tracked(found, "evaluating", share, progress)
        with autocast(group.device, config.test.precision):
            return group.gather(dict(takewhile(lambda _: not stop(), found)))

    def limit(self, pipeline: Any, labels: Sequence[int]) -> None:  # noqa: B027  optional
        """Let ``pipeline`` choose among these classes, where `evaluate` cannot leave others out."""

    @abstractmethod
    def evaluate(
        self,
        found: Mapping[str, Any],
        split: DataSplit,
        config: Any,
        *,
        quick: bool = False,
        **options: Any,
    ) -> Any:
        """Evaluate the predictions of one split; ``quick`` leaves out slow metrics that do not
        select ``best.pt``. ``options``: ``only``, the classes to evaluate, ``spread``, which may
        share work among processes (`Group.spread`), and those of the task.

        Images that ``data.on_bad_image: skip`` left out are not counted; a note says so.
        """

    def logged(self, evaluation: Any) -> dict[str, float]:
        """The metrics that evaluations during training log."""
        return dict(evaluation.metrics)

    @abstractmethod
    def selection_metric(self, evaluation: Any, config: Any) -> float:
        """The metric that selects ``best.pt``; larger is better."""

    def validate(self, loaded: Loaded, split: DataSplit, group: Group) -> dict[str, float]:
        """Further metrics of an evaluation during training, on all processes."""
        return {}

    def show_predictions(  # noqa: B027  optional
        self, loaded: Loaded, split: DataSplit, found: Mapping[str, Any], folder: Path
    ) -> None:
        """Draw some predictions of an evaluation during training into ``folder``."""

    @abstractmethod
    def describe(self, loaded: Loaded, splits: Splits) -> list[str]:
        """Data, network and steps in a few lines, for the start of a run."""

    @abstractmethod
    def describe_testing(self, members: Sequence[Loaded], pipeline: Any) -> str:
        """One line with the sizes, networks and options of the predictions."""

    def describe_evaluations(self, loaded: Loaded, tested: Loaded, pipeline: Any) -> str:
        """How evaluations during training are made, with `quick_config` in ``tested``."""
        words = f"evaluations: {self.describe_testing([tested], pipeline)}"
        other = "; `resdet eval` does what `test` of the config says"
        return words if tested.config == loaded.config else words + other

    def describe_best(self, config: Any, best: float) -> str:
        """The best `selection_metric` of a run, under the name and as the number of `resdet eval`
        for it."""
        return f"{self.metric} {best:.4f}"

    def facts(self, config: Any) -> list[tuple[str, str]]:
        """(name, value) rows about the network and its inputs, for the report page of a run."""
        return []

    @abstractmethod
    def data_report(self, config: Any, splits: Splits, path: Path) -> str:
        """The text of ``data_report.json`` of a run: the findings in the data of the configuration
        at ``path``."""

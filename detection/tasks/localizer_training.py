"""From a configuration to a trained localizer in a run folder, for either stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ...datasets.catalog import DataSplit
from ...datasets.loading.dataset import ImageDataset, LocalizationDataset, train_loader
from ...datasets.loading.regions import RegionDataset
from ...datasets.loading.sampling import BatchPlan, any_shape
from ..config.localizer import AnyLocalizerConfig, LocalizerConfig, RegionLocalizerConfig
from ..engine.distributed import Group
from ..engine.log import RunLog
from ..engine.plots import plot_batch, plot_labels
from ..engine.synced_norm import synchronise_norms
from ..engine.train import Outputs, TrainingState, shipped_weights
from ..evaluation.run import evaluating
from ..inference.localize import LocationPipeline
from ..structures import Batch
from .localizer import (
    Ensemble,
    LoadedLocalizer,
    LoadedRegionLocalizer,
    build_localizer,
    build_location_pipeline,
    build_region_localizer,
    image_rules,
    read_split,
    train_crop,
    true_class_pipeline,
)
from .localizer_testing import evaluate_split, locate_split, propose_split
from .localizer_weights import AnyLoaded, fill_from_localizer, fill_trunk, load_proposers
from .region_proposals import FILE, read_proposals, write_proposals
from .run import (
    FRESH,
    Start,
    Training,
    describe_findings,
    describe_run,
    describe_size,
    describe_splits,
    describe_steps,
    run_training,
    write_labelled_report,
)

Splits = Mapping[str, DataSplit]
#: Metrics that an evaluation without a classifier has.
LOGGED = ("true_class_error", "mean_true_class_iou")


def train_localizer(
    config: AnyLocalizerConfig, folder: Path, group: Group, start: Start = FRESH
) -> int:
    """Train, and leave weights, logs and images in ``folder``. Returns the exit code.

    Raises:
        ConfigError, DataError, WeightsError: before the first step, naming what is wrong.
        DivergedError: when the loss stays non-finite.
    """
    resumed = start.read(config.task)
    return run_training(_prepare(config, start, resumed), folder, group, resumed)


def check_training(config: AnyLocalizerConfig, start: Start = FRESH) -> list[str]:
    """The banner of a run that could start now: data, weights and network are all looked at."""
    return describe_run(_prepare(config, start, start.read(config.task)))


def _prepare(
    config: AnyLocalizerConfig, start: Start, resumed: Mapping[str, Any] | None
) -> LocalizerTraining | RegionTraining:
    """Network with starting weights, and data."""
    train = read_split(config, "train", tuple(resumed["classes"]) if resumed else None)
    splits = {"train": train, "val": read_split(config, "val", train.classes)}
    findings = describe_findings(splits)
    if isinstance(config, RegionLocalizerConfig):
        second = LoadedRegionLocalizer(
            build_region_localizer(config, len(train.classes)), config, train.classes
        )
        proposers = load_proposers(config.proposals.weights, train.classes)
        return RegionTraining(second, proposers, splits, [*findings, *_fill(second, start)])
    first = LoadedLocalizer(build_localizer(config, len(train.classes)), config, train.classes)
    return LocalizerTraining(first, splits, [*findings, *_fill(first, start)])


def _fill(localizer: AnyLoaded, start: Start) -> list[str]:
    """Put the starting weights into the model; what was done, in words."""
    if start.resume:
        return [f"resuming from {start.checkpoint}"]
    if start.checkpoint:
        return fill_from_localizer(
            localizer, start.checkpoint, type(localizer.config), reset_head=start.reset_head
        )
    return fill_trunk(localizer)


class _StageTraining(Training):
    """What both stages share: splits ``train`` and ``val`` of one class an image."""

    command = "train-loc"
    best_name = "1 - error given the true class "

    def __init__(self, localizer: AnyLoaded, splits: Splits, notes: Sequence[str]) -> None:
        config = localizer.config
        super().__init__(localizer.model, config, config.train, localizer.classes, notes)
        self.localizer, self.splits, self.options = localizer, splits, config.train

    @abstractmethod
    def dataset(self) -> ImageDataset:
        """The training images, or their regions, as the network gets them."""

    @abstractmethod
    def pipeline(self) -> LocationPipeline:
        """What evaluations during training locate with."""

    def join(self, group: Group) -> None:
        if self.options.sync_norm:
            synchronise_norms(self.model, group)
        if self.options.compile:
            # In place, so that the tensors keep their names; the anchors around it are Python's.
            self.localizer.model.trunk.compile()

    def batches(self, start: int, group: Group) -> Iterable[Batch]:
        return train_loader(
            self.dataset(),
            self._plan(start, group),
            workers=self.localizer.config.data.workers,
            pin_memory=group.device.type == "cuda",
        )

    def evaluate(self, state: TrainingState, outputs: Outputs, group: Group, step: int) -> float:
        """How well the true class is located on ``val``; 1 - its error chooses ``best.pt``."""
        split, config = self.splits["val"], self.localizer.config
        with shipped_weights(state), evaluating(state.model):
            group.broadcast_buffers(state.model)
            found = locate_split(self.pipeline(), split, config, group)
        accuracy = None
        if found is not None:
            metrics = evaluate_split(found, split, config).metrics
            outputs.log.evaluation(step, {f"val_{name}": metrics[name] for name in LOGGED})
            accuracy = 1 - metrics["true_class_error"]
        return group.broadcast(f"evaluation/{step}", accuracy)

    def banner(self) -> list[str]:
        network = self.localizer.config.network
        return [
            *describe_splits(self.splits),
            f"model: {network.build().description}, {describe_size(self.model)}",
            *self.describe_samples(),
            describe_steps(self.settings, len(self.splits["train"].records)),
        ]

    @abstractmethod
    def describe_samples(self) -> list[str]:
        """What one image of a batch is."""

    def show_inputs(self, folder: Path) -> None:
        """The first batch with its boxes, and the labels' statistics."""
        dataset, alone = self.dataset(), Group(0, 1, torch.device("cpu"))
        keys = next(iter(self._plan(0, alone)))[:16]
        first = Batch.collate([dataset[key] for key in keys], pad=False)
        plot_batch(first, self.classes, folder / "samples" / "train_batch0.jpg")
        plot_labels(dataset.records, self.classes, folder / "plots" / "labels.png")

    def write_data_report(self, folder: Path) -> None:
        write_labelled_report(folder, self.task, self.splits)

    def _plan(self, start: int, group: Group) -> BatchPlan:
        settings = self.settings
        return BatchPlan(
            any_shape(len(self.splits["train"].records)),
            batch_size=settings.batch_size,
            seed=settings.seed,
            steps=settings.iterations,
            start_step=start,
            rank=group.rank,
            world=group.world,
            accumulate=settings.accumulate,
        )


class LocalizerTraining(_StageTraining):
    """Stage one on crops of images."""

    task = LocalizerConfig().task

    def __init__(self, localizer: LoadedLocalizer, splits: Splits, notes: Sequence[str]) -> None:
        super().__init__(localizer, splits, notes)
        self.first = localizer

    def dataset(self) -> ImageDataset:
        config = self.first.config
        return LocalizationDataset(
            self.splits["train"].records,
            train_crop(config),
            least_visible=config.crop.least_visible,
            rules=image_rules(config),
        )

    def pipeline(self) -> LocationPipeline:
        return true_class_pipeline(self.first)

    def describe_samples(self) -> list[str]:
        crop, head = self.first.config.crop, self.first.config.head
        return [
            f"crops: {crop.kind}, {crop.size} px; batch {self.settings.batch_size}; "
            f"{head.per_image} anchors each, of {list(head.anchor_sizes)} x "
            f"{list(head.anchor_ratios)} on {head.level}"
        ]


class RegionTraining(_StageTraining):
    """Stage two on regions that stage one proposes for the class of each training image."""

    task = RegionLocalizerConfig().task

    def __init__(
        self,
        localizer: LoadedRegionLocalizer,
        proposers: tuple[LoadedLocalizer, ...],
        splits: Splits,
        notes: Sequence[str],
    ) -> None:
        super().__init__(localizer, splits, notes)
        self.second, self.proposers = localizer, proposers
        self.proposals: Mapping[str, torch.Tensor] = {}

    def prepare(self, folder: Path, group: Group, log: RunLog) -> None:
        """Propose regions, unless they are given or the run that is resumed has them."""
        for one in self.proposers:
            one.model.to(group.device)
        given, records = self.second.config.proposals.file, self.splits["train"].records
        path = Path(given) if given else folder / FILE
        if not group.broadcast("proposals/there", path.is_file()):
            log.message(f"proposing regions in {len(records)} training images")
            split, config = self.splits["train"], self.second.config
            found = propose_split(self.pipeline(), split, config, group, Console(stderr=True))
            if found is not None:
                none = torch.zeros(0, 4)  # of a truncated image that was skipped
                write_proposals(
                    {one.image_id: found.get(one.image_id, none) for one in records}, path
                )
            group.broadcast("proposals/written", True)
        self.proposals = read_proposals(path, records)
        counts = [len(self.proposals[record.image_id]) for record in records]
        log.message(f"proposals: {path}, {min(counts)} to {max(counts)} in an image")

    def dataset(self) -> ImageDataset:
        config, region = self.second.config, self.second.config.region
        return RegionDataset(
            self.splits["train"].records,
            self.proposals,
            size=region.size,
            padding=region.padding,
            positive_iou=region.positive_iou,
            positive_fraction=region.positive_fraction,
            flip=region.flip,
            rules=image_rules(config),
        )

    def pipeline(self) -> LocationPipeline:
        config = self.second.config
        return build_location_pipeline(
            Ensemble(config, self.second.classes, self.proposers, (self.second,))
        )

    def describe_samples(self) -> list[str]:
        region, proposals = self.second.config.region, self.second.config.proposals
        return [
            f"regions: {region.size} px with a margin of {region.padding}; batch "
            f"{self.settings.batch_size}; the best {proposals.count} of {len(self.proposers)} "
            "network(s) of stage one"
        ]

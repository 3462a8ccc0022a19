"""The second stage of localization: an R-CNN that scores regions which the first stage proposes for
a class (ResNet paper, appendix C).

P proposals of one image, for its own class. They are kept in the run folder, so that a resumed run
has the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ...datasets.catalog import DataSplit
from ...datasets.loading.dataset import ImageDataset
from ...datasets.loading.regions import RegionDataset, Square
from ..config.data_rules import image_rules
from ..config.localizer import RegionLocalizerConfig
from ..config.network import started_from
from ..engine.distributed import Group
from ..engine.log import RunLog
from ..errors import ConfigError, DataError
from ..evaluation.prediction import autocast
from ..export.localizer import second_localizer
from ..export.network import Export
from ..files import atomic_write, expect_regular
from ..inference.localize import LocationPipeline, SecondStage
from ..inference.locate_records import RecordReader, propose_records
from ..models.localizer import RegionLocalizer
from ..printing import tracked
from ..structures import Record
from .banner import describe_size, describe_splits
from .base import Loaded, Splits
from .checkpoints import load_members, read_applicable
from .localizer import (
    LOCALIZATION,
    NETWORK,
    LoadedLocalizer,
    StageTask,
    first_stage,
    load_classifiers,
)
from .localizer_network import build_region_localizer
from .training import Training

LoadedRegionLocalizer = Loaded[RegionLocalizer, RegionLocalizerConfig]
#: File name in the run folder.
PROPOSALS = "proposals.safetensors"


class RegionLocalizationTask(StageTask):
    """The second stage: an R-CNN on regions that the first stage proposes for a class."""

    name = "localization_rcnn"
    noun = "the second stage of a localizer"
    schema = RegionLocalizerConfig
    network_settings: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "network": NETWORK,
        "region": ("size", "padding"),
    }

    def build(self, config: RegionLocalizerConfig, classes: int) -> RegionLocalizer:
        return build_region_localizer(config, classes)

    def prepare(self, run: Training, folder: Path, group: Group, log: RunLog) -> dict[str, Tensor]:
        """Propose regions, unless they are given or the run that is resumed has them."""
        config, split = run.loaded.config, run.splits["train"]
        given, records = config.proposals.file, split.records
        path = Path(given) if given else folder / PROPOSALS
        if not group.broadcast("proposals/there", path.is_file()):
            log.message(f"proposing regions in {len(records)} training images")
            own = records[group.rank :: group.world]
            reader = RecordReader(image_rules(config), config.data.workers)
            proposed = propose_records(run.pipeline, own, reader)
            if group.is_main:
                console = Console(stderr=True)
                proposed = tracked(proposed, "proposing", len(own), console)
            with autocast(group.device, config.test.precision):
                found = group.gather(dict(proposed))
            if found is not None:
                none = torch.zeros(0, 4)  # of a truncated image that was skipped
                _write_proposals(
                    {one.image_id: found.get(one.image_id, none) for one in records}, path
                )
            group.broadcast("proposals/written", True)
        proposals = _read_proposals(path, records)
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
            Square(region.size, region.padding),
            positive_iou=region.positive_iou,
            positive_fraction=region.positive_fraction,
            flip=region.flip,
            rules=image_rules(config),
        )

    def pipeline(self, members: Sequence[LoadedRegionLocalizer]) -> LocationPipeline:
        """The first stages that the members' configurations name, with their own crops, and the
        members as second stages."""
        config = members[0].config
        return LocationPipeline(
            [first_stage(one) for one in _first_stages(members)],
            [
                SecondStage(member.model, Square(region.size, region.padding))
                for member in members
                for region in (member.config.region,)
            ],
            load_classifiers(members[0]),
            count=config.proposals.count,
            nms_iou=config.proposals.nms_iou,
            regions_at_once=config.test.batch_size,
            top=config.test.top,
            vote_iou=config.test.vote_iou,
        )

    def export(self, loaded: LoadedRegionLocalizer, graphs: str) -> Export:
        region, classes = loaded.config.region, len(loaded.classes)
        described = {"size": region.size, "padding": region.padding}
        return second_localizer(loaded.model, classes, region.size, described)

    def quick_config(self, config: RegionLocalizerConfig) -> RegionLocalizerConfig:
        """The true class in place of a classifier's."""
        return config.model_copy(
            update={"test": config.test.model_copy(update={"classifiers": ()})}
        )

    def member_config(
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

    def facts(self, config: RegionLocalizerConfig) -> list[tuple[str, str]]:
        region, proposals = config.region, config.proposals
        return [
            ("localizer, stage two", config.network.build().description),
            ("started from", started_from(config.train, config.network)),
            ("regions", f"{region.size} px with a margin of {region.padding}"),
            ("proposals", f"the best {proposals.count} of {', '.join(proposals.weights)}"),
        ]


LOCALIZATION_RCNN = RegionLocalizationTask()


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
    for one in members:
        one.named.expect_none("proposals")
    classes = members[0].classes
    stages = [read_applicable(Path(path), LOCALIZATION) for path in paths]
    ordered = [stage.ordered_as(classes, "the second stage") for stage in stages]
    return load_members(ordered)


def _write_proposals(proposals: Mapping[str, Tensor], path: Path) -> None:
    """(P, 4) float32 boxes in original pixels by image id; written whole or not at all."""
    with atomic_write(path) as part:
        save_file({name: boxes.contiguous() for name, boxes in proposals.items()}, part)


def _read_proposals(path: Path, records: Iterable[Record]) -> dict[str, Tensor]:
    """The proposals of the ``records``; raises DataError, naming the file, if one has none."""
    try:
        expect_regular(path)
        proposals = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot be read: {error}; delete it to propose again") from error
    missing = [record.image_id for record in records if record.image_id not in proposals]
    if missing:
        raise DataError(
            f"{path}: no proposals for {len(missing)} images, the first: {missing[0]}; "
            "delete it to propose again"
        )
    bad = [name for name, boxes in proposals.items() if not _fits(boxes)]
    if bad:
        raise DataError(f"{path}: {bad[0]} has no (P, 4) float32 boxes; delete it to propose again")
    return proposals


def _fits(boxes: Tensor) -> bool:
    return boxes.dim() == 2 and boxes.shape[1] == 4 and boxes.dtype == torch.float32

"""How do a classifier's images get into batches, from files or as a stream of tar shards?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ...datasets.catalog import DataSplit
from ...datasets.catalog_classes import labelled_split, labelled_splits
from ...datasets.formats.format import Part, Source
from ...datasets.formats.shards import ShardsSource
from ...datasets.image import ImageRules
from ...datasets.loading.crops import Crop
from ...datasets.loading.dataset import ClassificationDataset, eval_loader, train_loader
from ...datasets.loading.sampling import BatchPlan, any_shape
from ...datasets.shards.index import ShardSet, read_shards
from ...datasets.shards.plan import StreamPlan
from ...datasets.shards.stream import ShardEvalLoader, ShardTrainLoader
from ..config.classifier import ClassifierConfig
from ..engine.distributed import Group
from ..errors import ConfigError
from ..structures import Batch


@dataclass(frozen=True)
class Images:
    """One split: its records, and the shards that hold them where they are no files."""

    split: DataSplit
    shards: ShardSet | None = None


def image_rules(config: ClassifierConfig) -> ImageRules:
    data = config.data
    return ImageRules(exif=data.exif, on_truncated=data.on_truncated, max_pixels=data.max_pixels)


def read_splits(
    config: ClassifierConfig, classes: tuple[str, ...] | None = None
) -> tuple[Images, Images]:
    """Training and validation images, labelled by name; ``classes`` go before those configured.

    Raises:
        ConfigError: there is no ``data.source``.
        DataError: anything in the data is an error, or validation has a class training lacks.
    """
    source, known = _source(config), classes or config.data.classes
    if isinstance(source, ShardsSource):
        train = read_shards(source.root / source.train, classes=known)
        val = read_shards(source.root / source.val, classes=train.classes)
        return Images(train.split(), train), Images(val.split(), val)
    splits = labelled_splits(source, classes=known, rules=image_rules(config))
    return Images(splits[0]), Images(splits[1])


def read_split(config: ClassifierConfig, part: Part, classes: tuple[str, ...]) -> Images:
    """One of the two, with the labels of ``classes``; raises as `read_splits`."""
    source = _source(config)
    if isinstance(source, ShardsSource):
        folder = source.root / (source.train if part == "train" else source.val)
        shards = read_shards(folder, classes=classes)
        return Images(shards.split(), shards)
    rules = image_rules(config)
    return Images(labelled_split(source, part, classes=classes, rules=rules))


def train_batches(
    images: Images, config: ClassifierConfig, crop: Crop, start: int, group: Group
) -> Iterable[Batch]:
    """This process's batches from step ``start`` on, the same after every restart."""
    settings, source = config.train, config.data.source
    count, seed = settings.batch_size, settings.seed
    if images.shards is not None and isinstance(source, ShardsSource):
        counts = tuple(map(len, images.shards.shards))
        return ShardTrainLoader(
            images.shards,
            crop,
            StreamPlan(counts, count, seed, lanes=source.lanes, buffer=source.buffer),
            steps=settings.iterations,
            start_step=start,
            rank=group.rank,
            world=group.world,
            accumulate=settings.accumulate,
            workers=config.data.workers,
            pin_memory=group.device.type == "cuda",
            rules=image_rules(config),
        )
    plan = BatchPlan(
        any_shape(len(images.split.records)),
        batch_size=count,
        seed=seed,
        steps=settings.iterations,
        start_step=start,
        rank=group.rank,
        world=group.world,
        accumulate=settings.accumulate,
    )
    dataset = ClassificationDataset(images.split.records, crop, rules=image_rules(config))
    return train_loader(
        dataset, plan, workers=config.data.workers, pin_memory=group.device.type == "cuda"
    )


def first_batch(images: Images, config: ClassifierConfig, crop: Crop) -> Batch:
    """The beginning of what training sees, read in this process, at most 16 images of files."""
    alone = Group(0, 1, torch.device("cpu"))
    data = config.data.model_copy(update={"workers": 0})
    config = config.model_copy(update={"data": data})
    if images.shards is not None:
        return next(iter(train_batches(images, config, crop, 0, alone)))
    settings = config.train
    plan = BatchPlan(
        any_shape(len(images.split.records)),
        batch_size=settings.batch_size,
        seed=settings.seed,
        steps=settings.iterations,
    )
    dataset = ClassificationDataset(images.split.records, crop, rules=image_rules(config))
    return Batch.collate([dataset[key] for key in next(iter(plan))[:16]], pad=False)


def test_batches(
    images: Images, config: ClassifierConfig, crops: Sequence[Crop], group: Group
) -> Iterable[Batch]:
    """Every image once over all processes, under all ``crops``."""
    rules, pin_memory = image_rules(config), group.device.type == "cuda"
    if images.shards is not None:
        return ShardEvalLoader(
            images.shards,
            *crops,
            batch_size=config.test.batch_size,
            rank=group.rank,
            world=group.world,
            workers=config.data.workers,
            pin_memory=pin_memory,
            rules=rules,
        )
    return eval_loader(
        ClassificationDataset(images.split.records, *crops, rules=rules),
        batch_size=config.test.batch_size,
        workers=config.data.workers,
        rank=group.rank,
        world=group.world,
        pin_memory=pin_memory,
    )


def _source(config: ClassifierConfig) -> Source:
    if config.data.source is None:
        raise ConfigError("data.source: not given; set its format and root")
    return config.data.source

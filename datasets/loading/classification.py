"""How does a classifier get its batches, in training and in testing?"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from ...detection.errors import DataError, ImageError
from ...detection.structures import Record, Sample
from ..image import ImageRules, read_image
from .crops import Crop
from .sampling import BatchPlan, SampleKey, fixed_keys
from .workers import BatchLoader, BatchReader

#: `Record.size` of an image whose header was not read.
UNKNOWN_SIZE = (0, 0)


class LabelledDataset(Dataset[Sample]):
    """``dataset[SampleKey]`` reads one image and cuts it; every crop but the first is a further
    view of it (`Sample.views`).

    Raises ImageError, naming the file, for an image that cannot be read or has changed its size,
    TruncatedImage where ``rules.on_truncated`` is ``skip`` (the loaders below decide what takes its
    place), and DataError for a record without a class.
    """

    pad: ClassVar[bool] = False

    def __init__(
        self, records: Sequence[Record], *crops: Crop, rules: ImageRules | None = None
    ) -> None:
        self.records = tuple(records)
        self.crops = crops
        self.rules = ImageRules() if rules is None else rules

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> Sample:
        record = self.records[key.index]
        if record.image_label is None:
            raise DataError(f"{record.path}: the record has no class")
        loaded = read_image(record.path, self.rules)
        for warning in loaded.warnings:
            warnings.warn(f"{record.path}: {warning}", stacklevel=2)
        size = loaded.pixels.shape[:2]
        if record.size not in (UNKNOWN_SIZE, size):
            raise ImageError(
                f"{record.path}: the image is {size[1]}x{size[0]} but was {record.size[1]}x"
                f"{record.size[0]} (width x height) at the start; the file has changed"
            )
        return self._sample(loaded.pixels, record, record.image_label, key.seed)

    def _sample(self, pixels: np.ndarray, record: Record, label: int, seed: int) -> Sample:
        """What becomes of an image that was read."""
        return labelled_sample(pixels, self.crops, label=label, image_id=record.image_id, seed=seed)

    def batches(self, batch_size: int) -> list[list[SampleKey]]:
        """Every image once; those that share a batch have crops of one size.

        In order, unless the crops keep the shape of the image: then by the size of the image,
        and each image of unknown size alone.
        """
        groups: dict[object, list[SampleKey]] = defaultdict(list)
        fixed = all(crop.fixed for crop in self.crops)
        for key in fixed_keys(len(self)):
            size = self.records[key.index].size
            alone = (size, key.index) if size == UNKNOWN_SIZE else size
            groups[None if fixed else alone].append(key)
        return [
            keys[at : at + batch_size]
            for keys in groups.values()
            for at in range(0, len(keys), batch_size)
        ]


def labelled_sample(
    pixels: np.ndarray,
    crops: Sequence[Crop],
    *,
    label: int | None = None,
    image_id: str = "",
    seed: int = 0,
) -> Sample:
    """The image ``pixels`` (h, w, 3) uint8 under all crops; a crop may give several views."""
    views = []
    for crop in crops:
        cut = crop(pixels, seed)
        views += [
            Sample(image, image_id=image_id, seed=seed, label=label)
            for image in (cut if cut.dim() == 4 else cut[None])
        ]
    return replace(views[0], views=tuple(views[1:]))


def any_shape(count: int) -> list[tuple[int, int]]:
    """Sizes for a `BatchPlan` that groups nothing: crops share batches, whatever the images."""
    return [(1, 1)] * count


def labelled_train_loader(
    dataset: LabelledDataset, plan: BatchPlan, *, workers: int, pin_memory: bool = False
) -> BatchLoader:
    """The batches of ``plan``. Under ``on_truncated: skip`` the next whole image of the data set
    takes the place of a truncated one, with a warning, so that the batch keeps its size.
    """
    reader = BatchReader(dataset, replace=True)
    return BatchLoader(reader, plan, workers=workers, pin_memory=pin_memory)


def labelled_test_loader(
    dataset: LabelledDataset,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """Every image once over all processes, never padded with repeats.

    Batches (`LabelledDataset.batches`) are cut before they are dealt out, process ``rank`` taking
    every ``world``-th: which images share a batch, and so the result, does not depend on the
    number of processes. Processes may get one batch more or less, so none may wait for another
    inside the loop. Each image has one fixed seed. Under ``on_truncated: skip`` a truncated
    image is left out with a warning.
    """
    reader = BatchReader(dataset, replace=False)
    batches = dataset.batches(batch_size)[rank::world]
    return BatchLoader(reader, batches, workers=workers, pin_memory=pin_memory)

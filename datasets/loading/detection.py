"""How does a detector get its batches, in training and in testing?"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import ClassVar

from torch.utils.data import Dataset

from ...detection.errors import ConfigError, ImageError
from ...detection.structures import Record, Sample
from ..image import ImageRules, LoadedImage, read_image
from .sampling import BatchPlan, SampleKey, epoch_batches, fixed_keys, sample_seed
from .transforms import Transform, make_sample
from .workers import BatchLoader, BatchReader

__all__ = [
    "BatchLoader",
    "BatchPlan",
    "DetectionDataset",
    "SampleKey",
    "epoch_batches",
    "sample_seed",
    "test_loader",
    "train_loader",
]


class DetectionDataset(Dataset[Sample]):
    """``dataset[SampleKey]`` reads, checks and transforms one image; every transform but the
    first gives a further view of it (`Sample.views`).

    Raises ImageError, naming the file, for an image that cannot be read or is not of the size in
    its record, and TruncatedImage where ``rules.on_truncated`` is ``skip``: the loaders below
    decide what takes its place.
    """

    pad: ClassVar[bool] = True

    def __init__(
        self, records: Sequence[Record], *transforms: Transform, rules: ImageRules | None = None
    ) -> None:
        self.records = tuple(records)
        self.transforms = transforms
        self.rules = ImageRules() if rules is None else rules

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> Sample:
        record = self.records[key.index]
        loaded = read_image(record.path, self.rules)
        for warning in loaded.warnings:
            warnings.warn(f"{record.path}: {warning}", stacklevel=2)
        _check_size(record, loaded)
        try:
            return make_sample(
                loaded.pixels,
                record.annotation,
                self.transforms,
                image_id=record.image_id,
                seed=key.seed,
            )
        except ConfigError as error:
            raise ConfigError(f"{record.path}: {error}") from error


def _check_size(record: Record, loaded: LoadedImage) -> None:
    height, width = loaded.pixels.shape[:2]
    if (height, width) == record.size:
        return
    reason = "the file has changed or the annotation is of another image"
    if (width, height) == record.size and loaded.orientation >= 5:
        reason = (
            f"its EXIF orientation {loaded.orientation} turns it by 90 degrees: "
            "the boxes were drawn with the other setting of data.exif"
        )
    raise ImageError(
        f"{record.path}: the image is {width}x{height} but its annotation is for "
        f"{record.size[1]}x{record.size[0]} (width x height); {reason}"
    )


def train_loader(
    dataset: DetectionDataset, plan: BatchPlan, *, workers: int, pin_memory: bool = False
) -> BatchLoader:
    """The batches of ``plan``. Under ``on_truncated: skip`` the next whole image of the data set
    takes the place of a truncated one, with a warning, so that the batch keeps its size.
    """
    reader = BatchReader(dataset, replace=True)
    return BatchLoader(reader, plan, workers=workers, pin_memory=pin_memory)


def test_loader(
    dataset: DetectionDataset,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """Every image once over all processes, in order, never padded with repeats.

    Batches are cut before they are dealt out, process ``rank`` taking every ``world``-th: which
    images share a batch, and so the result, does not depend on the number of processes. Processes
    may get one batch more or less, so none may wait for another inside the loop. Each image has
    one fixed seed. Under ``on_truncated: skip`` a truncated image is left out with a warning.
    """
    keys = fixed_keys(len(dataset))
    batches = [keys[at : at + batch_size] for at in range(0, len(keys), batch_size)]
    reader = BatchReader(dataset, replace=False)
    return BatchLoader(reader, batches[rank::world], workers=workers, pin_memory=pin_memory)

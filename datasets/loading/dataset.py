"""Data sets that read images for a detector, a classifier or a localizer, and their loaders."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import ClassVar

import numpy as np
from torch.utils.data import Dataset

from ...detection.errors import ConfigError, DataError, first_few
from ...detection.structures import Batch, Record, Sample
from ..headers import read_headers
from ..image import DEFAULT_RULES, ImageRules, LoadedImage, SkippedImage, read_image
from ..record_columns import Records
from .crop_geometry import CropGeometry, crop_annotation
from .crops import Crop, PlacedCrop, crop_sample
from .sampling import BatchPlan, SampleKey, fixed_keys
from .transforms import Transform, make_sample
from .workers import BatchLoader

#: `Record.size` of an image whose header was not read.
UNKNOWN_SIZE = (0, 0)


class ImageDataset(Dataset[Sample], ABC):
    """``dataset[SampleKey]`` reads and checks one image and makes a sample of it.

    Raises ImageError, naming the file, for an image that cannot be read or is not of the size in
    its record, and SkippedImage where ``rules`` say to skip it: the loaders below replace it or
    leave it out.
    """

    #: Whether images of different sizes share a batch, as `Batch.collate` pads them.
    pad: ClassVar[bool] = False
    #: Whether all samples have one size.
    fixed: bool = True

    def __init__(self, records: Sequence[Record], rules: ImageRules = DEFAULT_RULES) -> None:
        self.records = Records.of(records)
        self.rules = rules

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: SampleKey) -> Sample:
        record = self.records[key.index]
        loaded = read_record(record, self.rules)
        for warning in loaded.warnings:
            warnings.warn(f"{record.path}: {warning}", stacklevel=2)
        try:
            return self.make(loaded.pixels, record, key.seed)
        except ConfigError as error:
            raise ConfigError(f"{record.path}: {error}") from error

    @abstractmethod
    def make(self, pixels: np.ndarray, record: Record, seed: int) -> Sample:
        """The sample of one image, ``pixels`` (h, w, 3) uint8."""

    def read(self, keys: Sequence[SampleKey], *, replace_skipped: bool) -> Batch | None:
        """The samples of the keys as a batch; None if no image is left.

        An image that raises SkippedImage is replaced by the next usable one of the data set, which
        depends on the files alone, and named in `Batch.skipped`; or it is left out.
        """
        samples = [self._usable(key) if replace_skipped else self._or_none(key) for key in keys]
        found = [sample for sample in samples if sample is not None]
        return Batch.collate(found, pad=self.pad) if found else None

    def _usable(self, key: SampleKey) -> Sample:
        count, skipped = len(self), []
        for offset in range(count):
            try:
                sample = self[SampleKey((key.index + offset) % count, key.seed)]
            except SkippedImage as error:
                skipped.append(str(error))
            else:
                return replace(sample, skipped=tuple(skipped)) if skipped else sample
        raise DataError(f"none of the {count} images can be used: {first_few(skipped, 3)}")

    def _or_none(self, key: SampleKey) -> Sample | None:
        try:
            return self[key]
        except SkippedImage as error:
            warnings.warn(f"{error}; left out", stacklevel=2)
            return None

    def made_sizes(self, size: tuple[int, int]) -> tuple[object, ...]:
        """What is equal for images whose samples fit one batch; ``size`` is an image's (h, w)."""
        return size

    def batches(self, batch_size: int, *, workers: int = 0) -> list[list[SampleKey]]:
        """Batches of keys, every image once and in order.

        Samples that are neither padded nor of one size are grouped by the sizes of their crops
        (`made_sizes`), unless each is alone. Sizes that the records lack are read from the headers,
        by so many ``workers``; each image without a usable header is alone.
        """
        groups: dict[object, list[SampleKey]] = defaultdict(list)
        together = self.pad or self.fixed or batch_size == 1
        sizes = repeat(UNKNOWN_SIZE, len(self)) if together else self._sizes(workers)
        for key, size in zip(fixed_keys(len(self)), sizes, strict=True):
            alike = (size, key.index) if size == UNKNOWN_SIZE else self.made_sizes(size)
            groups[None if together else alike].append(key)
        return [
            keys[at : at + batch_size]
            for keys in groups.values()
            for at in range(0, len(keys), batch_size)
        ]

    def _sizes(self, workers: int) -> Iterator[tuple[int, int]]:
        """The (h, w) of each image, UNKNOWN_SIZE for those that cannot be used."""
        known = self.records.sizes
        missing = np.flatnonzero((known == UNKNOWN_SIZE).all(axis=1))
        paths = [row.path for row in self.records.take(missing).rows()]
        headers = read_headers(paths, self.rules, workers=workers)
        read = dict(zip(missing.tolist(), headers, strict=True))
        for index, (height, width) in enumerate(known.tolist()):
            header = read.get(index, (height, width))
            yield UNKNOWN_SIZE if isinstance(header, str) else header


class DetectionDataset(ImageDataset):
    """Images with their objects; every transform but the first gives a further view of the image
    (`Sample.views`)."""

    pad = True

    def __init__(
        self, records: Sequence[Record], *transforms: Transform, rules: ImageRules = DEFAULT_RULES
    ) -> None:
        super().__init__(records, rules)
        self.transforms = transforms

    def make(self, pixels: np.ndarray, record: Record, seed: int) -> Sample:
        return make_sample(
            pixels, record.annotation, self.transforms, image_id=record.image_id, seed=seed
        )


class ClassificationDataset(ImageDataset):
    """Images with their class; every crop but the first gives further views of the image.

    Raises DataError for a record without a class, and what `ImageDataset` raises.
    """

    def __init__(
        self, records: Sequence[Record], *crops: Crop, rules: ImageRules = DEFAULT_RULES
    ) -> None:
        super().__init__(records, rules)
        self.crops = crops
        self.fixed = all(crop.fixed for crop in crops)

    def made_sizes(self, size: tuple[int, int]) -> tuple[object, ...]:
        """The (h, w) of each crop that is not of one size for all images."""
        sized = (crop for crop in self.crops if not crop.fixed)
        return tuple(
            crop.place(size, 0).size if isinstance(crop, PlacedCrop) else size for crop in sized
        )

    def make(self, pixels: np.ndarray, record: Record, seed: int) -> Sample:
        label = class_of(record)
        return crop_sample(pixels, self.crops, image_id=record.image_id, seed=seed, label=label)


class LocalizationDataset(ClassificationDataset):
    """Images with their class and its objects, cropped with the image (`crop_annotation`).

    A random crop may show none of them; its annotation is then empty, or all ``ignore``.

    Raises ConfigError for a ``least_visible`` that is no fraction, and what `ClassificationDataset`
    raises.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *crops: PlacedCrop,
        least_visible: float,
        rules: ImageRules = DEFAULT_RULES,
    ) -> None:
        if not 0 <= least_visible <= 1:
            raise ConfigError(f"least_visible: {least_visible:g} is not between 0 and 1")
        super().__init__(records, *crops, rules=rules)
        self.least_visible = least_visible

    def make(self, pixels: np.ndarray, record: Record, seed: int) -> Sample:
        sample = super().make(pixels, record, seed)
        first, *views = (self._annotated(view, record) for view in (sample, *sample.views))
        return replace(first, views=tuple(views))

    def _annotated(self, view: Sample, record: Record) -> Sample:
        if not isinstance(view.geometry, CropGeometry):
            raise TypeError("the crops of a LocalizationDataset must be placed")
        annotation = crop_annotation(
            record.annotation, view.geometry, least_visible=self.least_visible
        )
        return replace(view, annotation=annotation)


def class_of(record: Record) -> int:
    """The class of the whole image; raises DataError where the record has none."""
    if record.image_label is None:
        raise DataError(f"{record.path}: the record has no class")
    return record.image_label


def read_record(record: Record, rules: ImageRules) -> LoadedImage:
    """The image of a record; raises ImageError where it cannot be read or has another size."""
    loaded = read_image(record.path, rules)
    height, width = loaded.pixels.shape[:2]
    if record.size in (UNKNOWN_SIZE, (height, width)):
        return loaded
    reason = "the file has changed or the annotation is of another image"
    if (width, height) == record.size and loaded.orientation >= 5:
        reason = (
            f"its EXIF orientation {loaded.orientation} turns it by 90 degrees: "
            "the boxes were drawn with the other setting of data.exif"
        )
    raise rules.error(
        f"{record.path}: the image is {width}x{height} but its record says "
        f"{record.size[1]}x{record.size[0]} (width x height); {reason}"
    )


def train_loader(
    dataset: ImageDataset, plan: BatchPlan, *, workers: int, pin_memory: bool = False
) -> BatchLoader:
    """The batches of ``plan``. An image to be skipped is replaced by the next usable one of the
    data set, so that the batch keeps its size, and named in `Batch.skipped`.
    """
    read = partial(dataset.read, replace_skipped=True)
    return BatchLoader(read, plan, workers=workers, pin_memory=pin_memory)


def eval_loader(
    dataset: ImageDataset,
    *,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
    pin_memory: bool = False,
) -> BatchLoader:
    """Every image once over all processes, never padded with repeats.

    Batches (`ImageDataset.batches`) are cut before they are dealt out, process ``rank`` taking
    every ``world``-th: which images share a batch, and so the result, does not depend on the
    number of processes. Processes may get one batch more or less, so none may wait for another
    inside the loop. Each image has one fixed seed. An image to be skipped is left out with a
    warning.
    """
    read = partial(dataset.read, replace_skipped=False)
    batches = dataset.batches(batch_size, workers=workers)[rank::world]
    return BatchLoader(read, batches, workers=workers, pin_memory=pin_memory)

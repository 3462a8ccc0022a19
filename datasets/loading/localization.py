"""Which part of an image does a localizer see, and where in it are the objects?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ...detection.errors import ConfigError
from ...detection.structures import Record, Sample
from ..image import ImageRules
from .classification import LabelledDataset
from .crops import PlacedCrop
from .cut import cut_annotation


class LocatedDataset(LabelledDataset):
    """A `LabelledDataset`, for the same loaders, whose samples and their views carry their objects:
    those of the record, cut with the image as `cut_annotation` does.

    A random crop may show none of them; its annotation is then empty, or all ``ignore``.

    Raises ConfigError for a ``least_visible`` that is no fraction, and what `LabelledDataset` does.
    """

    def __init__(
        self,
        records: Sequence[Record],
        *crops: PlacedCrop,
        least_visible: float,
        rules: ImageRules | None = None,
    ) -> None:
        if not 0 <= least_visible <= 1:
            raise ConfigError(f"least_visible: {least_visible:g} is not between 0 and 1")
        super().__init__(records, *crops, rules=rules)
        self.placed = crops
        self.least_visible = least_visible

    def _sample(self, pixels: np.ndarray, record: Record, label: int, seed: int) -> Sample:
        sample = super()._sample(pixels, record, label, seed)
        size = (pixels.shape[0], pixels.shape[1])
        first, *others = (
            cut_annotation(
                record.annotation, crop.place(size, seed), least_visible=self.least_visible
            )
            for crop in self.placed
        )
        views = tuple(
            replace(view, annotation=annotation)
            for view, annotation in zip(sample.views, others, strict=True)
        )
        return replace(sample, annotation=first, views=views)

"""A model for FiftyOne's data sets:

dataset.apply_model(FiftyOneModel(resdet.load("best.pt", score_threshold=0.05)), "resdet")

Needs the package fiftyone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import fiftyone as fo
import numpy as np
from fiftyone.core.models import Model
from numpy.typing import NDArray

from ..inference.predictor import Predictor
from ..inference.result_types import ClassResult, DetectionResult


class FiftyOneModel(Model):
    """`fiftyone.Detections` of a detector, or of a localizer its best box, or the
    `fiftyone.Classification` of a classifier: its best class. ``predictor`` is what `resdet.load`
    returns; its score threshold holds before FiftyOne's ``confidence_thresh``."""

    media_type = "image"
    #: False: images of unequal size may come in one call.
    ragged_batches = False
    transforms = None
    preprocess = False

    def __init__(self, predictor: Predictor[Any]) -> None:
        self._predictor = predictor
        #: FiftyOne looks for settings here; this model has none.
        self.config = None

    def predict(self, arg: NDArray[np.uint8]) -> fo.Label | None:
        """What is in an image (h, w, 3), RGB; called by FiftyOne."""
        return self.predict_all([arg])[0]

    def predict_all(self, args: Sequence[NDArray[np.uint8]]) -> list[fo.Label | None]:
        """`predict` for several images; None where no class of a classifier reaches the
        threshold."""
        one = self._predictor.output.one_object
        results = self._predictor(list(args))
        return [_label(result.top(1) if one else result) for result in results]


def _label(result: DetectionResult | ClassResult) -> fo.Label | None:
    if isinstance(result, ClassResult):
        best = [fo.Classification(label=one.name, confidence=one.score) for one in result.top(1)]
        return best[0] if best else None
    sides = result.boxes / result.boxes.new_tensor([*reversed(result.size)] * 2)
    return fo.Detections(
        detections=[
            fo.Detection(
                label=one.name, confidence=one.score, bounding_box=[x1, y1, x2 - x1, y2 - y1]
            )
            for one, (x1, y1, x2, y2) in zip(result, sides.tolist(), strict=True)
        ]
    )

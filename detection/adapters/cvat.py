"""A model as a function of CVAT's auto-annotation, which runs where the model is:

cvat-cli task auto-annotate 137 --function-module resdet.detection.adapters.cvat \
    -p weights=str:best.pt -p score=float:0.3

``weights`` and ``device`` are as in `resdet.load`, ``score`` is the minimum score unless CVAT asks
for another one. Labels are matched by name. Needs the package cvat-sdk, which cvat-cli brings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk import models
from PIL import Image

from ..inference.outputs import ClassOutput
from ..inference.predictor import Predictor
from ..inference.result_types import ClassResult
from ..predictor import load


class CvatFunction:
    """Boxes of a detector and the best one of a localizer as rectangles, the best class of a
    classifier as a tag."""

    def __init__(self, predictor: Predictor[Any]) -> None:
        self._predictor = predictor
        kind = "tag" if isinstance(predictor.output, ClassOutput) else "rectangle"
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[
                cvataa.label_spec(name, number, type=kind)
                for number, name in enumerate(predictor.classes)
            ]
        )

    def detect(
        self, context: cvataa.DetectionFunctionContext, image: Image.Image
    ) -> Sequence[models.LabeledShapeRequest | models.LabeledImageRequest]:
        """What is in an image, in its pixels; called by CVAT."""
        result = self._predictor(image, score_threshold=context.conf_threshold)
        if isinstance(result, ClassResult):
            return [cvataa.tag(int(label)) for label in result.top(1).labels]
        if self._predictor.output.one_object:
            result = result.top(1)
        return [
            cvataa.rectangle(int(label), [float(side) for side in box])
            for label, box in zip(result.labels, result.boxes, strict=True)
        ]


def create(weights: str, score: float | None = None, device: str | None = None) -> CvatFunction:
    """The function that cvat-cli asks for; raises WeightsError and ConfigError."""
    return CvatFunction(load(weights, device, score_threshold=score))

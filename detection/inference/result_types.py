"""The results of detectors, localizers and classifiers for one image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..errors import ConfigError
from ..printing import printable
from .draw import cut_box, draw_class, draw_detections
from .image_results import ImageResult
from .records import class_record, detection_record

if TYPE_CHECKING:
    import supervision


@dataclass(frozen=True)
class Detection:
    """One detection: ``box`` is (x1, y1, x2, y2) in displayed pixels, ``label`` its class."""

    name: str
    score: float
    box: tuple[float, float, float, float]
    label: int


@dataclass(frozen=True)
class ClassScore:
    """One class of an image, with its probability."""

    name: str
    score: float
    label: int


class DetectionResult(ImageResult[Detection]):
    """The detections of a detector, or the boxes of a localizer, in one image."""

    noun = "detections"
    columns = ("label", "score", "x1", "y1", "x2", "y2")

    @property
    def boxes(self) -> Tensor:
        """(D, 4) f32, (x1, y1, x2, y2) in displayed pixels."""
        boxes: Tensor = self.found.boxes
        return boxes

    def drawing(self) -> NDArray[np.uint8]:
        return draw_detections(self.image.pixels, self.found, self.classes)

    def crops(self) -> list[Image.Image]:
        """The part of the image in each box: the pixels that it covers, also in part."""
        if not len(self):
            return []
        pixels = self.image.pixels
        return [Image.fromarray(cut_box(pixels, box)) for box in self.boxes.tolist()]

    def to_dict(self) -> dict[str, Any]:
        record = detection_record(self.file, self.image, self.found, self.classes)
        return self.image.record(record)

    def to_supervision(self) -> supervision.Detections:
        """The same as the `Detections` of supervision, with names in ``data["class_name"]``.

        Raises ConfigError where supervision is not installed.
        """
        return _supervision().Detections(
            xyxy=self.boxes.numpy().copy(),
            confidence=self.scores.numpy().copy(),
            class_id=self.labels.numpy().copy(),
            data={"class_name": np.array(self.names, dtype=str)},
        )

    def _item(self, index: int) -> Detection:
        label, (x1, y1, x2, y2) = int(self.labels[index]), self.boxes[index].tolist()
        return Detection(self.classes[label], float(self.scores[index]), (x1, y1, x2, y2), label)

    def _line(self, index: int) -> str:
        one = self[index]
        return f"{printable(one.name)} {one.score:.3f}  {[round(side, 1) for side in one.box]}"

    def _rows(self, record: dict[str, Any]) -> list[list[object]]:
        return [[one["label"], one["score"], *one["box"]] for one in record["detections"]]


class ClassResult(ImageResult[ClassScore]):
    """All classes of a classifier for one image, best first, with probabilities."""

    noun = "classes"
    columns = ("rank", "label", "score")

    def drawing(self) -> NDArray[np.uint8]:
        return draw_class(self.image.pixels, self.found, self.classes)

    def to_dict(self) -> dict[str, Any]:
        return self.image.record(class_record(self.file, self.image, self.found, self.classes))

    def to_supervision(self) -> supervision.Classifications:
        """The same as the `Classifications` of supervision; raises ConfigError without it."""
        return _supervision().Classifications(
            class_id=self.labels.numpy().copy(), confidence=self.scores.numpy().copy()
        )

    def _item(self, index: int) -> ClassScore:
        label = int(self.labels[index])
        return ClassScore(self.classes[label], float(self.scores[index]), label)

    def _line(self, index: int) -> str:
        return f"{printable(self[index].name)} {self[index].score:.3f}"

    def _rows(self, record: dict[str, Any]) -> list[list[object]]:
        ranked = enumerate(record["classes"], start=1)
        return [[rank, one["label"], one["score"]] for rank, one in ranked]


def _supervision() -> Any:
    try:
        import supervision
    except ImportError as error:
        raise ConfigError(
            "to_supervision() needs supervision: pip install supervision (its opencv-python takes "
            "the place of opencv-python-headless: in an environment of resdet, add --no-deps)"
        ) from error
    return supervision

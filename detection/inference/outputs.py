"""What a run over images writes for each of them: a record, a drawing and, sorted, the image."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.formats.coco_ids import CocoIds
from ...datasets.image import LoadedImage
from ..files import atomic_write
from ..structures import Detections
from .draw import JPEG_SIDE, cut_box, draw_class, draw_detections, save_jpeg
from .image_results import ImageResult
from .inputs import InputFile
from .ranked_classes import RankedClasses
from .records import CLASS_RECORDS, RECORDS, class_record, detection_record
from .result_names import drawn_name, folder_name, safe_name
from .result_types import ClassResult, DetectionResult
from .results import export_classes, export_results

DRAWN, SORTED, CROPS = "drawn", "sorted", "crops"

Kind = TypeVar("Kind", Detections, RankedClasses)


class Extras(Protocol):
    """The images to write beside the records: drawings; of a classifier, a link to (or a copy of)
    each image in the folder of its best class; the pixels of each box."""

    @property
    def draw(self) -> bool: ...

    @property
    def sort_by_class(self) -> bool: ...

    @property
    def save_crops(self) -> bool: ...


class Output(ABC, Generic[Kind]):
    """The files of one kind of result."""

    #: Its results and their numbers in words, ``format`` in ``meta.json``, the name of the lines.
    noun: ClassVar[str]
    numbers: ClassVar[str]
    format: ClassVar[str]
    records: ClassVar[str]
    #: The minimum score, unless another is given.
    threshold: ClassVar[float]
    #: Whether all results of an image are about one object, which the best one then stands for.
    one_object: ClassVar[bool] = False
    #: What a `Predictor` makes of them.
    result: ClassVar[type[ImageResult[Any]]]

    @abstractmethod
    def selected(self, found: Kind, thresholds: torch.Tensor) -> Kind:
        """The results to write; ``thresholds`` (K,) are the minimum scores of the classes."""

    @abstractmethod
    def record(
        self, name: str, image: LoadedImage, found: Kind, classes: Sequence[str]
    ) -> dict[str, Any]:
        """The line of one image."""

    @abstractmethod
    def is_finite(self, found: Kind) -> bool:
        """Whether no number is NaN or infinite."""

    @abstractmethod
    def drawing(
        self, pixels: NDArray[np.uint8], found: Kind, classes: Sequence[str]
    ) -> NDArray[np.uint8]:
        """A copy of the image (h, w, 3) uint8 RGB with its results."""

    @abstractmethod
    def export(self, folder: Path, coco_ids: CocoIds | None) -> None:
        """Write the other formats of a complete file of records."""

    def write(
        self,
        out: Path,
        file: InputFile,
        image: LoadedImage,
        found: Kind,
        classes: Sequence[str],
        extras: Extras,
    ) -> dict[str, Any]:
        """The record of one image, after its ``extras`` are written into ``out``."""
        if not self.is_finite(found):
            return {"file": file.name, "error": f"the network gave {self.numbers} that are NaN"}
        record = self.record(file.name, image, found, classes)
        if extras.draw and max(image.pixels.shape[:2]) > JPEG_SIDE:
            record["warnings"].append(f"not drawn: a JPEG holds at most {JPEG_SIDE} pixels a side")
        elif extras.draw:
            record["drawn"] = f"{DRAWN}/{drawn_name(file.name)}"
            save_jpeg(self.drawing(image.pixels, found, classes), out / record["drawn"])
        if extras.sort_by_class:
            sort_image(out, record, file)
        if extras.save_crops:
            save_crops(out, record, image.pixels)
        return record


class BoxOutput(Output[Detections]):
    """Detections in JSON lines, COCO JSON and CSV; drawn boxes."""

    noun = "detections"
    numbers = "boxes or scores"
    format = "resdet detections 1"
    records = RECORDS
    threshold = 0.5
    result = DetectionResult
    record = staticmethod(detection_record)

    def drawing(
        self, pixels: NDArray[np.uint8], found: Detections, classes: Sequence[str]
    ) -> NDArray[np.uint8]:
        return draw_detections(pixels, found, classes)

    def selected(self, found: Detections, thresholds: torch.Tensor) -> Detections:
        return found[~(found.scores < thresholds[found.labels])]  # NaN stays, to be told

    def is_finite(self, found: Detections) -> bool:
        return bool(found.boxes.isfinite().all() and found.scores.isfinite().all())

    def export(self, folder: Path, coco_ids: CocoIds | None) -> None:
        export_results(folder, coco_ids)


class LocatedOutput(BoxOutput):
    """The boxes of a localizer's likeliest classes, one of each class, whatever their scores; the
    best one drawn."""

    noun = "boxes"
    threshold = 0.0
    one_object = True

    def drawing(
        self, pixels: NDArray[np.uint8], found: Detections, classes: Sequence[str]
    ) -> NDArray[np.uint8]:
        return draw_detections(pixels, found[found.scores.argsort(descending=True)[:1]], classes)


class ClassOutput(Output[RankedClasses]):
    """The five best classes in JSON lines and CSV; images with the best one drawn."""

    noun = "labels"
    numbers = "scores"
    format = "resdet classes 1"
    records = CLASS_RECORDS
    threshold = 0.0
    result = ClassResult
    top = 5
    record = staticmethod(class_record)
    drawing = staticmethod(draw_class)

    def selected(self, found: RankedClasses, thresholds: torch.Tensor) -> RankedClasses:
        return found[~(found.scores < thresholds[found.labels])][: self.top]

    def is_finite(self, found: RankedClasses) -> bool:
        return bool(found.scores.isfinite().all())

    def export(self, folder: Path, coco_ids: CocoIds | None) -> None:
        export_classes(folder)


def save_crops(out: Path, record: dict[str, Any], pixels: NDArray[np.uint8]) -> None:
    """Write the pixels of each detection as ``crops/CLASS/IMAGE-NUMBER.jpg`` in ``out``, numbered
    from 0 in the order of the record, which names them."""
    name = PurePath(drawn_name(record["file"]))
    for number, found in enumerate(record["detections"]):
        crop = cut_box(pixels, found["box"])
        if max(crop.shape[:2]) > JPEG_SIDE:
            record["warnings"].append(
                f"crop {number} not written: a JPEG holds at most {JPEG_SIDE} pixels a side"
            )
            continue
        folder = f"{CROPS}/{folder_name(found['label'])}"
        found["crop"] = f"{folder}/{name.with_name(f'{name.stem}-{number}.jpg').as_posix()}"
        save_jpeg(crop, out / found["crop"])


#: The output of detectors, and of localizers.
BOXES, LOCATED = BoxOutput(), LocatedOutput()


def sort_image(out: Path, record: dict[str, Any], file: InputFile) -> None:
    """Hard-link the image as ``sorted/CLASS/NAME`` in ``out``, or copy it where the file system
    has no such links, and name it in ``record``; not for an image without a label.

    Names of classes and images are made safe, so that they stay in their folder.
    """
    if not record["classes"]:
        return
    name = f"{SORTED}/{folder_name(record['classes'][0]['label'])}/{safe_name(record['file'])}"
    path, original = out / name, file.path.resolve()  # of a symbolic link, the image itself
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(path) as part:
            try:
                part.hardlink_to(original)
            except OSError:
                shutil.copyfile(original, part)
    except FileNotFoundError:
        if original.exists():
            raise
        record["warnings"].append("not sorted: the image was removed after it was read")
    else:
        record["sorted"] = name

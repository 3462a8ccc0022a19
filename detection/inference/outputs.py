"""What a run over images writes for each of them: a record, a drawing and, sorted, the image."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ...datasets.formats.coco_ids import CocoIds
from ...datasets.image import LoadedImage
from ..files import atomic_write
from ..structures import Detections
from .draw import JPEG_SIDE, draw_class, draw_detections, save_jpeg
from .inputs import InputFile, drawn_name, folder_name, safe_name
from .ranked_classes import RankedClasses
from .records import CLASS_RECORDS, RECORDS, class_record, detection_record
from .results import export_classes, export_results

DRAWN, SORTED = "drawn", "sorted"

Kind = TypeVar("Kind", Detections, RankedClasses)


class Output(ABC, Generic[Kind]):
    """The files of one kind of result."""

    #: Its results and their numbers in words, ``format`` in ``meta.json``, the name of the lines.
    noun: ClassVar[str]
    numbers: ClassVar[str]
    format: ClassVar[str]
    records: ClassVar[str]
    #: The minimum score, unless another is given.
    threshold: ClassVar[float]

    @abstractmethod
    def selected(self, found: Kind, wanted: torch.Tensor) -> Kind:
        """The results to write; ``wanted`` (K,) bool are the classes asked for."""

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
        *,
        draw: bool,
        sort: bool,
    ) -> dict[str, Any]:
        """The record of one image, after its drawing is written into ``out`` and the image is
        sorted there."""
        if not self.is_finite(found):
            return {"file": file.name, "error": f"the network gave {self.numbers} that are NaN"}
        record = self.record(file.name, image, found, classes)
        if draw and max(image.pixels.shape[:2]) > JPEG_SIDE:
            record["warnings"].append(f"not drawn: a JPEG holds at most {JPEG_SIDE} pixels a side")
        elif draw:
            record["drawn"] = f"{DRAWN}/{drawn_name(file.name)}"
            save_jpeg(self.drawing(image.pixels, found, classes), out / record["drawn"])
        if sort:
            sort_image(out, record, file)
        return record


class BoxOutput(Output[Detections]):
    """Detections in JSON lines, COCO JSON and CSV; drawn boxes."""

    noun = "detections"
    numbers = "boxes or scores"
    format = "resdet detections 1"
    records = RECORDS
    threshold = 0.5
    record = staticmethod(detection_record)
    drawing = staticmethod(draw_detections)

    def selected(self, found: Detections, wanted: torch.Tensor) -> Detections:
        return found[wanted[found.labels]]

    def is_finite(self, found: Detections) -> bool:
        return bool(found.boxes.isfinite().all() and found.scores.isfinite().all())

    def export(self, folder: Path, coco_ids: CocoIds | None) -> None:
        export_results(folder, coco_ids)


class ClassOutput(Output[RankedClasses]):
    """The five best classes in JSON lines and CSV; images with the best one drawn."""

    noun = "labels"
    numbers = "scores"
    format = "resdet classes 1"
    records = CLASS_RECORDS
    threshold = 0.0
    top = 5
    record = staticmethod(class_record)
    drawing = staticmethod(draw_class)

    def selected(self, found: RankedClasses, wanted: torch.Tensor) -> RankedClasses:
        return found[: self.top]

    def is_finite(self, found: RankedClasses) -> bool:
        return bool(found.scores.isfinite().all())

    def export(self, folder: Path, coco_ids: CocoIds | None) -> None:
        export_classes(folder)


#: The output of detectors and localizers.
BOXES = BoxOutput()


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

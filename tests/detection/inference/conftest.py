"""A detector of coloured spots, and images for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from resdet.datasets.loading.transforms import EvalTransform
from resdet.detection.inference.pipeline import Pipeline
from resdet.detection.inference.predictor import Predictor
from resdet.detection.structures import Batch, Detections
from torch import Tensor

CLASSES = ("red spot", "blå fläck")


class SpotFinder(Pipeline):
    """Finds the extent of red (class 0) and of blue (class 1) in each image.

    The score is the share of the image that the extent covers, so that it follows from the
    drawing. ``shapes`` notes the batches it was given.
    """

    def __init__(self) -> None:
        super().__init__([], suppress=lambda candidates: candidates)
        self.transforms = (EvalTransform(80, 120),)
        self.shapes: list[tuple[int, ...]] = []

    device = torch.device("cpu")

    def predict(self, batch: Batch) -> list[Detections]:
        assert not self.training
        self.shapes.append(tuple(batch.images.shape))
        return [
            self._find(image[:, :h, :w].float(), (h, w), geometry)
            for image, (h, w), geometry in zip(
                batch.images, batch.sizes, batch.geometries, strict=True
            )
        ]

    def _find(self, image: Tensor, size: tuple[int, int], geometry: object) -> Detections:
        parts = []
        for label, (strong, weak) in enumerate([(0, 2), (2, 0)]):
            rows, columns = torch.nonzero(image[strong] - image[weak] > 100, as_tuple=True)
            if len(rows) == 0:
                continue
            box = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            share = (box[2] - box[0]) * (box[3] - box[1]) / (size[0] * size[1])
            parts.append(
                Detections(
                    geometry.invert(box[None].float()), share[None].float(), torch.tensor([label])
                )
            )
        return Detections.cat(parts)


@pytest.fixture
def model() -> SpotFinder:
    return SpotFinder()


@pytest.fixture
def predictor(model: SpotFinder) -> Predictor:
    """Network size 80 x 120 for the images of `spot`; exactly twice their size."""
    return Predictor(model, classes=CLASSES)


@pytest.fixture
def spot() -> Callable[..., NDArray[np.uint8]]:
    """A grey image, 40 x 60, with a red box (x1, y1, x2, y2) and, if asked, a blue one."""

    def draw(
        red: tuple[int, int, int, int] = (10, 5, 30, 25),
        blue: tuple[int, int, int, int] | None = None,
        size: tuple[int, int] = (40, 60),
    ) -> NDArray[np.uint8]:
        pixels = np.full((*size, 3), 90, dtype=np.uint8)
        pixels[red[1] : red[3], red[0] : red[2]] = (250, 20, 20)
        if blue is not None:
            pixels[blue[1] : blue[3], blue[0] : blue[2]] = (20, 20, 250)
        return pixels

    return draw


@pytest.fixture
def save(spot: Callable[..., NDArray[np.uint8]]) -> Callable[..., Path]:
    """Write `spot` to a path, making its folder; returns the path."""

    def write(path: Path, **drawing: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(spot(**drawing)).save(path)
        return path

    return write


@pytest.fixture
def film(
    spot: Callable[..., NDArray[np.uint8]], tmp_path: Path
) -> Callable[[int], tuple[Path, Callable[[int], list[int]]]]:
    """Write a video of `spot` at 10 frames a second, whose red box moves by a pixel a frame and
    back; returns its path, and the box of a frame by its number."""

    def bounds(number: int) -> list[int]:
        return [5 + number % 30, 5, 25 + number % 30, 25]

    def write(count: int) -> tuple[Path, Callable[[int], list[int]]]:
        path = tmp_path / "film" / "a.avi"
        path.parent.mkdir(exist_ok=True)
        code = cv2.VideoWriter.fourcc(*"MJPG")
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, 10, (60, 40))
        for number in range(count):
            writer.write(np.ascontiguousarray(spot(red=bounds(number))[..., ::-1]))
        writer.release()
        return path, bounds

    return write

"""The `Predictor`: detections in displayed pixels, or classes, from paths, arrays or PIL images."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ...datasets.image import ImageRules, LoadedImage, from_pil, read_image
from ..errors import ConfigError, ImageError
from ..evaluation.prediction import autocast
from ..structures import Sample
from .outputs import BOXES, Output
from .pipeline import Pipeline, Prepared
from .tiles import TiledPipeline, Tiling

#: A file, a PIL image, or RGB pixels (h, w, 3) uint8 as displayed.
ImageInput = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

#: The intact part of a truncated JPEG is used, with a warning.
KEEP_TRUNCATED = ImageRules(on_truncated="warn")


class Scored(Protocol):
    """The interface of `Detections` and `RankedClasses` that a predictor uses."""

    @property
    def scores(self) -> Tensor: ...

    def __getitem__(self, index: Tensor) -> Self: ...


Found = TypeVar("Found", bound=Scored)
Given = TypeVar("Given", bound=Scored, covariant=True)


class ImagePipeline(Protocol[Given]):
    """The interface of `Pipeline`, `LocationPipeline` and `ScorePipeline` that a predictor uses."""

    def to(self, device: torch.device) -> object: ...

    def eval(self) -> object: ...

    def sample(self, pixels: NDArray[np.uint8], image_id: str = "") -> Sample:
        """The input for one image (h, w, 3) uint8 RGB."""

    def detect(self, prepared: Sequence[Prepared]) -> Sequence[Given]:
        """The results of images of any sizes, in their order, on the CPU."""


class Predictor(Generic[Found]):
    """A pipeline with its classes and the rules for reading images.

    Results are `Detections`, or the `RankedClasses` of a classifier, which ``output`` writes to a
    folder. ``classes`` are the names in label order. The pipeline is moved to ``device``, in eval
    mode.
    """

    def __init__(
        self,
        pipeline: ImagePipeline[Found],
        *,
        classes: Sequence[str],
        device: torch.device | str = "cpu",
        rules: ImageRules = KEEP_TRUNCATED,
        precision: str = "fp32",
        testing: str = "",
        output: Output[Any] = BOXES,
    ) -> None:
        self.classes = tuple(classes)
        self.device = torch.device(device)
        self.rules = rules
        self.precision = precision
        #: Sizes, networks and options in words.
        self.testing = testing
        self.output = output
        self.pipeline = pipeline
        pipeline.to(self.device)
        pipeline.eval()

    def tiled(self, side: int = 800, overlap: float = 0.2) -> Predictor[Any]:
        """A predictor that looks at each image in tiles too, for objects that are too small in an
        image as large as it: `TiledPipeline`, with this one's networks.

        Raises ConfigError for a classifier or localizer, and for numbers out of range.
        """
        pipeline: object = self.pipeline
        if not isinstance(pipeline, Pipeline):
            raise ConfigError("tiles are for detectors: these weights see an image as a whole")
        other: Predictor[Any] = copy.copy(self)
        other.pipeline = TiledPipeline(pipeline, Tiling(side, overlap))
        words = f"whole images and tiles of {side} px that overlap by {overlap:g}"
        other.testing = "; ".join(filter(None, (self.testing, words)))
        return other

    def predict(
        self,
        images: Sequence[ImageInput] | NDArray[np.uint8],
        *,
        score_threshold: float | None = None,
        batch_size: int = 1,
    ) -> list[Found]:
        """The detections of each image, boxes in its displayed pixels (after EXIF), on the CPU; of
        a classifier, all its classes, best first.

        ``score_threshold`` drops lower scores; None applies the model's own threshold
        only. Images of equal network size share a batch of up to ``batch_size``, unpadded, so
        that an image's result does not depend on its neighbours.

        Raises ImageError for an image that cannot be used, ConfigError for wrong arguments.
        """
        one_array = isinstance(images, np.ndarray) and images.ndim <= 3
        if one_array or isinstance(images, str | os.PathLike | Image.Image):
            raise ConfigError("predict takes a list of images: write predict([image])")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        waiting = iter(images)
        found: list[Found] = []
        while chunk := [self.prepare(image) for image in islice(waiting, batch_size)]:
            found += self.detect(chunk, score_threshold=score_threshold)
        return found

    def prepare(self, image: ImageInput) -> Prepared:
        """Read and check one image and make the networks' input; safe to call from several
        threads."""
        loaded = self._load(image)
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
        return Prepared(loaded, self.pipeline.sample(loaded.pixels, name))

    def detect(
        self, prepared: Sequence[Prepared], *, score_threshold: float | None = None
    ) -> list[Found]:
        """The results of prepared images, in their order."""
        with autocast(self.device, self.precision):
            found = self.pipeline.detect(prepared)
        if score_threshold is None:
            return list(found)
        return [one[~(one.scores < score_threshold)] for one in found]  # NaN stays, to be told

    def _load(self, image: ImageInput) -> LoadedImage:
        if isinstance(image, str | os.PathLike):
            return read_image(Path(image), self.rules)
        if isinstance(image, Image.Image):
            return from_pil(image, self.rules)
        if not isinstance(image, np.ndarray):
            raise ConfigError(
                f"an image is a path, a PIL image or an array, not {type(image).__name__}"
            )
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ImageError(
                f"array: expected RGB of shape (h, w, 3) and type uint8, "
                f"got {image.shape} of {image.dtype}"
            )
        return LoadedImage(image, 1)


def pick_device(name: torch.device | str | None) -> torch.device:
    """The device called ``name``, checked to exist; None is the first GPU, else the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(f"cuda:{name}" if str(name).isdigit() else name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!s}: unknown; use cpu, cuda or cuda:<number>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device {name!s}: torch sees {torch.cuda.device_count()} GPUs")
    return device

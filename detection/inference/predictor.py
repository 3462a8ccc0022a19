"""Images in, detections in displayed pixels out, for a network that is loaded."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ...datasets.image import ImageRules, LoadedImage, from_pil, read_image
from ...datasets.loading.crops import crop_sample
from ...datasets.loading.transforms import Transform, make_sample
from ..errors import ConfigError, ImageError
from ..evaluation.prediction import autocast
from ..structures import Annotation, Batch, Detections, Sample
from .localize import LocationPipeline

#: A file, a PIL image, or RGB pixels (h, w, 3) uint8 as displayed.
ImageInput = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

#: What is left of a cut JPEG is still worth looking at, with a warning.
KEEP_TRUNCATED = ImageRules(on_truncated="warn")


class Movable(Protocol):
    """One or several networks, moved and switched to eval mode together."""

    def to(self, device: torch.device) -> object: ...

    def eval(self) -> object: ...


class Model(Movable, Protocol):
    """What a `DetectionPredictor` needs of its networks; `Pipeline` is one."""

    def predict(self, batch: Batch) -> list[Detections]: ...


@dataclass(frozen=True)
class Prepared:
    """One image as displayed (``loaded``) and as the network's input (``sample``)."""

    loaded: LoadedImage
    sample: Sample

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) as displayed."""
        return self.loaded.pixels.shape[0], self.loaded.pixels.shape[1]


class Predictor(ABC):
    """Networks with the classes and the reading rules that belong to them.

    ``classes`` are the names in label order. The networks are moved to ``device``, in eval mode.
    """

    def __init__(
        self,
        networks: Movable,
        *,
        classes: Sequence[str],
        device: torch.device | str = "cpu",
        rules: ImageRules = KEEP_TRUNCATED,
        precision: str = "fp32",
        testing: str = "",
    ) -> None:
        self.classes = tuple(classes)
        self.device = torch.device(device)
        self.rules = rules
        self.precision = precision
        #: Sizes, networks and options in words.
        self.testing = testing
        networks.to(self.device)
        networks.eval()

    def predict(
        self,
        images: Sequence[ImageInput] | NDArray[np.uint8],
        *,
        score_threshold: float | None = None,
        batch_size: int = 1,
    ) -> list[Detections]:
        """The detections of each image, boxes in its displayed pixels (after EXIF), on the CPU.

        ``score_threshold`` drops lower scores; None keeps all that the model's own threshold lets
        through. Images of equal network size share a batch of up to ``batch_size``, unpadded, so
        that an image's result does not depend on its neighbours.

        Raises ImageError for an image that cannot be used, ConfigError for wrong arguments.
        """
        one_array = isinstance(images, np.ndarray) and images.ndim <= 3
        if one_array or isinstance(images, str | os.PathLike | Image.Image):
            raise ConfigError("predict takes a list of images: write predict([image])")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        waiting = iter(images)
        found: list[Detections] = []
        while chunk := [self.prepare(image) for image in islice(waiting, batch_size)]:
            found += self.detect(chunk, score_threshold=score_threshold)
        return found

    @abstractmethod
    def prepare(self, image: ImageInput) -> Prepared:
        """Read and check one image and make the networks' input; safe to call from several
        threads."""

    @abstractmethod
    def detect(
        self, prepared: Sequence[Prepared], *, score_threshold: float | None = None
    ) -> list[Detections]:
        """The detections of prepared images, in their order."""

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


class DetectionPredictor(Predictor):
    """Detectors; ``transforms`` are the views that ``model`` takes, the first one as its batch and
    the others as `Batch.views`."""

    def __init__(self, model: Model, transforms: Sequence[Transform], **options: Any) -> None:
        super().__init__(model, **options)
        self.model = model
        self.transforms = tuple(transforms)

    def prepare(self, image: ImageInput) -> Prepared:
        loaded = self._load(image)
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
        sample = make_sample(loaded.pixels, Annotation.empty(), self.transforms, image_id=name)
        return Prepared(loaded, sample)

    @torch.inference_mode()
    def detect(
        self, prepared: Sequence[Prepared], *, score_threshold: float | None = None
    ) -> list[Detections]:
        """One pass per network size."""
        found = [Detections.empty()] * len(prepared)
        for indices in _by_shape(prepared):
            batch = Batch.collate([prepared[index].sample for index in indices])
            with autocast(self.device, self.precision):
                results = self.model.predict(batch.to(self.device))
            for index, result in zip(indices, results, strict=True):
                found[index] = _above(result.to("cpu"), score_threshold)
        return found


class LocationPredictor(Predictor):
    """Localizers with classifiers: the boxes of the most likely classes, scored with the classes'
    probabilities."""

    def __init__(self, pipeline: LocationPipeline, **options: Any) -> None:
        super().__init__(pipeline, **options)
        self.pipeline = pipeline

    def prepare(self, image: ImageInput) -> Prepared:
        loaded = self._load(image)
        return Prepared(loaded, crop_sample(loaded.pixels, self.pipeline.crops))

    def detect(
        self, prepared: Sequence[Prepared], *, score_threshold: float | None = None
    ) -> list[Detections]:
        with autocast(self.device, self.precision):
            found = [self.pipeline.locate(one.sample, one.loaded.pixels) for one in prepared]
        return [_above(one.predicted, score_threshold) for one in found]


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


def _by_shape(prepared: Sequence[Prepared]) -> list[list[int]]:
    groups: dict[tuple[torch.Size, ...], list[int]] = {}
    for index, item in enumerate(prepared):
        shapes = tuple(view.image.shape for view in (item.sample, *item.sample.views))
        groups.setdefault(shapes, []).append(index)
    return list(groups.values())


def _above(found: Detections, score_threshold: float | None) -> Detections:
    return found if score_threshold is None else found[found.scores >= score_threshold]

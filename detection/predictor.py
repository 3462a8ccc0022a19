"""What is in these pictures? Weights in, detections in displayed pixels out: the Python interface.

predictor = resdet.load("best.pt")
(found,) = predictor.predict(["street.jpg"], score_threshold=0.5)
names = [predictor.classes[label] for label in found.labels]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ..datasets.image import ImageRules, LoadedImage, read_image
from ..datasets.transforms import Transform, Untouched, make_sample
from .errors import ConfigError, ImageError
from .evaluation.run import autocast
from .structures import Annotation, Batch, Detections, Sample

#: A file, a PIL image, or RGB pixels (h, w, 3) uint8 as displayed.
Picture = str | os.PathLike[str] | Image.Image | NDArray[np.uint8]

#: What is left of a cut JPEG is still worth looking at, with a warning.
KEEP_TRUNCATED = ImageRules(on_truncated="warn")

#: PIL modes that hold 8 bits a channel, so that RGB is a plain conversion.
_EIGHT_BIT = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"})


#: Beginnings of the overrides that make sense for trained weights.
TESTING = (
    "test.",
    "image.short_side_test",
    "image.long_side_max",
    "rpn.pre_nms_test",
    "rpn.post_nms_test",
    "proposals.",
    "data.exif",
    "data.max_pixels",
)


class Model(Protocol):
    """What a predictor needs of a network; `Pipeline` and `FasterRCNN` are."""

    def to(self, device: torch.device) -> object: ...

    def eval(self) -> object: ...

    def predict(self, batch: Batch) -> list[Detections]: ...


@dataclass(frozen=True)
class Prepared:
    """One picture as displayed (``loaded``) and as the network's input (``sample``)."""

    loaded: LoadedImage
    sample: Sample

    @property
    def size(self) -> tuple[int, int]:
        """(h, w) as displayed."""
        return self.sample.geometry.original


class Predictor:
    """A network with the classes, the resizes and the reading rules that belong to it.

    ``classes`` are the names in label order; ``transforms`` the views that ``model`` looks at, the
    first one its batch and the others `Batch.views`. It is moved to ``device``, in eval mode.
    """

    def __init__(
        self,
        model: Model,
        classes: Sequence[str],
        transforms: Sequence[Transform],
        device: torch.device | str = "cpu",
        rules: ImageRules = KEEP_TRUNCATED,
        precision: str = "fp32",
        testing: str = "",
    ) -> None:
        self.model = model
        self.classes = tuple(classes)
        self.transforms = tuple(transforms)
        self.device = torch.device(device)
        self.rules = rules
        self.precision = precision
        #: Sizes, networks and options in words.
        self.testing = testing
        model.to(self.device)
        model.eval()

    def predict(
        self,
        images: Sequence[Picture] | NDArray[np.uint8],
        *,
        score_threshold: float | None = None,
        batch_size: int = 1,
    ) -> list[Detections]:
        """The detections of each picture, boxes in its displayed pixels (after EXIF), on the CPU.

        ``score_threshold`` drops lower scores; None keeps all that the model's own threshold lets
        through. Pictures of equal network size share a batch of up to ``batch_size``, unpadded, so
        that a picture's result does not depend on its neighbours.

        Raises ImageError for a picture that cannot be used, ConfigError for wrong arguments.
        """
        one_array = isinstance(images, np.ndarray) and images.ndim <= 3
        if one_array or isinstance(images, str | os.PathLike | Image.Image):
            raise ConfigError("predict takes a list of pictures: write predict([picture])")
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
        waiting = iter(images)
        found: list[Detections] = []
        while chunk := [self.prepare(image) for image in islice(waiting, batch_size)]:
            found += self.detect(chunk, score_threshold=score_threshold)
        return found

    def prepare(self, image: Picture) -> Prepared:
        """Read, check and resize one picture; safe to call from several threads."""
        loaded = self._load(image)
        name = os.fspath(image) if isinstance(image, str | os.PathLike) else ""
        sample = make_sample(loaded.pixels, Annotation.empty(), self.transforms, image_id=name)
        return Prepared(loaded, sample)

    @torch.inference_mode()
    def detect(
        self, prepared: Sequence[Prepared], *, score_threshold: float | None = None
    ) -> list[Detections]:
        """The detections of prepared pictures, in their order; one pass per network size."""
        found = [Detections.empty()] * len(prepared)
        for indices in _by_shape(prepared):
            batch = Batch.collate([prepared[index].sample for index in indices])
            with autocast(self.device, self.precision):
                results = self.model.predict(batch.to(self.device))
            for index, result in zip(indices, results, strict=True):
                found[index] = _above(result.to("cpu"), score_threshold)
        return found

    def _load(self, image: Picture) -> LoadedImage:
        if isinstance(image, str | os.PathLike):
            return read_image(Path(image), self.rules)
        if isinstance(image, Image.Image):
            return _from_pil(image, self.rules)
        if not isinstance(image, np.ndarray):
            raise ConfigError(
                f"a picture is a path, a PIL image or an array, not {type(image).__name__}"
            )
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or image.size == 0:
            raise ImageError(
                f"array: expected RGB of shape (h, w, 3) and type uint8, "
                f"got {image.shape} of {image.dtype}"
            )
        return LoadedImage(image, 1)


def load(
    weights: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    device: torch.device | str | None = None,
    overrides: Sequence[str] = (),
) -> Predictor:
    """A predictor from a weights file, which carries its config and class names; from several an
    ensemble, whose classes must be the same (in any order; those of the first are used).

    ``device`` is ``cpu``, ``cuda``, ``cuda:1`` or just ``1``; None takes the first GPU if there is
    one. ``overrides`` change the config, as in ``test.nms_iou=0.4``. Truncated pictures are used as
    far as they go, with a warning in the result of `Predictor.prepare`.

    A localizer's (ILSVRC CLS-LOC) needs classifiers that say what to look for: the override
    ``test.classifiers=[FILE]``, unless its config names them. Its scores are their probabilities.

    Raises WeightsError for an unusable file, ConfigError for a wrong device or override.
    """
    from .engine.checkpoint import read_task  # late: a first import should be quick

    for text in overrides:
        if not text.startswith(TESTING):
            raise ConfigError(f"override {text}: with trained weights only {', '.join(TESTING)}")
    place = pick_device(device)
    paths = [weights] if isinstance(weights, str | os.PathLike) else weights
    if not paths:
        raise ConfigError("load: no weights given")
    files = [Path(path) for path in paths]
    find = _locator if read_task(files[0]).startswith("localization") else _detector
    return find(files, place, overrides)


def _detector(paths: list[Path], place: torch.device, overrides: Sequence[str]) -> Predictor:
    from . import build, stored

    detector = stored.load_detectors(paths, place, overrides=overrides)
    pipeline = build.build_pipeline(detector)
    return Predictor(
        pipeline,
        detector.classes,
        pipeline.transforms,
        place,
        replace(build.image_rules(detector.config), on_truncated="warn"),
        detector.config.test.precision,
        build.describe_testing(detector),
    )


def _locator(paths: list[Path], place: torch.device, overrides: Sequence[str]) -> Predictor:
    from . import build_localizer, stored_localizer
    from .inference.locate import PictureLocator

    ensemble = stored_localizer.load_ensemble(paths, place, overrides=overrides)
    if ensemble.classifier is None:
        raise ConfigError(
            f"{paths[0]}: a localizer finds the box of a class that is known; name the classifier "
            "that knows it: test.classifiers=[FILE]"
        )
    return Predictor(
        PictureLocator(build_localizer.build_location_pipeline(ensemble)),
        ensemble.classes,
        (Untouched(),),
        place,
        replace(build_localizer.image_rules(ensemble.lead), on_truncated="warn"),
        ensemble.lead.test.precision,
        build_localizer.describe_locating(ensemble),
    )


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


def _from_pil(image: Image.Image, rules: ImageRules) -> LoadedImage:
    if image.mode not in _EIGHT_BIT:
        raise ImageError(f"PIL image of mode {image.mode}: convert it to RGB with 8 bits first")
    orientation = int(image.getexif().get(0x0112, 1))  # the EXIF tag Orientation
    if orientation not in range(1, 9):
        orientation = 1
    if rules.exif == "apply":
        image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        ground = Image.new("RGBA", image.size, (*rules.background, 255))
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    pixels = np.asarray(image.convert("RGB"))
    if pixels.size == 0:
        raise ImageError(f"PIL image without pixels: width x height is {image.size}")
    return LoadedImage(pixels, orientation)

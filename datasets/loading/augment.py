"""Augmentation beyond flip and resize: albumentations, and the colour shift of the paper."""

from __future__ import annotations

import difflib
import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from ...detection.errors import ConfigError, one_line
from ...detection.structures import Annotation

_PHOTOMETRIC = """
    AdditiveNoise AdvancedBlur AutoContrast Blur CLAHE ChannelDropout ChannelShuffle ColorJitter
    Defocus Downscale Emboss Equalize FancyPCA GaussNoise GaussianBlur HueSaturationValue ISONoise
    Illumination ImageCompression InvertImg MedianBlur MotionBlur MultiplicativeNoise
    PlanckianJitter PlasmaBrightnessContrast PlasmaShadow Posterize RGBShift
    RandomBrightnessContrast RandomFog RandomGamma RandomRain RandomShadow RandomSnow
    RandomSunFlare RandomToneCurve RingingOvershoot SaltAndPepper Sharpen ShotNoise Solarize
    Spatter ToGray ToSepia UnsharpMask ZoomBlur
"""
#: Geometric transforms that keep boxes tight.
_TIGHT = """
    BBoxSafeRandomCrop CropAndPad D4 HorizontalFlip RandomCropFromBorders RandomResizedCrop
    RandomRotate90 RandomSizedBBoxSafeCrop Transpose VerticalFlip
"""
#: A box becomes the box around its moved corners: looser as the angle grows.
_LOOSE = "Affine Perspective Rotate SafeRotate"
#: The transforms a config may name. ``photometric`` ones leave every object where it is.
#: Left out: what needs more than one image, cuts objects out of the image or bends it (the
#: box around a bent box is a guess), changes the type or the channels of the image, or scales it as
#: a whole (the resize that follows would undo it: use ``image.short_side_train``).
ALLOWED: Mapping[str, str] = {
    **dict.fromkeys(_PHOTOMETRIC.split(), "photometric"),
    **dict.fromkeys((_TIGHT + _LOOSE).split(), "geometric"),
}

#: An object stays while this part of its moved box is inside the image ...
MIN_VISIBILITY = 0.1
#: ... and the part is at least this many pixels.
MIN_AREA = 1.0

#: Principal components of the pixels of ImageNet in [0, 1], RGB, for the colour augmentation of
#: Krizhevsky et al. (NIPS 2012), which gives none; these are those of facebook/fb.resnet.torch.
PCA_VALUES = np.array([0.2175, 0.0188, 0.0045])
#: One row for each colour channel, one column for each component.
PCA_VECTORS = np.array(
    [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
)


class Spec(Protocol):
    """The name of a transform of `ALLOWED` and its parameters."""

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> Mapping[str, Any]: ...


class Augmentation:
    """``augmentation(pixels, annotation, seed)``: the named transforms, one after another.

    The result depends on the arguments alone, not on earlier calls. Geometric transforms cut boxes
    to the image and drop objects of which less than `MIN_VISIBILITY` or `MIN_AREA` is left;
    where all transforms are photometric the annotation comes back as it went in. The image may
    change its size.

    Raises ConfigError for a name that is not allowed and for parameters that albumentations does
    not know or take; and, when called, for transforms that fail on an image.
    """

    def __init__(self, specs: Sequence[Spec]) -> None:
        self.names = tuple(spec.name for spec in specs)
        self._transforms = [_build(spec) for spec in specs]
        self._moves_boxes = any(ALLOWED[name] == "geometric" for name in self.names)
        self._compose = _compose(self._transforms, self._moves_boxes) if specs else None

    def __call__(
        self, pixels: np.ndarray, annotation: Annotation, seed: int
    ) -> tuple[np.ndarray, Annotation]:
        """``pixels`` (h, w, 3) uint8 and the annotation in them; any non-negative ``seed``."""
        if self._compose is None:
            return pixels, annotation
        # `Compose.set_random_seed` would give every transform the same seed, and two that apply
        # with probability 0.5 would always apply together; so each gets its own.
        seeds = np.random.SeedSequence(seed).generate_state(len(self._transforms))
        for transform, own in zip(self._transforms, seeds, strict=True):
            transform.set_random_seed(int(own))
        # Only indices travel with the boxes: albumentations turns labels into float32.
        boxes = {"bboxes": annotation.boxes.numpy().copy(), "index": np.arange(len(annotation))}
        try:
            result = self._compose(
                image=np.ascontiguousarray(pixels), **(boxes if self._moves_boxes else {})
            )
        except Exception as error:
            height, width = pixels.shape[:2]
            raise ConfigError(
                f"image.augment: {', '.join(self.names)} failed on an image of {width}x{height}: "
                f"{_reason(error)}"
            ) from error
        return result["image"], _kept(annotation, result) if self._moves_boxes else annotation


def shift_colour(pixels: np.ndarray, multiples: np.ndarray) -> np.ndarray:
    """``pixels`` (h, w, 3) plus ``multiples`` (3,) of the components of colour, rounded."""
    shift = PCA_VECTORS @ (multiples * PCA_VALUES) * 255
    if not shift.any():
        return pixels
    table = np.clip(np.rint(np.arange(256)[:, None] + shift), 0, 255).astype(np.uint8)
    return cv2.LUT(np.ascontiguousarray(pixels), table[None])


def _kept(annotation: Annotation, result: Mapping[str, Any]) -> Annotation:
    """The objects that remain of ``annotation``, with their boxes moved."""
    boxes = np.asarray(result["bboxes"], dtype=np.float32).reshape(-1, 4)
    index = torch.from_numpy(np.asarray(result["index"], dtype=np.int64).reshape(-1))
    return Annotation(torch.from_numpy(boxes), annotation.labels[index], annotation.ignore[index])


def _library() -> ModuleType:
    """albumentations, imported when first needed: it takes a second."""
    # Without this it asks a package index for new versions at import.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def _compose(transforms: list[Any], moves_boxes: bool) -> Any:
    library = _library()
    boxes = library.BboxParams(
        format="pascal_voc",
        label_fields=["index"],
        clip=True,
        filter_invalid_bboxes=True,  # with clip alone, a box outside the image is an error
        min_visibility=MIN_VISIBILITY,
        min_area=MIN_AREA,
    )
    return library.Compose(transforms, bbox_params=boxes if moves_boxes else None)


def _build(spec: Spec) -> Any:
    if spec.name not in ALLOWED:
        raise ConfigError(
            f"image.augment: no transform {spec.name!r}{_nearest(spec.name, ALLOWED)}"
        )
    kind = getattr(_library(), spec.name)
    known = [name for name in inspect.signature(kind.__init__).parameters if name != "self"]
    for name in spec.params:
        if name not in known:
            raise ConfigError(
                f"image.augment: {spec.name} has no parameter {name!r}{_nearest(name, known)}"
            )
    try:
        # albumentations replaces some bad values by defaults and only warns of it.
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return kind(**spec.params)
    except Exception as error:
        raise ConfigError(f"image.augment: {spec.name}: {_reason(error)}") from error


def _nearest(name: str, known: Sequence[str] | Mapping[str, str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(known)}"


def _reason(error: Exception) -> str:
    """Without the link that pydantic appends."""
    return one_line(error).partition(" For further information")[0]

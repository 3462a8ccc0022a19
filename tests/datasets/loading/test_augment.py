"""albumentations keeps labels with their boxes, obeys the seed, and takes no unknown option."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from resdet.datasets.loading.augment import ALLOWED, Augmentation
from resdet.detection.config.base import TransformSpec
from resdet.detection.errors import ConfigError
from resdet.detection.structures import Annotation


@dataclass(frozen=True)
class Spec:
    name: str
    params: dict[str, object] = field(default_factory=dict)


REQUIRED = {
    "RandomResizedCrop": {"size": [60, 80]},
    "RandomSizedBBoxSafeCrop": {"height": 60, "width": 70},
    "CropAndPad": {"percent": [-0.2, 0.1]},
    "Affine": {"scale": [0.7, 1.3], "translate_percent": 0.1},
}


def always(name: str, **params: object) -> Spec:
    return Spec(name, {"p": 1.0, **REQUIRED.get(name, {}), **params})


def make_image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)


def objects(*boxes: tuple[float, float, float, float]) -> Annotation:
    count = len(boxes)
    labels = torch.tensor([16_777_217, 3, 7][:count])  # the first is no float32
    return Annotation(
        torch.tensor(boxes, dtype=torch.float32), labels, torch.tensor([False, True, False][:count])
    )


def assert_same(
    first: tuple[np.ndarray, Annotation], second: tuple[np.ndarray, Annotation]
) -> None:
    np.testing.assert_array_equal(first[0], second[0])
    assert torch.equal(first[1].boxes, second[1].boxes)
    assert torch.equal(first[1].labels, second[1].labels)
    assert torch.equal(first[1].ignore, second[1].ignore)


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_transform(name: str) -> None:
    """Right type, sound boxes, empty is fine, and only the seed decides, also after pickling."""
    pixels, annotation = make_image(), objects((5, 6, 40, 30), (50, 10, 119, 89))
    augmentation = Augmentation([always(name)])
    copy = pickle.loads(pickle.dumps(augmentation))  # noqa: S301  # what a spawned worker does
    first = augmentation(pixels, annotation, 7)
    for seed in range(3):
        image, moved = augmentation(pixels, annotation, seed)
        height, width = image.shape[:2]
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
        limits = torch.tensor([width, height, width, height])
        assert ((moved.boxes >= 0) & (moved.boxes <= limits)).all()
        assert (moved.boxes[:, 2:] > moved.boxes[:, :2]).all()
    assert_same(first, augmentation(pixels, annotation, 7))
    assert_same(first, copy(pixels, annotation, 7))
    assert len(augmentation(pixels, Annotation.empty(), 1)[1]) == 0
    np.testing.assert_array_equal(pixels, make_image())
    assert annotation.boxes.tolist() == [[5, 6, 40, 30], [50, 10, 119, 89]]


# A bright patch is followed by its box, for every transform that keeps boxes tight.
@pytest.mark.parametrize(
    "name",
    [
        "BBoxSafeRandomCrop",
        "CropAndPad",
        "D4",
        "HorizontalFlip",
        "RandomCropFromBorders",
        "RandomRotate90",
        "RandomSizedBBoxSafeCrop",
        "Transpose",
        "VerticalFlip",
        "Affine",
    ],
)
def test_boxes_follow_the_pixels(name: str) -> None:
    pixels = np.zeros((90, 120, 3), dtype=np.uint8)
    pixels[30:60, 50:90] = 255
    augmentation = Augmentation([always(name)])
    for seed in range(8):
        image, moved = augmentation(pixels, objects((50, 30, 90, 60)), seed)
        rows, columns = np.nonzero(image[..., 0] > 127)
        shown = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(moved.boxes[0].numpy(), shown, atol=2)


def test_flip_by_hand() -> None:
    image, moved = Augmentation([always("HorizontalFlip")])(
        make_image(), objects((10, 20, 30, 60), (0, 0, 120, 90)), 0
    )
    np.testing.assert_array_equal(image, make_image()[:, ::-1])
    np.testing.assert_allclose(
        moved.boxes.numpy(), [[90, 20, 110, 60], [0, 0, 120, 90]], rtol=0, atol=1e-4
    )
    assert moved.labels.tolist() == [16_777_217, 3]
    assert moved.ignore.tolist() == [False, True]


def test_objects_cropped_away_take_their_labels_with_them() -> None:
    # 40 % is cut from the left: 48 px.
    crop = always(
        "CropAndPad", percent=[0, 0, 0, -0.4], keep_size=False, sample_independently=False
    )
    image, moved = Augmentation([crop])(
        make_image(), objects((5, 10, 40, 30), (60, 10, 100, 30), (8, 50, 88, 70)), 0
    )
    assert image.shape == (90, 72, 3)
    np.testing.assert_allclose(moved.boxes.numpy(), [[12, 10, 52, 30], [0, 50, 40, 70]], atol=1e-3)
    assert moved.labels.tolist() == [3, 7]
    assert moved.ignore.tolist() == [True, False]


def test_photometric_transforms_leave_the_annotation_alone() -> None:
    tiny = objects((5, 5, 5.25, 5.25), (1 / 3, 1 / 7, 50.1, 60.7))
    _, moved = Augmentation([always("RandomGamma"), always("GaussNoise")])(make_image(), tiny, 0)
    assert torch.equal(moved.boxes, tiny.boxes)


def test_transforms_are_drawn_independently() -> None:
    augmentation = Augmentation([Spec("InvertImg"), Spec("VerticalFlip")])
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    pixels[:16] = 100
    outcomes = {augmentation(pixels, Annotation.empty(), seed)[0][0, 0, 0] for seed in range(40)}
    assert outcomes == {100, 155, 0, 255}  # neither, inverted, flipped, both


def test_no_transforms() -> None:
    pixels, annotation = make_image(), objects((5, 6, 40, 30))
    assert Augmentation([])(pixels, annotation, 0) == (pixels, annotation)


def test_specs_of_the_config() -> None:
    spec = TransformSpec(name="RandomBrightnessContrast", params={"brightness_limit": [0.1, 0.3]})
    image, _ = Augmentation([TransformSpec(name="VerticalFlip", params={"p": 1}), spec])(
        make_image(), Annotation.empty(), 0
    )
    assert image.shape == (90, 120, 3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (Spec("HorizontlFlip"), r"no transform 'HorizontlFlip'; did you mean 'HorizontalFlip'\?"),
        (Spec("Mosaic"), "no transform 'Mosaic'; known: AdditiveNoise, "),
        (Spec("Compose"), "no transform 'Compose'"),
        (Spec("Blur", {"blur_limt": 3}), r"Blur .* 'blur_limt'; did you mean 'blur_limit'\?"),
        (Spec("Blur", {"strict": True}), "Blur has no parameter 'strict'"),
        (Spec("Blur", {"blur_limit": "much"}), "Blur: .*blur_limit"),
        (Spec("Blur", {"blur_limit": [9, 3]}), "Blur: .*blur_limit"),  # else only a warning
        (Spec("RandomGamma", {"p": 2}), "RandomGamma: .* p "),
        (Spec("RandomResizedCrop"), "RandomResizedCrop: .*size"),
    ],
)
def test_bad_specs(spec: Spec, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        Augmentation([spec])
    assert "\n" not in str(caught.value)


def test_import_is_late_and_makes_no_request() -> None:
    """Without specs albumentations is never imported; with them no host is looked up."""
    program = """
import socket, sys
from types import SimpleNamespace
asked = []
socket.getaddrinfo = lambda *request, **options: asked.append(request) or []
from resdet.datasets.loading.augment import Augmentation
Augmentation([])
assert "albumentations" not in sys.modules
Augmentation([SimpleNamespace(name="Blur", params={})])
assert "albumentations" in sys.modules
assert asked == [], asked
"""
    environment = {k: v for k, v in os.environ.items() if k != "NO_ALBUMENTATIONS_UPDATE"}
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert result.returncode == 0, result.stderr

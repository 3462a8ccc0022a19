"""Boxes and pixels move together, and only the seed decides."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.loading.transforms import EvalTransform, TrainTransform, resize, resized_size
from resdet.detection.errors import ConfigError
from resdet.detection.structures import Annotation


@dataclass(frozen=True)
class Spec:
    name: str
    params: dict[str, object] = field(default_factory=dict)


def annotate(*boxes: tuple[float, float, float, float]) -> Annotation:
    count = len(boxes)
    return Annotation(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.arange(count),
        torch.zeros(count, dtype=torch.bool),
    )


def black_with_patch(size: tuple[int, int], box: tuple[int, int, int, int]) -> np.ndarray:
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    return pixels


def bright_box(image: torch.Tensor) -> list[float]:
    rows, columns = torch.nonzero(image[..., 0] > 127, as_tuple=True)
    return [
        float(columns.min()),
        float(rows.min()),
        float(columns.max()) + 1,
        float(rows.max()) + 1,
    ]


# Worked by hand with detectron2's rule: short side first, long side as the limit, half up.
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (600, 800)),
        ((500, 375), (800, 600)),
        ((333, 500), (600, 901)),  # 600 * 500 / 333 = 900.9
        ((200, 500), (400, 1000)),  # 600 would give 1500
        ((1, 3000), (1, 1000)),  # a third of a pixel
        ((600, 1000), (600, 1000)),
        ((2400, 3200), (600, 800)),
    ],
)
def test_resized_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(size, 600, 1000) == expected


@given(
    st.tuples(st.integers(1, 400), st.integers(1, 400)), st.integers(1, 300), st.integers(1, 500)
)
def test_resized_size_keeps_its_limits(size: tuple[int, int], short: int, long: int) -> None:
    height, width = resized_size(size, short, long)
    assert 1 <= min(height, width) <= short
    assert max(height, width) <= long
    # One of the two limits is met: nothing is smaller than asked for.
    assert min(height, width) == min(short, long) or max(height, width) == long


def test_resize_reports_the_exact_ratio() -> None:
    resized, scale = resize(np.zeros((333, 500, 3), dtype=np.uint8), 600, 1000)
    assert resized.shape == (600, 901, 3)
    assert scale == (600 / 333, 901 / 500)


def test_same_size_is_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    resized, scale = resize(pixels, 60, 100)
    assert scale == (1.0, 1.0)
    np.testing.assert_array_equal(resized, pixels)


def test_shrinking_far_does_not_alias() -> None:
    # Lines one pixel wide, two apart: their mean is grey, and picking single lines is not.
    pixels = np.zeros((120, 160, 3), dtype=np.uint8)
    pixels[:, ::2] = 255
    resized, _ = resize(pixels, 40, 100)
    assert np.ptp(resized.astype(int)) < 90
    picked = cv2.resize(pixels, (53, 40), interpolation=cv2.INTER_LINEAR)
    assert np.ptp(picked.astype(int)) > 200


def test_mild_shrinking_is_bilinear() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(
        tensor, size=(60, 80), mode="bilinear", align_corners=False, antialias=False
    )[0].permute(1, 2, 0)
    resized, _ = resize(pixels, 60, 100)
    assert (torch.from_numpy(resized).float() - expected).abs().max() <= 1


def test_eval_transform_scales_pixels_and_boxes() -> None:
    pixels = black_with_patch((50, 100), (20, 10, 60, 40))
    image, annotation, geometry = EvalTransform(100, 1000)(pixels, annotate((20, 10, 60, 40)), 7)
    assert image.shape == (100, 200, 3) and image.dtype == torch.uint8
    assert annotation.boxes.tolist() == [[40, 20, 120, 80]]
    assert bright_box(image) == [40, 20, 120, 80]
    assert geometry.original == (50, 100) and geometry.scale == (2.0, 2.0)
    assert not geometry.flipped


@given(
    st.tuples(st.integers(16, 90), st.integers(16, 90)),
    st.integers(8, 120),
    st.lists(st.tuples(*[st.floats(0, 90, width=32)] * 4), max_size=4),
)
def test_eval_geometry_inverts_to_the_image(
    size: tuple[int, int], short: int, boxes: list[tuple[float, float, float, float]]
) -> None:
    annotation = annotate(*boxes)
    _, moved, geometry = EvalTransform(short, 2 * short)(
        np.zeros((*size, 3), dtype=np.uint8), annotation, 0
    )
    torch.testing.assert_close(geometry.invert(moved.boxes), annotation.boxes, rtol=1e-6, atol=1e-5)


def test_train_flip_moves_pixels_and_boxes_together() -> None:
    pixels = black_with_patch((60, 100), (10, 20, 40, 50))
    transform = TrainTransform((120,), 1000, flip=1.0)
    image, annotation, geometry = transform(pixels, annotate((10, 20, 40, 50)), 3)
    assert annotation.boxes.tolist() == [[120, 40, 180, 100]]
    assert bright_box(image) == [120, 40, 180, 100]
    assert geometry.flipped
    assert geometry.invert(annotation.boxes).tolist() == [[10, 20, 40, 50]]


def test_train_without_flip_equals_eval() -> None:
    pixels = np.random.default_rng(2).integers(0, 256, (60, 100, 3), dtype=np.uint8)
    ground_truth = annotate((10, 20, 40, 50))
    trained = TrainTransform((90,), 1000, flip=0.0)(pixels, ground_truth, 5)
    tested = EvalTransform(90, 1000)(pixels, ground_truth, 5)
    assert torch.equal(trained[0], tested[0])
    assert torch.equal(trained[1].boxes, tested[1].boxes)
    assert trained[2] == tested[2]


def test_flip_and_scale_have_their_probabilities() -> None:
    pixels = np.zeros((32, 40, 3), dtype=np.uint8)
    transform = TrainTransform((32, 48, 64), 1000, flip=0.25)
    draws = [transform(pixels, Annotation.empty(), seed) for seed in range(600)]
    flips = sum(geometry.flipped for _, _, geometry in draws)
    assert 100 < flips < 200  # 150 expected, std 10.6
    for short in (32, 48, 64):
        assert 150 < sum(image.shape[0] == short for image, _, _ in draws) < 250


def test_only_the_seed_decides() -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    specs = [Spec("RandomBrightnessContrast"), Spec("RandomCropFromBorders")]
    transform = TrainTransform((32, 48), 1000, 0.5, specs)
    ground_truth = annotate((5, 5, 30, 35))
    forward = [transform(pixels, ground_truth, seed) for seed in range(12)]
    np.random.seed(123)
    torch.manual_seed(5)
    fresh = TrainTransform((32, 48), 1000, 0.5, specs)
    backward = [fresh(pixels, ground_truth, seed) for seed in reversed(range(12))]
    for first, second in zip(forward, reversed(backward), strict=True):
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1].boxes, second[1].boxes)
        assert first[2] == second[2]
    assert len({image.shape for image, _, _ in forward}) > 1


def test_augmented_size_still_ends_at_the_short_side() -> None:
    box = (30, 20, 70, 60)
    pixels = black_with_patch((100, 120), box)
    crop = Spec("RandomCropFromBorders", {"p": 1.0})
    transform = TrainTransform((200,), 1000, 0.5, [crop])
    for seed in range(20):
        image, annotation, _ = transform(pixels, annotate(box), seed)
        assert min(image.shape[:2]) == 200
        shown = torch.tensor([bright_box(image)])
        torch.testing.assert_close(annotation.boxes, shown, rtol=0, atol=1.5)


def test_augment_names_are_checked_when_built() -> None:
    with pytest.raises(ConfigError, match="did you mean 'RandomGamma'"):
        TrainTransform((32,), 64, 0.5, [Spec("RandomGama")])


def test_no_objects() -> None:
    pixels = np.zeros((40, 50, 3), dtype=np.uint8)
    for transform in (
        EvalTransform(32, 64),
        TrainTransform((32,), 64, 1.0, [Spec("VerticalFlip", {"p": 1.0})]),
    ):
        _, annotation, _ = transform(pixels, Annotation.empty(), 0)
        assert annotation.boxes.shape == (0, 4)


def test_read_only_pixels() -> None:
    pixels = np.zeros((32, 40, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    image, _, _ = EvalTransform(32, 64)(pixels, Annotation.empty(), 0)
    image[0, 0, 0] = 9  # the tensor is its own
    assert pixels[0, 0, 0] == 0

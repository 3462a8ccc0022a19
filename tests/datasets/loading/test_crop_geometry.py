"""Boxes lie where the pixels are, and what is hardly seen is neither object nor background."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.datasets.loading.crop_geometry import CropGeometry, crop_annotation
from resdet.datasets.loading.crops import (
    CentreCrop,
    FullImage,
    PaperCrop,
    PlacedCrop,
    ResizedCrop,
)
from resdet.detection.structures import Annotation

CROP = CropGeometry((100, 200), (0.5, 2.0), offset=(10.0, 40.0), size=(30, 50))
FLIPPED = CropGeometry((100, 200), (0.5, 2.0), True, offset=(10.0, 40.0), size=(30, 50))


def annotation(*boxes: list[float], ignore: list[bool] | None = None) -> Annotation:
    return Annotation(
        torch.tensor(boxes).reshape(-1, 4),
        torch.arange(len(boxes)),
        torch.tensor(ignore or [False] * len(boxes), dtype=torch.bool),
    )


# ----------------------------------------------------------------------------------------- boxes


def test_boxes_worked_by_hand() -> None:
    box = torch.tensor([30.0, 40.0, 45.0, 60.0])
    # x: 60 - 40 to 90 - 40; y: 20 - 10 to 30 - 10.
    assert CROP.apply(box).tolist() == [20.0, 10.0, 50.0, 20.0]
    assert FLIPPED.apply(box).tolist() == [0.0, 10.0, 30.0, 20.0]
    assert FLIPPED.invert(torch.tensor([0.0, 10.0, 30.0, 20.0])).tolist() == box.tolist()


@pytest.mark.parametrize("shape", [(0, 4), (4,), (3, 2, 4)])
def test_boxes_may_have_any_shape(shape: tuple[int, ...]) -> None:
    boxes = torch.rand(shape)
    for moved in (FLIPPED.apply(boxes), FLIPPED.invert(boxes)):
        assert moved.shape == shape and moved.dtype == torch.float32


PART = st.floats(-2, 3, width=32)
CROPS = st.builds(
    CropGeometry,
    st.tuples(st.integers(16, 900), st.integers(16, 900)),
    st.tuples(st.floats(0.05, 50), st.floats(0.05, 50)),
    st.booleans(),
    offset=st.tuples(st.floats(-500, 5000), st.floats(-500, 5000)),
    size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
)


@given(CROPS, PART, PART, PART, PART)
def test_invert_reverses_apply(
    geometry: CropGeometry, x1: float, y1: float, x2: float, y2: float
) -> None:
    height, width = geometry.original
    boxes = torch.tensor([[x1 * width, y1 * height, x2 * width, y2 * height]])
    # One rounding to float32 between the two, of numbers up to 250 000 that scale back.
    torch.testing.assert_close(geometry.invert(geometry.apply(boxes)), boxes, rtol=1e-6, atol=2e-2)


def test_large_offsets_leave_no_error() -> None:
    """A box of 0.3 pixels at 4000, enlarged 400 times: float32 would be off by 0.1."""
    x1, x2 = np.float32(4000.1), np.float32(4000.4)
    scale = 120 / (float(x2) - float(x1))
    geometry = CropGeometry(
        (5000, 5000), (1.0, scale), offset=(0.0, float(x1) * scale - 4), size=(128, 128)
    )
    assert geometry.apply(torch.tensor([x1, 0, x2, 9])).tolist() == [4.0, 0.0, 124.0, 9.0]


# ----------------------------------------------------------------------------------- annotations


def test_objects_worked_by_hand() -> None:
    """A crop of 10 x 10 in the corner of an image at its size."""
    geometry = CropGeometry((40, 40), offset=(0.0, 0.0), size=(10, 10))
    objects = annotation(
        [2.0, 3.0, 8.0, 9.0],  # inside
        [5.0, 0.0, 15.0, 10.0],  # half of it is seen
        [6.0, 0.0, 16.0, 10.0],  # four tenths
        [10.0, 0.0, 20.0, 10.0],  # touches the edge
        [30.0, 30.0, 40.0, 40.0],
        [0.0, 0.0, 5.0, 5.0],  # ignored before
        ignore=[False] * 5 + [True],
    )
    found = crop_annotation(objects, geometry, least_visible=0.5)
    assert found.boxes.tolist() == [
        [2.0, 3.0, 8.0, 9.0],
        [5.0, 0.0, 10.0, 10.0],
        [6.0, 0.0, 10.0, 10.0],
        [0.0, 0.0, 5.0, 5.0],
    ]
    assert found.labels.tolist() == [0, 1, 2, 5]
    assert found.ignore.tolist() == [False, False, True, True]
    everything = crop_annotation(objects, geometry, least_visible=0.0)
    assert everything.ignore.tolist() == [False, False, False, True]
    whole = crop_annotation(objects, geometry, least_visible=1.0)
    assert whole.ignore.tolist() == [False, True, True, True]


@given(st.integers(16, 600), st.integers(1, 300), st.integers(0, 99), st.booleans())
def test_boxes_that_only_touch_the_crop_are_left_out(
    width: int, size: int, seed: int, flipped: bool
) -> None:
    """Rounding leaves no thin box either; a box that fills the crop is entirely inside."""
    start, stop = np.sort(np.random.default_rng(seed).choice(width + 1, 2, replace=False)).tolist()
    scale = size / (stop - start)
    geometry = CropGeometry(
        (9, width), (1.0, scale), flipped, offset=(0.0, start * scale), size=(9, size)
    )
    spans = [(start - 3, start), (stop, stop + 3), (start, stop)]
    objects = annotation(*([float(left), 0.0, float(right), 9.0] for left, right in spans))
    found = crop_annotation(objects, geometry, least_visible=1.0)
    assert found.boxes.tolist() == [[0.0, 0.0, float(size), 9.0]]
    assert (found.labels.tolist(), found.ignore.tolist()) == ([2], [False])


def test_no_objects() -> None:
    assert len(crop_annotation(Annotation.empty(), CROP, least_visible=0.3)) == 0


BOXES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)),
    max_size=5,
)


@given(BOXES, st.integers(0, 99), st.floats(0, 1), st.booleans())
def test_visible_parts_agree_with_masks(
    corners: list[tuple[int, int, int, int]], seed: int, least: float, flipped: bool
) -> None:
    """Boxes of whole pixels, painted on masks that are cropped with slices."""
    y, x, height, width = np.random.default_rng(seed).integers(1, 40, 4).tolist()
    geometry = CropGeometry((100, 100), (1.0, 1.0), flipped, offset=(y, x), size=(height, width))
    boxes = [[float(v) for v in (a, b, a + w, b + h)] for a, b, w, h in corners]
    expected = []
    for number, (a, b, w, h) in enumerate(corners):
        mask = np.zeros((100, 100), bool)
        mask[b : b + h, a : a + w] = True
        part = mask[y : y + height, x : x + width]
        rows, columns = np.nonzero(part[:, ::-1] if flipped else part)
        if len(rows):
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            expected.append((edges, number, part.sum() / mask.sum() < np.float32(least)))
    found = crop_annotation(annotation(*boxes), geometry, least_visible=float(np.float32(least)))
    assert found.boxes.tolist() == [edges for edges, _, _ in expected]
    assert found.labels.tolist() == [number for _, number, _ in expected]
    assert found.ignore.tolist() == [bool(hidden) for _, _, hidden in expected]


# ---------------------------------------------------------------------------------------- pixels

CROPS = [
    PaperCrop((40, 70), 40, colour_std=0.0),
    PaperCrop((60, 60), 50, flip=1.0, colour_std=0.0),
    ResizedCrop(64),
    ResizedCrop(30, scale=(0.5, 1.0), flip=1.0),
    CentreCrop(60, 50),
    CentreCrop(60, 50, flipped=True),
    FullImage(45),
    FullImage(90, flipped=True),
]
SIZES = st.tuples(st.integers(40, 130), st.integers(40, 130))


@settings(max_examples=150)
@given(SIZES, st.integers(0, 2**63 - 1), st.sampled_from(CROPS), st.data())
def test_a_bright_box_is_where_the_geometry_says(
    size: tuple[int, int], seed: int, crop: PlacedCrop, data: st.DataObject
) -> None:
    height, width = size
    x1, y1 = data.draw(st.integers(0, width - 20)), data.draw(st.integers(0, height - 20))
    x2, y2 = data.draw(st.integers(x1 + 20, width)), data.draw(st.integers(y1 + 20, height))
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[y1:y2, x1:x2] = 255
    geometry = crop.place(size, seed)
    shown = crop(pixels, seed)
    assert geometry.original == size and tuple(shown.shape[:2]) == geometry.size
    box = annotation([float(x1), float(y1), float(x2), float(y2)])
    found = crop_annotation(box, geometry, least_visible=0.0).boxes
    rows, columns = np.nonzero(shown.numpy()[:, :, 0] > 127)
    if not len(rows):
        assert len(found) == 0 or (found[0, 2:] - found[0, :2]).min() < 1
        return
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert np.abs(found[0].numpy() - edges).max() <= 1.0
    # Nothing is lost or doubled: as bright as the box is large, up to the edges' interpolation.
    area = float((found[0, 2] - found[0, 0]) * (found[0, 3] - found[0, 1]))
    around = 2 * float(found[0, 2:].sum() - found[0, :2].sum())
    assert abs(shown[:, :, 0].double().sum() / 255 - area) < 0.6 * around


def test_a_part_of_whole_pixels_is_that_part() -> None:
    """Without resize the crop can be made with slices, for every draw."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    crop = PaperCrop((50, 50), 32, colour_std=0.0)
    for seed in range(50):
        geometry = crop.place((50, 70), seed)
        y, x = map(int, geometry.offset)
        part = pixels[y : y + 32, x : x + 32]
        assert np.array_equal(crop(pixels, seed), part[:, ::-1] if geometry.flipped else part)


@settings(max_examples=60)
@given(st.tuples(st.integers(16, 600), st.integers(16, 600)), st.integers(0, 999))
def test_parts_of_images_of_any_size_are_whole_pixels(size: tuple[int, int], seed: int) -> None:
    geometry = ResizedCrop(224).place(size, seed)
    shown = torch.tensor([0.0, 0.0, 224.0, 224.0])
    part = geometry.invert(shown)
    torch.testing.assert_close(part, part.round(), rtol=0, atol=1e-4)
    assert part.min() >= -1e-4 and (part[2:] <= torch.tensor(size[::-1]) + 1e-4).all()


def test_the_whole_image_is_unchanged() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    whole = FullImage(20)
    assert np.array_equal(whole(pixels), pixels) and not whole.fixed
    boxes = torch.tensor([[1.5, 2.25, 3.0, 7.0]])
    assert torch.equal(whole.place((20, 30)).apply(boxes), boxes)

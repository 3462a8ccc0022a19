"""Regions are warped exactly, and without aliasing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.datasets.loading.regions import OUTSIDE, Square, warp
from resdet.detection.errors import ConfigError

Box = tuple[float, float, float, float]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_region_at_its_size_is_cut_out() -> None:
    pixels = noise(30, 40)
    image, cut = warp(pixels, (10.0, 6.0, 22.0, 18.0), Square(20, 4))
    assert np.array_equal(image, pixels[2:22, 6:26])
    assert cut.apply(torch.tensor([10.0, 6, 22, 18])).tolist() == [4.0, 4.0, 16.0, 16.0]
    assert (cut.scale, cut.offset, cut.original, cut.size) == ((1, 1), (2, 6), (30, 40), (20, 20))
    flipped, turned = warp(pixels, (10.0, 6.0, 22.0, 18.0), Square(20, 4), flipped=True)
    assert np.array_equal(flipped, image[:, ::-1]) and turned.flipped


def test_outside_the_image_is_the_mean_colour() -> None:
    pixels = noise(8, 8)
    image, _ = warp(pixels, torch.tensor([0.0, 0.0, 8.0, 8.0]), Square(12, 2))
    assert np.array_equal(image[2:10, 2:10], pixels)
    image[2:10, 2:10] = OUTSIDE
    assert (image == OUTSIDE).all()
    black, _ = warp(pixels, (0.0, 0.0, 8.0, 8.0), Square(12, 2), outside=(0, 0, 0))
    assert not black[:2].any() and not black[:, 10:].any()
    nothing, _ = warp(pixels, (20.0, -30.0, 24.0, -20.0), Square(12, 2))
    assert (nothing == OUTSIDE).all()


def test_half_a_pixel_worked_by_hand() -> None:
    """Columns 0, 100, 200: moved by half a pixel they are the means of two neighbours."""
    pixels = np.repeat(np.array([[0, 100, 200]], np.uint8), 3, 0)[:, :, None].repeat(3, 2)
    image, _ = warp(pixels, (0.5, 0.0, 2.5, 2.0), Square(2, 0))
    assert image[:, :, 0].tolist() == [[50, 150], [50, 150]]
    # Twice as large: the middles of new pixels are at 0.25 and 0.75 of old ones.
    image, _ = warp(pixels, (1.0, 1.0, 2.0, 2.0), Square(2, 0))
    assert image[:, :, 0].tolist() == [[75, 125], [75, 125]]


def test_a_chessboard_shrinks_to_grey() -> None:
    """Every second pixel white: what reads single pixels would give stripes."""
    rows, columns = np.mgrid[:120, :120]
    pixels = np.where((rows + columns) % 2, 255, 0).astype(np.uint8)[:, :, None].repeat(3, 2)
    image, _ = warp(pixels, (8.3, 9.1, 108.9, 111.7), Square(20, 0))
    assert np.abs(image.astype(int) - 127.5).max() < 8  # one of five by five may be left over


BOX = st.tuples(
    st.floats(0, 50, width=32),
    st.floats(0, 40, width=32),
    st.floats(1, 60, width=32),
    st.floats(1, 50, width=32),
).map(lambda b: (b[0], b[1], float(np.float32(b[0] + b[2])), float(np.float32(b[1] + b[3]))))
SQUARE = st.tuples(st.integers(4, 40), st.integers(0, 10)).filter(lambda s: s[0] > 2 * s[1])


@settings(max_examples=50)
@given(BOX, SQUARE, st.booleans())
def test_the_box_becomes_exactly_the_square(
    box: Box, square: tuple[int, int], flipped: bool
) -> None:
    size, padding = square
    image, cut = warp(noise(70, 80), box, Square(size, padding), flipped=flipped)
    inner = [float(padding), float(padding), float(size - padding), float(size - padding)]
    assert cut.apply(torch.tensor([box])).tolist() == [inner]
    torch.testing.assert_close(cut.invert(torch.tensor(inner)), torch.tensor(box))
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert image.flags.c_contiguous


def covered(edges: np.ndarray, length: int) -> np.ndarray:
    """How much of each of the old pixels, which begin at -100, lies between neighbouring edges."""
    old = np.arange(-100, length + 100)
    return np.array(
        [
            [max(0.0, min(stop, pixel + 1) - max(start, pixel)) for pixel in old]
            for start, stop in pairwise(edges)
        ]
    )


@settings(max_examples=15)
@given(BOX, st.integers(0, 3), st.integers(0, 99))
def test_shrunk_regions_are_means_over_areas(box: Box, padding: int, seed: int) -> None:
    size = 2 * padding + 3
    box = (box[0], box[1], box[2] + 6, box[3] + 6)  # at least 7 pixels become 3
    pixels = noise(70, 80, seed)
    image, _ = warp(pixels, box, Square(size, padding))
    around = np.full((270, 280, 3), OUTSIDE, float)
    around[100:170, 100:180] = pixels
    steps = np.arange(-padding, size - padding + 1)
    rows = covered(box[1] + steps * (box[3] - box[1]) / 3, 70)
    columns = covered(box[0] + steps * (box[2] - box[0]) / 3, 80)
    expected = np.einsum("ir,rcx,jc->ijx", rows, around, columns)
    expected /= rows.sum(1)[:, None, None] * columns.sum(1)[None, :, None]
    assert np.abs(image - expected).max() < 0.51


@settings(max_examples=40)
@given(BOX, st.integers(0, 99), st.booleans())
def test_enlarged_regions_are_bilinear(box: Box, seed: int, flipped: bool) -> None:
    pixels = noise(70, 80, seed)
    image, cut = warp(pixels, box, Square(64, 1), flipped=flipped)
    around = np.full((270, 280, 3), OUTSIDE, float)
    around[100:170, 100:180] = pixels
    for x, y in np.random.default_rng(seed).integers(0, 64, (20, 2)).tolist():
        middle = cut.invert(torch.tensor([x + 0.5, y + 0.5, x + 0.5, y + 0.5])).tolist()
        at_x, at_y = middle[0] + 99.5, middle[1] + 99.5
        column, row = int(at_x), int(at_y)
        right, low = at_x - column, at_y - row
        part = around[row : row + 2, column : column + 2]
        above, below = part[:, 0] * (1 - right) + part[:, 1] * right
        assert np.abs(image[y, x] - (above * (1 - low) + below * low)).max() < 0.55


def test_each_direction_has_its_own_resampling() -> None:
    """A long flat region: columns are averaged, rows interpolated."""
    pixels = np.zeros((10, 400, 3), np.uint8)
    pixels[:, ::2] = 200
    pixels[5:] //= 2
    image, _ = warp(pixels, (40.0, 1.0, 360.0, 9.0), Square(40, 0))
    assert (np.ptp(image, axis=1) == 0).all()  # eight columns each: no stripes
    steps = image[:, 0, 0].astype(int)
    assert steps[0] == 100 and steps[-1] == 50 and (np.diff(steps) <= 0).all()
    assert len(set(steps.tolist())) > 4  # five new rows an old one: a slope, not a step


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((3.0, 3.0, 3.0, 9.0), r"box \(3, 3, 3, 9\) has no area"),
        ((9.0, 3.0, 3.0, 9.0), "no area"),
        ((0.0, 0.0, float("nan"), 9.0), "no area"),
    ],
)
def test_impossible_regions(box: Box, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        warp(noise(20, 20), box, Square(20, 2))


@pytest.mark.parametrize("padding", [10, -1])
def test_impossible_paddings(padding: int) -> None:
    with pytest.raises(ConfigError, match=f"padding: {padding} on each side .* size 20"):
        Square(20, padding)

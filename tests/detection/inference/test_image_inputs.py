"""Images in every form that a Python program holds: the same pixels, or an error that says what to
pass."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from resdet.datasets.image import ImageRules
from resdet.detection.errors import ImageError
from resdet.detection.inference.image_inputs import ArrayValues, load_image

RULES = ImageRules()
RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GREY = RGB[..., 0]
CHW = torch.from_numpy(RGB).permute(2, 0, 1)
ALPHA = np.dstack([RGB, np.full((20, 30), 255, np.uint8)])
UNIT = ArrayValues(value_range=(0, 1))
BGR = ArrayValues(channels="bgr")


def encoded(pixels: np.ndarray = RGB) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("image", "values"),
    [
        (RGB, ArrayValues()),
        (ALPHA, ArrayValues()),
        (RGB[::-1, ::-1][::-1, ::-1], ArrayValues()),
        (RGB[..., ::-1], BGR),
        (np.ascontiguousarray(RGB[..., ::-1]), BGR),
        (cv2.imdecode(np.frombuffer(encoded(), np.uint8), cv2.IMREAD_COLOR), BGR),
        (cv2.cvtColor(RGB, cv2.COLOR_RGB2BGRA), BGR),
        (RGB / 255, UNIT),
        ((RGB / 255).astype(np.float32), UNIT),
        (RGB.astype(np.float32), ArrayValues(value_range=(0, 255))),
        (RGB / 127.5 - 1, ArrayValues(value_range=(-1, 1))),
        (CHW, ArrayValues()),
        (torch.from_numpy(ALPHA).permute(2, 0, 1), ArrayValues()),
        (CHW.float() / 255, UNIT),
        (CHW.flip(0), BGR),
        ((CHW.float() / 255).requires_grad_(), UNIT),
        (encoded(), ArrayValues()),
        (bytearray(encoded()), ArrayValues()),
        (memoryview(encoded()), ArrayValues()),
        (Image.fromarray(RGB), ArrayValues()),
        (Image.fromarray(ALPHA), ArrayValues()),
    ],
)
def test_the_same_pixels_from_every_form(image: Any, values: ArrayValues) -> None:
    loaded = load_image(image, RULES, values)
    assert loaded.pixels.dtype == np.uint8
    assert np.array_equal(loaded.pixels, RGB)
    assert loaded.size == (20, 30)


@pytest.mark.parametrize(
    "image", [GREY, GREY[..., None], torch.from_numpy(GREY.copy()), CHW[:1], Image.fromarray(GREY)]
)
def test_grey_is_repeated(image: Any) -> None:
    assert np.array_equal(load_image(image, RULES).pixels, np.dstack([GREY] * 3))


def test_files_open_or_not(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded())
    for image in (path, str(path), io.BytesIO(encoded())):
        assert np.array_equal(load_image(image, RULES).pixels, RGB)
    with path.open("rb") as file:
        assert np.array_equal(load_image(file, RULES).pixels, RGB)
        with pytest.raises(ImageError, match=r"a\.png: nothing left to read; .*seek\(0\)"):
            load_image(file, RULES)
    with path.open(encoding="latin-1") as text, pytest.raises(ImageError, match="'rb'"):
        load_image(text, RULES)


def test_transparent_pixels_show_the_background() -> None:
    """Half of black over white is the grey between, as in a PNG of the same pixels."""
    half = np.zeros((20, 30, 4), np.uint8)
    half[..., 3] = 128
    loaded = load_image(half, RULES).pixels
    assert np.array_equal(loaded, load_image(encoded(half), RULES).pixels)
    assert set(loaded.ravel()) == {127}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_applied_to_bytes_and_open_files(orientation: int) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RGB).save(file, "PNG", exif=exif)
    expected = np.asarray(Image.open(io.BytesIO(file.getvalue())))
    assert expected.shape == RGB.shape  # Pillow leaves it as it is
    turned = load_image(Image.open(io.BytesIO(file.getvalue())), RULES)
    for image in (file.getvalue(), io.BytesIO(file.getvalue())):
        loaded = load_image(image, RULES)
        assert loaded.orientation == orientation
        assert np.array_equal(loaded.pixels, turned.pixels)
    assert turned.size == ((20, 30) if orientation < 5 else (30, 20))


def test_rgb_arrays_are_not_copied() -> None:
    assert np.shares_memory(load_image(RGB, RULES).pixels, RGB)


@pytest.mark.parametrize(
    ("image", "values", "reason"),
    [
        (RGB / 255, ArrayValues(), r"float64: say what .* value_range=\(0, 1\) or \(0, 255\)"),
        (RGB / 255 + 0.5, UNIT, r"values from 0\.5 to 1\.5, outside 0 to 1"),
        (RGB.astype(np.float32), UNIT, "to 255, outside 0 to 1"),
        (np.full((20, 30, 3), np.nan), UNIT, "nan"),
        (RGB, UNIT, "value_range is for floating-point"),
        (RGB.astype(np.uint16) * 257, ArrayValues(), "uint16: convert it to uint8"),
        (RGB.astype(int), UNIT, "int64: convert it to uint8"),
        (RGB > 100, ArrayValues(), "bool: convert"),
        (np.ascontiguousarray(CHW.numpy()), ArrayValues(), r"transpose\(1, 2, 0\)"),
        (torch.from_numpy(RGB), ArrayValues(), r"permute\(2, 0, 1\)"),
        (np.zeros((20, 30, 2), np.uint8), ArrayValues(), r"array \(20, 30, 2\) .* expected"),
        (np.zeros(20, np.uint8), ArrayValues(), r"expected the shape \(h, w\)"),
        (np.zeros((0, 30, 3), np.uint8), ArrayValues(), "expected the shape"),
        (np.zeros((8, 8, 3), np.uint8), ArrayValues(), "8x8 has a side under 16 px"),
        (np.zeros((16, 2000, 3), np.uint8), ArrayValues(), "longer than 100:1"),
        (GREY, BGR, "grey, which has no order of channels"),
        (Image.new("RGB", (8, 8)), ArrayValues(), "side under 16"),
        (Image.new("F", (20, 20)), ArrayValues(), "mode F: convert it to RGB"),
        (Image.fromarray(RGB), BGR, "about arrays and tensors; got Image"),
        (b"<html>", ArrayValues(), "bytes: not an image"),
        (b"", ArrayValues(), "bytes: the file is empty"),
        ("https://example.org/a.jpg", ArrayValues(), "a URL, which is not fetched"),
        (None, ArrayValues(), r"cv2\.imread returns it"),
        (5, ArrayValues(), "int is no image; pass a path, bytes"),
    ],
)
def test_what_cannot_be_used_says_what_to_pass(
    image: Any, values: ArrayValues, reason: str
) -> None:
    with pytest.raises(ImageError, match=reason) as error:
        load_image(image, RULES, values)
    assert "\n" not in str(error.value)


def test_a_cut_file_opened_by_pillow(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    path.write_bytes(encoded()[: len(encoded()) // 2])
    with pytest.raises(ImageError, match=r"PIL image .*cut\.png: cannot be read"):
        load_image(Image.open(path), RULES)


@given(
    arrays.arrays(np.float32, (16, 16, 3), elements=st.floats(0, 1, width=32)),
    st.floats(-1000, 1000),
    st.floats(0.01, 1000),
)
def test_floats_are_scaled_and_rounded(unit: np.ndarray, low: float, width: float) -> None:
    values = ArrayValues(value_range=(low, low + width))
    given_values = np.clip(low + unit.astype(np.float64) * width, low, low + width)
    loaded = load_image(given_values, RULES, values).pixels
    assert np.abs(loaded - unit * 255.0).max() <= 0.5 + 1e-3


def test_half_precision_tensors() -> None:
    for dtype in (torch.float16, torch.bfloat16):
        loaded = load_image((CHW / 255).to(dtype), RULES, UNIT).pixels
        assert np.abs(loaded.astype(int) - RGB).max() <= 1

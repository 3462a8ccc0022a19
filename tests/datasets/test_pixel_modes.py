"""Conversion in strips gives what the whole image gives."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resdet.datasets import pixel_modes
from resdet.datasets.image import ImageRules, decode_image
from resdet.datasets.pixel_modes import flattened, from_grey

BACKGROUND = (10, 20, 30)


@pytest.fixture(autouse=True)
def strips_of_three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixel_modes, "_STRIP", 3 * 37)


def noise(mode: str) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (50, 37, 4), np.uint8)
    rgba = Image.fromarray(values)
    return rgba.quantize(40) if mode == "P" else rgba.convert(mode)


def whole(image: Image.Image) -> np.ndarray:
    canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
    canvas.alpha_composite(image.convert("RGBA"))
    return np.asarray(canvas.convert("RGB"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_eight_bits(mode: str) -> None:
    image = noise(mode)
    expected = whole(image) if image.has_transparency_data else np.asarray(image.convert("RGB"))
    assert np.array_equal(flattened(image, BACKGROUND), expected)
    assert image.has_transparency_data == (mode in ("LA", "P", "RGBA"))


@pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int32])
def test_sixteen_bits_are_rounded(dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (50, 37)).astype(dtype)
    values[:2, 0] = 0, 65535
    image = Image.fromarray(values)
    expected = np.round(values.astype(np.float64) / 257).astype(np.uint8)
    assert np.array_equal(from_grey(image, 65535), np.repeat(expected[:, :, None], 3, 2))


def test_values_of_more_bits_are_refused() -> None:
    for value in (-1, 65536):
        with pytest.raises(ValueError, match=rf"grey values {min(0, value)}\.\.{max(0, value)}"):
            from_grey(Image.fromarray(np.array([[0, value]], np.int32)), 65535)


@pytest.mark.parametrize("options", [{"quality": 60}, {"lossless": True}, {"method": 6}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_opencv_decodes_webp_as_pillow_does(mode: str, options: dict[str, Any]) -> None:
    stream = io.BytesIO()
    noise(mode).resize((74, 100)).save(stream, "WEBP", **options)
    with Image.open(stream) as image:
        expected = whole(image.copy()) if mode == "RGBA" else np.asarray(image)
    found = decode_image(stream.getvalue(), "x", ImageRules(background=BACKGROUND)).pixels
    assert np.array_equal(found, expected)

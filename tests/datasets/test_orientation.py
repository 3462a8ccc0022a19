"""Orientations that no viewer understands are ignored and told; others turn the pixels."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import resdet
from PIL import Image, TiffImagePlugin
from resdet.datasets.checks.images import examine
from resdet.datasets.image import ImageRules, decode_image, from_pil, read_size

_ASCII, _SHORT, _LONG, _RATIONAL, _FLOAT = 2, 3, 4, 5, 11
#: {name: (type of the EXIF entry, its value)}.
ODD: dict[str, tuple[int, Any]] = {
    "text": (_ASCII, "6"),
    "word": (_ASCII, "Horizontal (normal)"),
    "zero": (_SHORT, 0),
    "nine": (_SHORT, 9),
    "huge": (_LONG, 2**32 - 1),
    "fraction": (_RATIONAL, TiffImagePlugin.IFDRational(6, 1)),
    "no fraction": (_RATIONAL, TiffImagePlugin.IFDRational(0, 0)),
    "float": (_FLOAT, 6.0),
}


def _photo() -> Image.Image:
    return Image.fromarray(np.arange(20 * 40 * 3, dtype=np.uint8).reshape(20, 40, 3))


def _encoded(kind: str, type_: int, value: Any) -> bytes:
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    entries.tagtype[0x0112] = type_
    entries[0x0112] = value
    stream = io.BytesIO()
    if kind == "TIFF":
        _photo().save(stream, kind, tiffinfo=entries)
        return stream.getvalue()
    block = io.BytesIO()
    block.write(b"Exif\0\0" + struct.pack("<2sHI", b"II", 42, 8) + entries.tobytes(8))
    _photo().save(stream, kind, exif=block.getvalue(), lossless=True)
    return stream.getvalue()


@pytest.mark.parametrize("exif", ["apply", "ignore"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("name", ODD)
def test_an_odd_orientation_is_ignored_and_told(
    name: str, kind: str, exif: Any, tmp_path: Path
) -> None:
    rules, data = ImageRules(exif=exif), _encoded(kind, *ODD[name])
    loaded = decode_image(data, "x", rules)
    plain = decode_image(_encoded(kind, _SHORT, 1), "x", rules)
    assert np.array_equal(loaded.pixels, plain.pixels)
    assert (loaded.orientation, loaded.warnings, plain.remarks) == (1, (), ())
    assert "EXIF orientation" in loaded.odd_orientation
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(from_pil(image, rules).pixels, plain.pixels) or kind == "JPEG"
    (tmp_path / "x").write_bytes(data)
    assert read_size(tmp_path / "x", rules) == (20, 40)
    assert [remark[:2] for remark in examine(data, rules).remarks] == [("odd_orientation", "note")]


@pytest.mark.parametrize("value", ["six", "6", None, (6, 1), (), b"6", -1, 2**70, 6.0, True, [6]])
def test_an_odd_orientation_of_an_image_in_memory(value: Any) -> None:
    image = _photo()
    image.getexif()[0x0112] = value
    loaded = from_pil(image)
    assert np.array_equal(loaded.pixels, np.array(_photo()))
    assert loaded.orientation == 1
    assert loaded.remarks == (f"EXIF orientation {value!r:.40} is none of 1 to 8: ignored",)


_BLOCK = b"Exif\0\0" + struct.pack("<2sHI", b"II", 42, 8)
DAMAGED = {
    "too short": _BLOCK[:9],
    "cut entries": _BLOCK + b"\xff\xff" + b"\x12" * 7,
    "no header": b"Exif\0\0XX" + _BLOCK[8:],
    "no entries": _BLOCK[:-4] + b"\xff\xff\xff\x7f",
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("block", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_block_costs_no_pixels(block: bytes) -> None:
    stream = io.BytesIO()
    _photo().save(stream, "PNG", exif=block)
    loaded = decode_image(stream.getvalue(), "x")
    assert np.array_equal(loaded.pixels, np.array(_photo()))
    assert loaded.orientation == 1
    with Image.open(io.BytesIO(stream.getvalue())) as image:
        assert np.array_equal(from_pil(image).pixels, np.array(_photo()))
    remarks = examine(stream.getvalue(), ImageRules()).remarks
    assert [remark[:2] for remark in remarks] == [("odd_orientation", "note")]
    assert "EXIF" in remarks[0][2]


@pytest.mark.parametrize("loaded_before", [False, True])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_opened_image_has_the_pixels_of_its_file(kind: str, loaded_before: bool) -> None:
    """Pillow turns TIFF itself, once its pixels are loaded."""
    data = _encoded(kind, _SHORT, 6)
    expected = decode_image(data, "x").pixels
    assert expected.shape == (40, 20, 3)
    with Image.open(io.BytesIO(data)) as image:
        if loaded_before:
            image.load()
        pixels = from_pil(image).pixels
    assert pixels.shape == expected.shape
    if kind != "JPEG":  # decoded by another library
        assert np.array_equal(pixels, expected)


def test_a_prediction_has_the_remark(tiny_run: Path) -> None:
    image = _photo().resize((96, 64))
    image.getexif()[0x0112] = "six"
    (result,) = resdet.load(tiny_run / "weights" / "best.pt").predict([image])
    assert result.image.warnings == ("EXIF orientation 'six' is none of 1 to 8: ignored",)

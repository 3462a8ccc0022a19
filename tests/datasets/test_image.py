"""Every file becomes the pixels a viewer shows, or one `ImageError`."""

from __future__ import annotations

import csv
import io
import os
import struct
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL import __version__ as pillow_version
from resdet.datasets import image as image_module
from resdet.datasets.image import (
    ImageRules,
    SkippedImage,
    decode_image,
    read_image,
    read_size,
)
from resdet.datasets.image_file import FORMATS
from resdet.datasets.memory import MemoryBudget
from resdet.detection.errors import ImageError

ANY_SHAPE = ImageRules(min_side=1, max_aspect=1e9)


def _photo(height: int = 48, width: int = 64) -> Image.Image:
    """Smooth colours with noise: every block of a JPEG has bits of its own."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 200, height * width * 3).reshape(height, width, 3)
    return Image.fromarray((ramp + rng.integers(0, 55, ramp.shape)).astype(np.uint8))


def _encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "GIF"])
def test_a_red_top_left_pixel_is_red_in_every_lossless_format(kind: str) -> None:
    image = Image.new("RGB", (20, 16))
    image.putpixel((0, 0), (255, 0, 0))
    pixels = decode_image(_encode(image, kind), "x").pixels
    assert pixels.shape == (16, 20, 3)
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    assert pixels.flags.c_contiguous
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert pixels.sum() == 255


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_equals_pillow(mode: str, progressive: bool) -> None:
    data = _encode(_photo().convert(mode), progressive=progressive)
    expected = np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    loaded = decode_image(data, "x")
    assert np.array_equal(loaded.pixels, expected)
    assert loaded.warnings == ()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 10))
def test_exif_is_applied_as_pillow_does(kind: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / "photo with spaces é.jpg"  # the content decides, not the name
    path.write_bytes(_encode(_photo(), kind, exif=_exif(orientation)))
    shown = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
    loaded = read_image(path)
    assert np.array_equal(loaded.pixels, shown)
    assert read_size(path) == shown.shape[:2]
    assert loaded.orientation == (orientation if orientation < 9 else 1)
    plain = np.array(Image.open(io.BytesIO(_encode(_photo(), kind))).convert("RGB"))
    raw = ImageRules(exif="ignore")
    assert np.array_equal(read_image(path, raw).pixels, plain)
    assert read_size(path, raw) == (48, 64)


def test_orientation_6_turns_the_left_edge_to_the_top() -> None:
    image = Image.new("RGB", (20, 16))
    image.putpixel((0, 15), (255, 255, 255))  # bottom left as stored
    data = _encode(image, "PNG", exif=_exif(6))  # to be shown turned 90 degrees clockwise
    pixels = decode_image(data, "x").pixels
    assert pixels.shape == (20, 16, 3)
    assert np.argwhere(pixels[..., 0]).tolist() == [[0, 0]]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_transparent_pixels_show_the_background(kind: str) -> None:
    image = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    image.putpixel((3, 0), (0, 0, 0, 255))
    data = _encode(image, kind, lossless=True)
    pixels = decode_image(data, "x").pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 3].tolist() == [0, 0, 0]
    assert decode_image(data, "x", ImageRules(background=(1, 2, 3))).pixels[5, 5].tolist() == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((16, 16), 65535, np.uint16))
    else:
        image = Image.new("L", (16, 16), 255).convert("RGB").convert(mode)
    pixels = decode_image(_encode(image, "TIFF" if mode == "CMYK" else "PNG"), "x").pixels
    assert pixels.tolist() == np.full((16, 16, 3), 255).tolist()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_and_dark_ones_reported(kind: str) -> None:
    values = np.zeros((16, 16), np.uint16)
    values[0, :3] = (65535, 32768, 129)  # 129 / 65535 * 255 = 0.502
    loaded = decode_image(_encode(Image.fromarray(values), kind), "x")
    assert loaded.pixels[0, :3, 0].tolist() == [255, 128, 1]
    assert loaded.warnings == ()
    dark = decode_image(_encode(Image.fromarray(values // 16), kind), "x")
    assert "nearly black" in dark.warnings[0]


def test_sixteen_bit_colour_is_read_and_a_dark_one_reported() -> None:
    values = np.full((16, 16, 3), (4095, 0, 0), np.uint16)
    data = cv2.imencode(".png", values[..., ::-1])[1].tobytes()
    loaded = decode_image(data, "x")
    assert loaded.pixels[0, 0].tolist() == [15, 0, 0]
    assert "12-bit" in loaded.warnings[0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_only_the_first_frame_is_read_and_the_count_reported(kind: str) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black", "red")]
    data = _encode(frames[0], kind, save_all=True, append_images=frames[1:])
    loaded = decode_image(data, "x")
    assert loaded.pixels.min() == 255
    assert "several frames" in loaded.warnings[0]


# ---------------------------------------------------------------------------------- truncation


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("part", [0.5, 0.7, 0.95])
def test_a_cut_jpeg_follows_on_truncated(progressive: bool, part: float) -> None:
    whole = _encode(_photo(), progressive=progressive, quality=95)
    start = whole.rfind(b"\xff\xda") if not progressive else whole.find(b"\xff\xda")
    data = whole[: start + int((len(whole) - start) * part)]
    with pytest.raises(ImageError, match="x: truncated") as error:
        decode_image(data, "x")
    assert not isinstance(error.value, SkippedImage)
    with pytest.raises(SkippedImage):
        decode_image(data, "x", ImageRules(on_truncated="skip"))
    kept = decode_image(data, "x", ImageRules(on_truncated="warn"))
    assert kept.pixels.shape == (48, 64, 3)
    assert kept.warnings[0].startswith("truncated")


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_that_lacks_only_its_end_marker_is_complete(mode: str) -> None:
    whole = _encode(_photo().convert(mode))
    loaded = decode_image(whole[:-2], "x")
    assert np.array_equal(loaded.pixels, decode_image(whole, "x").pixels)
    assert "complete" in loaded.warnings[0]


def test_bytes_after_the_end_marker_and_a_thumbnail_change_nothing() -> None:
    thumbnail = _encode(_photo(16, 16))
    whole = _encode(_photo())
    with_thumbnail = whole[:2] + b"\xff\xe9" + struct.pack(">H", len(thumbnail) + 2) + thumbnail
    with_thumbnail += whole[2:]
    expected = decode_image(whole, "x").pixels
    assert np.array_equal(decode_image(with_thumbnail + b"\0" * 9, "x").pixels, expected)
    with pytest.raises(ImageError, match="truncated"):  # the thumbnail's end marker is not the end
        decode_image(with_thumbnail[:-200], "x")


def test_a_jpeg_cut_inside_a_marker_is_truncated() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = _encode(Image.fromarray(noise), quality=95)
    pixels = data.rfind(b"\xff\xda") + 20
    cuts = [at + 1 for at in range(pixels, len(data) - 200) if data[at] == 0xFF]
    assert cuts
    for cut in cuts:
        with pytest.raises(ImageError, match="truncated"):
            decode_image(data[:cut], "x", ImageRules(on_truncated="skip"))


def test_a_cut_png_is_truncated() -> None:
    data = _encode(_photo(), "PNG")
    with pytest.raises(SkippedImage):
        decode_image(data[: len(data) // 2], "x", ImageRules(on_truncated="skip"))


def test_a_png_with_a_wrong_checksum_is_an_error() -> None:
    data = bytearray(_encode(_photo(), "PNG"))
    data[data.find(b"IDAT") + 40] ^= 0xFF
    with pytest.raises(ImageError, match=r"^x: "):
        decode_image(bytes(data), "x")


# ---------------------------------------------------------------------------------- refusals


def test_a_jpeg_of_very_many_scans_is_refused() -> None:
    """Each is a pass over the image: 160 kB took half a minute."""
    data = _encode(_photo(), progressive=True)
    head, *scans = data.removesuffix(b"\xff\xd9").split(b"\xff\xda")
    assert 5 < len(scans) < 20
    longer = b"\xff\xda".join([head, *scans, *scans[-1:] * (101 - len(scans))]) + b"\xff\xd9"
    with pytest.raises(ImageError, match=r"x: a JPEG of more than 100 scans, which take too"):
        decode_image(longer, "x", ImageRules(on_truncated="warn"))
    assert decode_image(data, "x").warnings == ()


def test_what_stands_behind_a_jpeg_is_not_read() -> None:
    """The film of a moving photo; in the thumbnail of the header are such bytes too."""
    image = _photo()
    data = _encode(image, progressive=True, comment=b"\xff\xd9")
    expected = decode_image(data, "x").pixels
    for film in (b"\xff\xda" * 200, b"\xff\xd9\xff\xda\x00", b"\xff\xff\x00"):
        loaded = decode_image(data + film, "x")
        assert loaded.warnings == () and np.array_equal(loaded.pixels, expected)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data[:-200], "x")


@pytest.mark.parametrize("moment", ["expect_file", "read_size"])
def test_a_file_that_vanishes_while_it_is_read_is_no_such_file(
    moment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (20, 16)).save(path)
    usual = getattr(image_module, moment)

    def followed_by_removal(*given: object) -> object:
        result = usual(*given)
        path.unlink()
        return result

    monkeypatch.setattr(image_module, moment, followed_by_removal)
    with pytest.raises(ImageError, match=r"a\.png: no such file$"):
        read_image(path)


def test_a_tiff_of_very_many_pages_is_not_searched() -> None:
    sides = ((256, 3, 64), (257, 3, 48), (258, 3, 8), (259, 3, 1), (262, 3, 1))
    tags = [*sides, (273, 4, 8), (277, 3, 1), (278, 3, 48), (279, 4, 64 * 48)]
    page = struct.pack("<H", len(tags))
    page += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    first, length, pages = 8 + 64 * 48, len(page) + 4, 200_000
    ends = (struct.pack("<I", first + length * number) for number in range(1, pages))
    data = b"II*\0" + struct.pack("<I", first) + bytes(64 * 48)
    data += b"".join(page + end for end in ends) + page + bytes(4)
    start = time.process_time()
    loaded = decode_image(data, "x")
    assert loaded.size == (48, 64) and "only the first" in loaded.warnings[0]
    assert time.process_time() - start < 5


def _bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>404</html>", 'not an image: starts with "<!DOCTYPE"'),
        (b"\n <html><body>", 'not an image: starts with "<html"'),
        (b"<", 'starts with "<"'),
        (b"< >", 'starts with "<"'),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"hello, this is text", "accepted format"),
        (b"\xff\xd8\xff\xe0", "x: "),
        (b"\x89PNG\r\n\x1a\n", "damaged header"),
        (_bomb(), "60000|pixels"),
    ],
)
def test_contents_that_are_no_image_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data, "x")


def test_files_that_are_not_there_or_not_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    cases = {
        "gone.jpg": "no such file",
        "": "folder",
        "pipe.jpg": "regular",
        "a\0b": "no such file",
    }
    for name, reason in cases.items():
        for read in (read_image, read_size):
            with pytest.raises(ImageError, match=reason):
                read(tmp_path / name if name else tmp_path)


def test_sizes_are_limited_before_decoding() -> None:
    cut_header_only = _encode(_photo(100, 100), "PNG")[:60]  # pixels are missing: never reached
    with pytest.raises(ImageError, match="100x100 is over max_pixels 9999"):
        decode_image(cut_header_only, "x", ImageRules(max_pixels=9999))
    jpeg_2000 = _encode(_photo(100, 100), "JPEG2000")
    with pytest.raises(ImageError, match="max_pixels 19999, which JPEG 2000 may have half of"):
        decode_image(jpeg_2000, "x", ImageRules(max_pixels=19999))
    assert decode_image(jpeg_2000, "x", ImageRules(max_pixels=20000)).size == (100, 100)
    with pytest.raises(ImageError, match="side under 16"):
        decode_image(_encode(_photo(15, 40)), "x")
    with pytest.raises(ImageError, match="100:1"):
        decode_image(_encode(_photo(16, 1601)), "x")
    assert decode_image(_encode(_photo(16, 1600)), "x").pixels.shape == (16, 1600, 3)


def test_large_files_and_large_images_are_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(_encode(_photo(40, 40), "PNG"))
    read: list[Path] = []
    monkeypatch.setattr(image_module, "_content", read.append)
    with pytest.raises(ImageError, match="40x40 is over max_pixels 1599; a larger"):
        read_image(path, ImageRules(max_pixels=1599))
    assert not read
    monkeypatch.undo()
    os.truncate(path, 2**20)  # without taking space
    assert read_image(path).size == (40, 40)
    monkeypatch.setattr(image_module, "MAX_FILE", 2**19)
    with pytest.raises(ImageError, match=r"a\.png: larger than 524288 bytes"):
        read_image(path)


def test_images_of_many_threads_wait_for_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    data, most, now = _encode(_photo(64, 64), "PNG"), [], []

    def decode(*_: object) -> tuple[np.ndarray, tuple[str, ...]]:
        now.append(1)
        most.append(len(now))
        time.sleep(0.01)
        now.pop()
        return np.zeros((64, 64, 3), np.uint8), ()

    monkeypatch.setattr(image_module, "_decode_other", decode)
    monkeypatch.setattr(image_module, "DECODING", MemoryBudget(2 * (64 * 64 * 10 + len(data))))
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda name: decode_image(data, name), "abcdefghijkl"))
    assert max(most) == 2


_SEEDS = [
    _encode(_photo(24, 24)),
    _encode(_photo(24, 24), progressive=True, exif=_exif(6)),
    *(_encode(_photo(24, 24), kind) for kind in ("PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")),
]


@settings(max_examples=250)
@given(st.sampled_from(_SEEDS), st.data())
def test_damaged_bytes_give_pixels_or_an_image_error(seed: bytes, draw: st.DataObject) -> None:
    data = bytearray(seed)
    for position in draw.draw(st.lists(st.integers(0, len(seed) - 1), max_size=8)):
        data[position] = draw.draw(st.integers(0, 255))
    data = data[: draw.draw(st.integers(0, len(data)))] if draw.draw(st.booleans()) else data
    rules = ImageRules(min_side=1, max_pixels=1_000_000, on_truncated="warn")
    try:
        loaded = decode_image(bytes(data), "the file", rules)
    except ImageError as error:
        assert str(error).startswith("the file: ")
        assert "\n" not in str(error)
    else:
        assert loaded.pixels.ndim == 3
        assert loaded.pixels.dtype == np.uint8


# ---------------------------------------------------------------------------------- real files


@pytest.mark.skipif(
    pillow_version < "13", reason="the manifest is of Pillow 13, which reads other damaged files"
)
def test_messy_images_have_the_outcome_of_the_manifest(shared_data: Path) -> None:
    folder = shared_data / "messy_images"
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    read = 0
    for row in rows:
        path = folder / row["file"]
        accepted = row["format"] in FORMATS and not row["pillow_error"]
        try:
            loaded = read_image(path, ANY_SHAPE)
        except ImageError as error:
            assert not accepted, error
            assert str(error).startswith(f"{path}: ")
            continue
        assert accepted, f"{path.name} was read, but Pillow says {row['pillow_error']}"
        read += 1
        shown = ImageOps.exif_transpose(Image.open(path))
        assert loaded.pixels.shape[:2] == (shown.height, shown.width) == read_size(path, ANY_SHAPE)
        assert bool(loaded.warnings) >= (int(row["frames"] or 1) > 1), path.name
        if shown.mode in ("RGB", "L", "1", "CMYK"):
            colours = np.asarray(shown.convert("RGB"))
            if "transparency" not in shown.info:
                assert np.array_equal(loaded.pixels, colours), path.name
    assert read > 140


def test_cut_jpegs_of_the_collection_can_be_kept(shared_data: Path) -> None:
    for name in ("pillow__truncated_jpeg.jpg", "pillow__ultrahdr.jpg"):
        path = shared_data / "messy_images" / name
        with pytest.raises(ImageError, match="truncated"):
            read_image(path)
        kept = read_image(path, ImageRules(on_truncated="warn"))
        assert kept.warnings[0].startswith("truncated")
        assert kept.pixels.shape[:2] == read_size(path)

"""``resdet crop-objects``: crops are at the boxes and make a classification data set."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from resdet.datasets.catalog import DataSplit
from resdet.datasets.catalog_classes import labelled_splits
from resdet.datasets.convert.crop_objects import CropRule, background_boxes, write_object_crops
from resdet.datasets.formats.image_folder import FolderSource
from resdet.datasets.image import read_image
from resdet.detection.errors import ConfigError, DataError, ImageError
from resdet.detection.structures import Annotation, Record
from resdet.tests.datasets.formats.sources import read
from resdet.tools.cli import main

RANDOM = np.random.default_rng(0)


def run(*words: object) -> int:
    return main(["crop-objects", *map(str, words)])


# ------------------------------------------------------------------------------------- squares


@pytest.mark.parametrize(
    ("box", "margin", "expected"),
    [
        ((40, 30, 80, 50), 0.0, (20, 60, 40, 80)),  # 40 x 20 becomes the 40 x 40 around it
        ((40, 30, 80, 50), 0.25, (10, 70, 30, 90)),
        ((0, 0, 40, 40), 0.25, (0, 60, 0, 60)),  # moved back into the image
        ((60, 60, 120, 100), 0.25, (10, 100, 30, 120)),
        ((0, 40, 120, 60), 0.0, (0, 100, 0, 120)),  # higher than the image: cut
        ((50, 50, 52, 52), 0.0, (41, 61, 41, 61)),  # a speck with its surroundings
    ],
)
def test_squares_worked_by_hand(
    box: tuple[float, ...], margin: float, expected: tuple[int, ...]
) -> None:
    rows, columns = CropRule(margin, min_side=20).part(box, (100, 120), RANDOM)
    assert (rows.start, rows.stop, columns.start, columns.stop) == expected


@given(
    st.tuples(st.integers(20, 90), st.integers(20, 90)),
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.floats(0, 2),
    st.floats(0, 0.9),
    st.integers(0, 99),
)
def test_squares_are_inside_and_show_something(
    size: tuple[int, int], place: list[float], margin: float, jitter: float, seed: int
) -> None:
    (height, width), (a, b, c, d) = size, place
    box = (min(a, b) * width, min(c, d) * height, max(a, b) * width, max(c, d) * height)
    rule = CropRule(margin, jitter, min_side=16)
    rows, columns = rule.part(box, size, np.random.default_rng(seed))
    assert 0 <= rows.start < rows.stop <= height and 0 <= columns.start < columns.stop <= width
    sides = (rows.stop - rows.start, columns.stop - columns.start)
    assert min(sides) >= 16
    if max(sides) < min(size):
        assert sides[0] == sides[1]
    if jitter == 0:
        assert rows.start - 1 <= box[1] and box[3] <= rows.stop + 1
        assert columns.start - 1 <= box[0] and box[2] <= columns.stop + 1


@pytest.mark.parametrize("wrong", [{"margin": -0.1}, {"jitter": 1.0}, {"min_side": 15}])
def test_impossible_rules(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        CropRule(**wrong)


# ----------------------------------------------------------------------------------- background


@given(
    st.tuples(st.integers(100, 200), st.integers(100, 200)),
    st.lists(st.tuples(*[st.floats(0, 0.7)] * 2, *[st.floats(0.1, 0.3)] * 2), max_size=4),
    st.integers(0, 99),
)
def test_background_is_inside_and_shows_little_of_any_object(
    size: tuple[int, int], places: list[tuple[float, float, float, float]], seed: int
) -> None:
    height, width = size
    boxes = [(x * width, y * height, (x + w) * width, (y + h) * height) for x, y, w, h in places]
    objects = torch.tensor(boxes).reshape(-1, 4)
    found = background_boxes(objects, size, 3, np.random.default_rng(seed))
    assert len(found) <= 3 and (places or len(found) == 3)
    for x1, y1, x2, y2 in found:
        assert -1e-6 <= x1 < x2 <= width + 1e-6 and -1e-6 <= y1 < y2 <= height + 1e-6
        for a, b, c, d in boxes:
            shared = max(0, min(x2, c) - max(x1, a)) * max(0, min(y2, d) - max(y1, b))
            whole = (x2 - x1) * (y2 - y1) + (c - a) * (d - b) - shared
            assert shared < 0.3001 * whole


def test_where_there_is_no_room_there_is_no_background() -> None:
    found = background_boxes(torch.zeros(0, 4), (15, 200), 3, np.random.default_rng(0))
    assert found == []  # nothing of 16 pixels fits


def test_background_becomes_a_class(tmp_path: Path) -> None:
    split = a_split(tmp_path)
    plain = write_object_crops({"train": split}, tmp_path / "plain", CropRule())
    counts = write_object_crops({"train": split}, tmp_path / "more", CropRule(), background=4)
    assert plain == {"train": Counter(red=1)}
    assert counts == {"train": Counter(red=1, background=4)}
    for path in (tmp_path / "plain" / "train").rglob("*.jpg"):  # objects are cut as without it
        same = tmp_path / "more" / path.relative_to(tmp_path / "plain")
        assert path.read_bytes() == same.read_bytes()
    for path in (tmp_path / "more" / "train" / "background").iterdir():
        assert (read_image(path).pixels[..., 0] > 100).mean() < 0.5


def test_a_class_of_that_name_is_refused(tmp_path: Path) -> None:
    split = a_split(tmp_path, "background")
    with pytest.raises(DataError, match="have a class 'background' already"):
        write_object_crops({"train": split}, tmp_path / "out", CropRule(), background=1)
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------- writing


def a_split(folder: Path, name: str = "red", image_id: str = "a/b") -> DataSplit:
    """A red square of 40 pixels on blue, and a difficult object elsewhere."""
    pixels = np.full((100, 120, 3), (0, 0, 200), np.uint8)
    pixels[30:70, 40:80] = (200, 0, 0)
    Image.fromarray(pixels).save(folder / "a.png")
    boxes = torch.tensor([[40.0, 30, 80, 70], [0, 0, 30, 30]])
    annotation = Annotation(boxes, torch.tensor([0, 0]), torch.tensor([False, True]))
    return DataSplit((Record(image_id, folder / "a.png", (100, 120), annotation),), (name,))


def test_the_object_is_cut_out_with_its_surroundings(tmp_path: Path) -> None:
    out = tmp_path / "out"
    counts = write_object_crops({"train": a_split(tmp_path)}, out, CropRule(0.25))
    assert counts == {"train": Counter(red=1)}  # the difficult one is left out
    [path] = out.rglob("*.jpg")
    assert path == out / "train" / "red" / "a%2Fb_000.jpg"
    pixels = read_image(path).pixels.astype(int)
    assert pixels.shape == (60, 60, 3)
    assert abs(pixels[13:47, 13:47] - (200, 0, 0)).max() < 25
    assert abs(pixels[:8, :] - (0, 0, 200)).max() < 25


def test_names_that_lead_elsewhere(tmp_path: Path) -> None:
    for name in ("..", "a/b", "", ".hidden", "a\\b", " a"):
        with pytest.raises(DataError, match="cannot be the name of a folder"):
            write_object_crops({"train": a_split(tmp_path, name)}, tmp_path / "out", CropRule())
    split = a_split(tmp_path, image_id="../../escape")
    write_object_crops({"train": split}, tmp_path / "out", CropRule())
    assert [path.name for path in (tmp_path / "out").rglob("*.jpg")] == ["..%2F..%2Fescape_000.jpg"]


def test_a_broken_image_leaves_nothing(tmp_path: Path) -> None:
    split = a_split(tmp_path)
    (tmp_path / "a.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(ImageError, match=r"a\.png"):
        write_object_crops({"train": split}, tmp_path / "out", CropRule())
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# ---------------------------------------------------------------------------------- the command


def test_scenes_become_a_set_to_classify(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (scenes, "--from", "voc", "--split", "train", "--split", "val", "--jitter", 0.1)
    assert run(*words, "--out", tmp_path / "a") == 0
    printed = capsys.readouterr().out
    train, _ = labelled_splits(FolderSource(root=tmp_path / "a"))
    objects = [obj for image in read("voc", scenes, "train") for obj in image.objects]
    wanted = Counter(obj.name for obj in objects if not obj.ignore)
    assert Counter(train.classes[record.image_label or 0] for record in train.records) == wanted
    assert f"train: {wanted.total()} objects" in printed
    assert f"{sum(obj.ignore for obj in objects)} ignored" in printed

    assert run(*words, "--out", tmp_path / "b") == 0
    assert run(*words, "--out", tmp_path / "c", "--seed", 1) == 0
    paths = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.jpg"))
    same = [(tmp_path / "a" / p).read_bytes() == (tmp_path / "b" / p).read_bytes() for p in paths]
    other = [(tmp_path / "a" / p).read_bytes() == (tmp_path / "c" / p).read_bytes() for p in paths]
    assert all(same) and not all(other)
    assert run(*words, "--out", tmp_path / "a") == 3
    assert "is not empty" in capsys.readouterr().err


def test_bad_boxes_are_refused_or_reported(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """BloodImage_00338 has a click for a box: a pixel, or nothing where pixels count from 0."""
    words = (shared_data / "bccd", "--from", "voc", "--split", "val", "--out", tmp_path / "out")
    words += ("--coordinates", "zero_based")
    assert run(*words) == 3
    assert "no area" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert run(*words, "--on-bad-box", "drop") == 0
    assert "1 with bad boxes" in capsys.readouterr().out


def test_an_image_that_cannot_be_decoded_is_skipped(scenes: Path, tmp_path: Path) -> None:
    """Its header is whole, so that only reading the pixels finds it."""
    root = tmp_path / "scenes"
    shutil.copytree(scenes, root)
    path = root / "JPEGImages" / "val_00002.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    words = ["crop-objects", str(root), "--from", "voc", "--split", "val", "--out"]
    assert main([*words, str(tmp_path / "a")]) == 3
    with pytest.warns(UserWarning, match=r"val_00002\.jpg: truncated .*left out"):
        assert main([*words, str(tmp_path / "b"), "--on-bad-image", "skip"]) == 0
    names = {each.name[:9] for each in (tmp_path / "b").rglob("*.jpg")}
    assert "val_00002" not in names and len(names) >= 4

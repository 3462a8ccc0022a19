"""Synthetic scenes: deterministic, complete, and with correct annotations."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from defusedxml import ElementTree
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.datasets.acquire.scenes import CLASSES, Scene, draw_scene
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.detection.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "set"
    make_scenes(out, train=40, val=10, seed=3)
    return out


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng([7, i]), (120, 160)) for i in range(250)]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def contents(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def test_layout_is_that_of_voc(made: Path) -> None:
    sets = made / "ImageSets" / "Main"
    train, val = lines(sets / "train.txt"), lines(sets / "val.txt")
    assert (len(train), len(val)) == (40, 10)
    assert lines(sets / "trainval.txt") == train + val
    assert len(set(train + val)) == 50
    for folder, ending in (("JPEGImages", ".jpg"), ("Annotations", ".xml")):
        names = {path.name for path in (made / folder).iterdir()}
        assert names == {name + ending for name in train + val}


def test_annotations_agree_with_the_images(made: Path) -> None:
    for path in (made / "Annotations").iterdir():
        root = ElementTree.fromstring(path.read_bytes())
        image = cv2.imread(str(made / "JPEGImages" / str(root.findtext("filename"))))
        assert image is not None
        height, width, depth = (
            int(root.findtext(f"size/{k}", "")) for k in ("height", "width", "depth")
        )
        assert image.shape == (height, width, depth)
        for item in root.findall("object"):
            assert item.findtext("name") in CLASSES
            assert item.findtext("difficult") in ("0", "1")
            assert item.findtext("truncated") in ("0", "1")
            box = [int(item.findtext(f"bndbox/{k}", "")) for k in ("xmin", "ymin", "xmax", "ymax")]
            assert 1 <= box[0] <= box[2] <= width
            assert 1 <= box[1] <= box[3] <= height


def test_same_seed_same_bytes_other_seed_other_images(made: Path, tmp_path: Path) -> None:
    again, other = tmp_path / "set", tmp_path / "other"
    make_scenes(again, train=40, val=10, seed=3)
    assert contents(again) == contents(made)
    make_scenes(other, train=2, val=0, seed=4)
    name = "JPEGImages/train_00000.jpg"
    assert contents(other)[name] != contents(made)[name]


def test_larger_set_contains_the_smaller(made: Path, tmp_path: Path) -> None:
    make_scenes(tmp_path / "set", train=3, val=3, seed=3)
    images = {k: v for k, v in contents(tmp_path / "set").items() if k.endswith((".jpg", ".xml"))}
    assert len(images) == 12
    assert images.items() <= contents(made).items()


def test_images_differ_from_each_other(made: Path) -> None:
    assert len(set(contents(made).values())) >= 100


def test_only_a_synthetic_data_set_is_replaced(tmp_path: Path) -> None:
    make_scenes(tmp_path / "set", train=3, val=1)
    make_scenes(tmp_path / "set", train=1, val=1)
    assert len(list((tmp_path / "set" / "JPEGImages").iterdir())) == 2

    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("words")
    with pytest.raises(DataError, match="mine: is not empty"):
        make_scenes(mine, train=1, val=1)
    assert contents(mine) == {"thesis.tex": b"words"}
    with pytest.raises(DataError, match="is a file"):
        make_scenes(mine / "thesis.tex", train=1, val=1)


def test_interrupted_set_has_no_image_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_scenes(tmp_path / "set", train=2, val=1)

    def full_disk(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full_disk)
        with pytest.raises(OSError, match="No space"):
            make_scenes(tmp_path / "set", train=2, val=1)
    assert not (tmp_path / "set" / "ImageSets" / "Main" / "train.txt").exists()
    make_scenes(tmp_path / "set", train=2, val=1)
    assert (tmp_path / "set" / "ImageSets" / "Main" / "train.txt").exists()


def test_empty_request(tmp_path: Path) -> None:
    make_scenes(tmp_path / "set", train=0, val=0)
    assert lines(tmp_path / "set" / "ImageSets" / "Main" / "trainval.txt") == []


@pytest.mark.parametrize(
    ("request_", "named"),
    [
        ({"train": -1, "val": 1}, "train"),
        ({"train": 1, "val": -1}, "val"),
        ({"train": 1, "val": 1, "seed": -1}, "seed"),
        ({"train": 1, "val": 1, "size": (240, 8)}, "size"),
    ],
)
def test_invalid_requests(tmp_path: Path, request_: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named}: "):
        make_scenes(tmp_path / "set", **request_)
    assert not (tmp_path / "set").exists()


def test_variety(scenes: list[Scene]) -> None:
    objects = [item for scene in scenes for item in scene.objects]
    names = Counter(item.name for item in objects)
    assert set(names) == set(CLASSES)
    assert len(CLASSES) >= 5
    assert max(names.values()) < 2 * min(names.values())
    assert 8 <= sum(not scene.objects for scene in scenes) <= 40  # 8 % of 250
    assert 25 <= sum(scene.pixels.shape[:2] == (160, 120) for scene in scenes) <= 80
    assert 0.02 < np.mean([item.difficult for item in objects]) < 0.2
    assert 0.05 < np.mean([item.truncated for item in objects]) < 0.4
    sides = sorted(max(i.box[2] - i.box[0], i.box[3] - i.box[1]) for i in objects)
    assert sides[len(sides) // 20] * 4 < sides[-len(sides) // 20]


def test_small_objects_are_difficult(scenes: list[Scene]) -> None:
    for item in (item for scene in scenes for item in scene.objects):
        if min(item.box[2] - item.box[0], item.box[3] - item.box[1]) < 10:
            assert item.difficult


def saturation(pixels: np.ndarray) -> np.ndarray:
    channels = pixels.astype(float)
    return 1 - channels.min(axis=2) / np.maximum(channels.max(axis=2), 1)


def test_boxes_are_tight_around_bright_pixels(scenes: list[Scene]) -> None:
    """Independently of the boxes: saturation is up to 0.3 in backgrounds, from 0.65 in shapes."""
    checked = 0
    for scene in scenes:
        if len(scene.objects) != 1 or scene.objects[0].difficult:
            continue
        calm = cv2.medianBlur(scene.pixels, 3)  # grain saturates single pixels where it is dark
        rows, columns = np.nonzero(saturation(calm) > 0.5)
        seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.abs(np.subtract(seen, scene.objects[0].box)).max() <= 3, scene.objects
        checked += 1
    assert checked > 15


def test_scenes_without_objects_are_unsaturated(scenes: list[Scene]) -> None:
    empty = [scene for scene in scenes if not scene.objects]
    assert empty
    assert all(np.mean(saturation(scene.pixels) > 0.6) < 0.02 for scene in empty)


def test_classes_differ_in_hue(scenes: list[Scene]) -> None:
    """The six hue ranges are far enough apart to order the classes around the colour circle."""
    hues: dict[str, list[float]] = {name: [] for name in CLASSES}
    for scene in scenes:
        hsv = cv2.cvtColor(scene.pixels, cv2.COLOR_RGB2HSV)
        for item in scene.objects:
            x1, y1, x2, y2 = item.box
            inside = hsv[y1:y2, x1:x2].reshape(-1, 3).astype(float)
            bright = inside[inside[:, 1] > 150, 0] * (2 * np.pi / 180)
            if len(bright) > 50 and not item.truncated:
                hues[item.name].append(float(np.angle(np.exp(1j * bright).mean())))
    middles = [np.angle(np.exp(1j * np.array(hues[name])).mean()) for name in CLASSES]
    apart = [np.angle(np.exp(1j * (b - a))) for a, b in pairwise([*middles, middles[0]])]
    assert np.abs(np.array(apart) - np.pi / 3).max() < np.pi / 9


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), height=st.integers(64, 200), width=st.integers(64, 200))
def test_boxes_are_inside_images_of_any_size(seed: int, height: int, width: int) -> None:
    scene = draw_scene(np.random.default_rng(seed), (height, width))
    h, w = scene.pixels.shape[:2]
    assert {h, w} == {height, width}
    assert scene.pixels.dtype == np.uint8
    for item in scene.objects:
        x1, y1, x2, y2 = item.box
        assert 0 <= x1 < x2 <= w
        assert 0 <= y1 < y2 <= h

"""Exact and near copies are found, and unrelated images are not."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance
from resdet.datasets.checks.duplicates import find_duplicates
from resdet.datasets.checks.images import ImageFacts, check_images, fingerprint
from resdet.datasets.image import ImageRules
from resdet.tools.cli import main


def _scene(seed: int, height: int = 240, width: int = 320) -> Image.Image:
    """Shapes and noise at several scales, as in a photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for side in (3, 6, 12, 40):
        coarse = rng.integers(0, 256, (side, side + 1, 3), dtype=np.uint8)
        layer = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(layer, np.float64) / 4
    return Image.fromarray(total.astype(np.uint8))


def _again(image: Image.Image, quality: int) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality)
    return Image.open(stream)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "compressed": lambda image: _again(image, 30),
    "halved": lambda image: image.resize((160, 120)),
    "squeezed": lambda image: image.resize((240, 240)),
    "enlarged": lambda image: image.resize((500, 375)),
    "brightened": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "darkened": lambda image: ImageEnhance.Brightness(image).enhance(0.8),
    "grey": lambda image: image.convert("L"),
}


def _write(folder: Path, images: dict[str, Image.Image]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, image in images.items():
        image.save(folder / name, **({"quality": 90} if name.endswith("jpg") else {}))
    return [folder / name for name in images]


def _facts(paths: list[Path]) -> list[ImageFacts]:
    return check_images(
        paths, ImageRules(), workers=0, cache=None, progress=lambda done, total: None
    )


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[ImageFacts]:
    """150 unrelated images."""
    scenes = {f"other{seed}.jpg": _scene(100 + seed) for seed in range(150)}
    return _facts(_write(tmp_path_factory.mktemp("others"), scenes))


def test_an_exact_copy_inside_a_split(tmp_path: Path, others: list[ImageFacts]) -> None:
    one, two = _write(tmp_path, {"one.jpg": _scene(0), "two.jpg": _scene(0)})
    findings = find_duplicates({"train": [*_facts([one, two]), *others]})
    assert [(each.kind, each.severity, each.file) for each in findings] == [
        ("same_image", "warning", two)
    ]
    assert findings[0].reason == f"the same bytes as {one}"


def test_an_exact_copy_across_splits_is_reported_once(
    tmp_path: Path, others: list[ImageFacts]
) -> None:
    one, two = _write(tmp_path, {"one.jpg": _scene(0), "two.jpg": _scene(0)})
    splits = {"train": _facts([one]), "val": [*others, *_facts([two])]}
    (finding,) = find_duplicates(splits)
    assert finding.kind == "same_image_in_splits"
    assert finding.file == two
    assert str(one) in finding.reason and "'train'" in finding.reason and "'val'" in finding.reason


def test_one_file_listed_in_two_splits(tmp_path: Path) -> None:
    facts = _facts(_write(tmp_path, {"one.jpg": _scene(0)}))
    (finding,) = find_duplicates({"train": facts, "val": facts})
    assert "the same file as" in finding.reason
    assert find_duplicates({"train": facts + facts}) == []


@pytest.mark.parametrize("copy", COPIES)
def test_near_copies(copy: str, tmp_path: Path, others: list[ImageFacts]) -> None:
    """Twelve images with a copy each, among others: all are found, and nothing else."""
    scenes = {f"{seed}.png": _scene(seed) for seed in range(12)}
    copies = {f"copy{name}": COPIES[copy](scene) for name, scene in scenes.items()}
    early = _facts(_write(tmp_path / "early", scenes)) + others
    late = _facts(_write(tmp_path / "late", copies))

    found = {each.file.name: each for each in find_duplicates({"train": early, "test": late})}
    assert set(found) == set(copies)
    for name, finding in found.items():
        assert finding.kind == "similar_image_in_splits"
        assert str(tmp_path / "early" / name.removeprefix("copy")) in finding.reason

    inside = find_duplicates({"train": early + late})
    assert {each.file.name for each in inside} == set(copies)
    assert {each.kind for each in inside} == {"similar_image"}


def test_flat_images_are_not_similar(tmp_path: Path) -> None:
    """White pages, black frames and faint noise cannot be compared."""
    rng = np.random.default_rng(0)
    images = {
        f"{level}_{size}.png": Image.fromarray(
            np.clip(level + rng.normal(0, 2, (size, size, 3)), 0, 255).astype(np.uint8)
        )
        for level in (0, 128, 255)
        for size in (64, 80, 96)
    }
    assert find_duplicates({"train": _facts(_write(tmp_path, images))}) == []


def test_unrelated_images_are_not_similar(others: list[ImageFacts]) -> None:
    assert find_duplicates({"train": others[:100], "val": others[100:]}) == []


def test_unreadable_and_no_images(tmp_path: Path) -> None:
    broken = [tmp_path / "a.jpg", tmp_path / "gone1.jpg", tmp_path / "gone2.jpg"]
    broken[0].write_bytes(b"not an image")
    assert find_duplicates({"train": _facts(broken), "val": []}) == []
    assert find_duplicates({}) == []


def _made_up(hashes: np.ndarray, thumbnails: np.ndarray, name: str) -> list[ImageFacts]:
    first = _facts([])
    assert first == []
    return [
        ImageFacts(
            "JPEG",
            (10, 10),
            1,
            int(value),
            pixels.tobytes(),
            (),
            Path(f"{name}{number}.jpg"),
            f"{name}{number}",
        )
        for number, (value, pixels) in enumerate(zip(hashes, thumbnails, strict=True))
    ]


def test_every_hash_within_seven_bits_is_a_candidate() -> None:
    """For any position of up to seven different bits; eight are too many."""
    rng = np.random.default_rng(1)
    _, thumbnail = fingerprint(np.asarray(_scene(0)))
    base = _made_up(
        np.array([0x0123456789ABCDEF], np.uint64), np.frombuffer(thumbnail, np.uint8)[None], "a"
    )
    for count in range(10):
        for _ in range(40):
            bits = rng.choice(64, count, replace=False)
            flipped = base[0].dhash ^ sum(1 << int(bit) for bit in bits)
            other = replace(base[0], path=Path("b.jpg"), sha256="b", dhash=flipped)
            assert len(find_duplicates({"train": base, "val": [other]})) == (count <= 7)


@pytest.mark.parametrize("alike", [False, True])
def test_many_images_take_seconds(alike: bool) -> None:
    """20 000 images, all different or all nearly equal (a fixed camera)."""
    rng = np.random.default_rng(2)
    count = 20_000
    hashes = rng.integers(0, 2**64, count, dtype=np.uint64)
    thumbnails = rng.integers(0, 256, (count, 324), dtype=np.uint8)
    if alike:
        hashes = np.uint64(0xF0F0) ^ (np.uint64(1) << rng.integers(0, 64, count, dtype=np.uint64))
        thumbnails = np.clip(thumbnails[:1].astype(int) + rng.integers(0, 9, (count, 324)), 0, 255)
    facts = _made_up(hashes, thumbnails.astype(np.uint8), "p")
    start = time.monotonic()
    findings = find_duplicates({"train": facts})
    assert time.monotonic() - start < 60
    assert len(findings) == (count - 1 if alike else 0)


def test_an_image_in_two_classes_is_a_conflict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, name, number, seed in (
        *(("train", "cat", 0, 0), ("train", "dog", 0, 1), ("train", "dog", 1, 0)),
        *(("val", "cat", 2, 1), ("val", "dog", 3, 2)),
    ):
        path = tmp_path / split / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    assert main(["check-data", str(tmp_path), "--out", str(tmp_path / "report")]) == 0
    findings = json.loads((tmp_path / "report" / "data_report.json").read_text())["findings"]
    conflicts = [each for each in findings if each["kind"] == "label_conflict"]
    assert [Path(each["file"]).relative_to(tmp_path).as_posix() for each in conflicts] == [
        "train/dog/1.png",
        "val/cat/2.png",
    ]
    assert "is 'dog' and has the same bytes as" in conflicts[0]["reason"]
    assert not [each for each in findings if each["kind"].startswith("same_image")]  # told already
    assert "label_conflict" in capsys.readouterr().out

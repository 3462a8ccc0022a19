"""Images of class folders are read with their classes, and every fault becomes a finding."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from resdet.datasets.formats import inspect, inspect_folders
from resdet.datasets.formats.class_levels import inspect_levels, splits_of_folder
from resdet.datasets.formats.image_folder import (
    FORMAT,
    FolderSource,
    compare_splits,
    inspect_image_folder,
)
from resdet.detection.errors import DataError
from resdet.tests.datasets.formats.sources import read


def _save(path: Path, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 1)):
        for name in ("dog", "cat", "train"):  # a class may be called like a split
            for number in range(count):
                _save(tmp_path / split / name / f"{number}.jpg")
    return tmp_path


def _kinds(findings: list) -> list[tuple[str, str, Path]]:
    return [(each.kind, each.severity, each.file) for each in findings]


def test_a_good_folder(root: Path) -> None:
    assert splits_of_folder(root) == {"train": root / "train", "val": root / "val"}
    images, findings = inspect_image_folder(root / "train")
    assert findings == [] == compare_splits(root)
    assert read("image_folder", root, "train") == images
    assert [image.image_class for image in images] == ["cat"] * 3 + ["dog"] * 3 + ["train"] * 3
    assert images[3].image_id == "dog/0.jpg"
    assert images[3].size == (30, 40)


def test_classes_without_splits(tmp_path: Path) -> None:
    for name in ("train", "bus"):  # vehicles, not a split: the folder holds images
        _save(tmp_path / name / "a.png")
    assert splits_of_folder(tmp_path) == {"all": tmp_path}
    images, findings = inspect_image_folder(tmp_path)
    assert {image.image_class for image in images} == {"train", "bus"}
    assert findings == [] == compare_splits(tmp_path)


def test_class_folders_one_level_too_deep(tmp_path: Path) -> None:
    place = tmp_path / "Dataset"
    for name in ("0", "1"):
        _save(place / name / "a.png")
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "docs").mkdir()
    assert splits_of_folder(tmp_path) == {"all": place}
    (source,) = FORMAT.splits(tmp_path).values()
    images, _ = inspect(source)
    assert [image.image_class for image in images] == ["0", "1"]
    told = inspect_folders([source])
    assert [(each.kind, each.severity) for each in told if each.file == place] == [
        ("nested_classes", "note")
    ]
    for split in ("train", "test"):
        _save(tmp_path / "in" / "set" / split / "cat" / "a.png")
        _save(tmp_path / "in" / "set" / split / "dog" / "a.png")
    found = splits_of_folder(tmp_path / "in")
    assert found == {name: tmp_path / "in" / "set" / name for name in ("train", "test")}


def test_the_folders_in_the_only_class_of_a_split_are_told(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("poodles", "hounds"):
            _save(tmp_path / split / "dog" / name / "a.png")
    sources = list(FORMAT.splits(tmp_path).values())
    images, _ = inspect(sources[0])
    assert [image.image_class for image in images] == ["hounds", "poodles"]
    train, val = inspect_folders(sources)
    assert (train.kind, train.severity) == ("nested_classes", "warning") == (val.kind, val.severity)
    assert train.file == tmp_path / "train" / "dog"
    assert (
        "classes: hounds; poodles; if dog is itself a class, write train for train/dog"
        in train.reason
    )
    # As it says:
    source = FolderSource(root=tmp_path, train="train", val="val")
    images, (finding,) = inspect(source)
    assert {image.image_class for image in images} == {"dog"} and finding.kind == "nested_classes"
    assert [each for each in inspect_folders([source]) if each.kind == "nested_classes"] == []


@pytest.mark.parametrize("level", ["train/animals", "train/animals/pets"])
@pytest.mark.parametrize("outside", [False, True])
def test_the_only_folder_of_a_split_is_told_wherever_it_is(
    level: str, outside: bool, tmp_path: Path
) -> None:
    """A config may name the folder of the classes by its absolute path."""
    root, data = tmp_path / "root", tmp_path / ("elsewhere" if outside else "root")
    for name in ("cat", "dog"):
        _save(root / "val" / name / "a.png")
        _save(data / level / name / "a.png")
    part = str(data / level) if outside else level
    (told,) = inspect_levels([(root, part)])
    deep = outside and level.count("/") > 1  # where a split begins is known below the root alone
    assert (told.file, told.severity) == (data / level, "note" if deep else "warning")
    assert f"write {Path(part).parent} for {part} in" in told.reason


@pytest.mark.parametrize("wrappers", [("data",), ("data", "more"), ("in/data/more",)])
@pytest.mark.parametrize("splits", [("train",), ("train", "val"), ()])
def test_classes_below_any_number_of_folders_are_read_and_told(
    wrappers: tuple[str, ...], splits: tuple[str, ...], tmp_path: Path
) -> None:
    """As deep as in ``train/data/cats/{indoor,outdoor}``: what lies below may be the classes."""
    level = "/".join([*wrappers, "cats"])
    for split in splits or (".",):
        for name in ("indoor", "outdoor"):
            _save(tmp_path / split / level / name / "a.png")
    assert splits_of_folder(tmp_path) == {
        split: tmp_path / (split if splits else "") / level for split in splits or ("all",)
    }
    sources = list(FORMAT.splits(tmp_path).values())
    assert {image.image_class for image in inspect(sources[0])[0]} == {"indoor", "outdoor"}
    told = [each for each in inspect_folders(sources) if each.kind == "nested_classes"]
    assert [each.severity for each in told] == ["warning"] * len(splits) or ["note"]
    assert f"write {Path(sources[0].train).parent} for {sources[0].train}" in told[0].reason
    # Where the config names a folder above them:
    top = splits[0] if splits else "."
    images, (finding,) = inspect(FolderSource(root=tmp_path, train=top))
    assert len({image.image_class for image in images}) == 1
    assert (finding.kind, finding.severity) == ("nested_classes", "warning")
    assert f"name the folder above them: {tmp_path / top / level}" in finding.reason


def test_folders_below_each_of_several_classes_are_told_at_any_depth(tmp_path: Path) -> None:
    for name in ("cats/data/indoor", "cats/data/outdoor", "dogs/data"):
        _save(tmp_path / "train" / name / "a.png")
    images, (finding,) = inspect(FolderSource(root=tmp_path))
    assert {image.image_class for image in images} == {"cats", "dogs"}
    assert "1 of 2 classes" in finding.reason and "of data: indoor; outdoor" in finding.reason


@pytest.mark.parametrize(
    ("train", "val", "levels"),
    [
        (("data/{}", "cat dog"), ("{}", "cat dog"), ("train/data", "val")),
        (("{}", "cat dog"), ("in/data/{}", "cat dog"), ("train", "val/in/data")),
        (("{}", "cat dog"), ("{}/indoor {}/outdoor", "cat"), ("train", "val")),  # not deeper
        (("{}/indoor {}/outdoor", "cat"), ("{}", "cat dog"), ("train", "val")),
        (("data/{}", "cat dog"), ("data/{}", "cat"), ("train/data", "val/data")),  # one class
    ],
)
def test_one_split_shows_the_level_of_the_classes_of_another(
    train: tuple[str, str], val: tuple[str, str], levels: tuple[str, str], tmp_path: Path
) -> None:
    for split, (places, names) in {"train": train, "val": val}.items():
        for place in places.split():
            for name in names.split():
                _save(tmp_path / split / place.format(name) / "a.png")
    assert list(splits_of_folder(tmp_path).values()) == [tmp_path / level for level in levels]


def test_the_only_class_may_be_the_folder_in_it(tmp_path: Path) -> None:
    _save(tmp_path / "train" / "data" / "cat" / "a.png")
    images, (finding,) = inspect(FolderSource(root=tmp_path))
    assert [image.image_class for image in images] == ["data"]
    assert (finding.kind, finding.severity) == ("nested_classes", "note")
    assert f"name the folder above it: {tmp_path / 'train' / 'data'}" in finding.reason
    (tmp_path / "train" / "data").rename(tmp_path / "train" / "cat")
    (tmp_path / "train" / "cat" / "cat").rename(tmp_path / "train" / "cat" / "Images")
    assert inspect(FolderSource(root=tmp_path))[1] == []


def test_classes_beside_what_may_be_one_are_told(tmp_path: Path) -> None:
    for name in ("Dataset/0", "Dataset/1", "Examples"):
        _save(tmp_path / name / "a.png")
    images, findings = inspect_image_folder(tmp_path)
    assert {image.image_class for image in images} == {"Dataset", "Examples"}
    (finding,) = findings
    assert (finding.kind, finding.severity) == ("nested_classes", "warning")
    assert "1 of 2 classes" in finding.reason and str(tmp_path / "Dataset") in finding.reason
    assert inspect_image_folder(tmp_path / "Dataset")[1] == []


def test_folders_inside_a_class_belong_to_it(root: Path) -> None:
    _save(root / "train" / "dog" / "poodles" / "a.jpg")
    images, findings = inspect_image_folder(root / "train")
    assert findings == []
    assert [i.image_class for i in images if i.image_id == "dog/poodles/a.jpg"] == ["dog"]


def test_an_empty_class(root: Path) -> None:
    empty = root / "train" / "bird"
    empty.mkdir()
    images, findings = inspect_image_folder(root / "train")
    assert _kinds(findings) == [("empty_class", "error", empty)]
    assert len(images) == 9
    with pytest.raises(DataError, match="bird"):
        read("image_folder", root, "train")


def test_a_class_that_training_lacks_and_the_reverse(root: Path) -> None:
    _save(root / "val" / "bird" / "a.jpg")
    (root / "val" / "cat" / "0.jpg").unlink()
    (root / "val" / "cat").rmdir()
    assert _kinds(compare_splits(root)) == [
        ("class_not_in_train", "error", root / "val" / "bird"),
        ("class_missing_in_split", "warning", root / "val"),
    ]


def test_files_that_are_no_images_of_a_class(root: Path) -> None:
    for path in ("train/dog/notes.txt", "train/.DS_Store", "train/cat/._0.jpg", "LICENSE"):
        (root / path).write_text("x")
    loose = _save(root / "train" / "loose.jpg")
    (root / "extra").mkdir()
    assert set(splits_of_folder(root)) == {"train", "val"}
    _, findings = inspect_image_folder(root / "train")
    assert Counter(_kinds(findings)) == Counter(
        [
            ("image_without_class", "warning", loose),
            ("stray_file", "note", root / "train" / "dog" / "notes.txt"),
        ]
    )
    assert _kinds(compare_splits(root)) == [
        ("stray_file", "note", root / "LICENSE"),
        ("stray_file", "note", root / "extra"),
    ]


def test_a_header_that_cannot_be_read(root: Path) -> None:
    broken = root / "train" / "cat" / "1.jpg"
    broken.write_bytes(b"<html>")
    images, findings = inspect_image_folder(root / "train")
    assert _kinds(findings) == [("unreadable_image", "error", broken)]
    assert len(images) == 8


def test_no_folder_and_no_classes(tmp_path: Path) -> None:
    assert _kinds(inspect_image_folder(tmp_path / "absent")[1]) == [
        ("missing_folder", "error", tmp_path / "absent")
    ]
    assert _kinds(inspect_image_folder(tmp_path)[1]) == [("no_classes", "error", tmp_path)]
    assert compare_splits(tmp_path) == []


def test_caltech_is_without_fault(shared_data: Path) -> None:
    root = shared_data / "caltech40"
    counts = {}
    for split, folder in splits_of_folder(root).items():
        images, findings = inspect_image_folder(folder)
        assert findings == []
        counts[split] = (len(images), len({image.image_class for image in images}))
    assert compare_splits(root) == []
    assert counts["train"][1] == counts["val"][1] == 40
    assert counts["train"][0] == sum(1 for _ in root.glob("train/*/*.jpg"))

"""Public classification data sets as distributed, and class folders where people have them: each is
recognised, checked, trained on and evaluated as it is."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from resdet.datasets.catalog_classes import labelled_splits, localization_split
from resdet.datasets.formats import inspect, inspect_folders, recognise
from resdet.datasets.formats.cub import CubSource
from resdet.datasets.formats.format import Reading, Source
from resdet.datasets.formats.image_folder import FolderSource
from resdet.datasets.formats.tiny_imagenet import TinyImagenetSource
from resdet.detection.errors import DataError
from resdet.tests.datasets.formats.hidden_files import add_hidden_files
from resdet.tools.cli import main

#: Two classes, as wnids and as CUB names them.
WNIDS = ("n01443537", "n01629819")
BIRDS = ("001.Black_footed_Albatross", "002.Laysan_Albatross")


def _image(path: Path) -> None:
    """Noise: no two images are copies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(str(path).encode()))
    Image.fromarray(noise.integers(0, 255, (36, 40, 3), dtype=np.uint8)).save(path, "JPEG")


def _text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def make_cub(root: Path) -> None:
    """Three images of each class; the last one is for testing."""
    home = root / "CUB_200_2011"
    names = [f"{bird}/{bird[4:]}_{n}.jpg" for bird in BIRDS for n in range(3)]
    for name in names:
        _image(home / "images" / name)
    _text(home / "images.txt", *(f"{n} {name}" for n, name in enumerate(names, 1)))
    _text(home / "classes.txt", *(f"{n} {bird}" for n, bird in enumerate(BIRDS, 1)))
    numbers = range(1, len(names) + 1)
    _text(home / "image_class_labels.txt", *(f"{n} {1 if n < 4 else 2}" for n in numbers))
    _text(home / "train_test_split.txt", *(f"{n} {int(n % 3 > 0)}" for n in numbers))
    _text(home / "bounding_boxes.txt", *(f"{n} 2.0 3.0 20.0 {20 + n}.0" for n in numbers))
    _text(home / "README", "Caltech-UCSD Birds-200-2011")
    _text(root / "attributes.txt", "1 has_bill_shape::curved")


def make_tiny_imagenet(root: Path) -> None:
    home = root / "tiny-imagenet-200"
    for wnid in WNIDS:
        for n in range(2):
            _image(home / "train" / wnid / "images" / f"{wnid}_{n}.JPEG")
        lines = (f"{wnid}_{n}.JPEG\t0\t10\t30\t34" for n in range(2))
        _text(home / "train" / wnid / f"{wnid}_boxes.txt", *lines)
    for n in range(2):
        _image(home / "val" / "images" / f"val_{n}.JPEG")
        _image(home / "test" / "images" / f"test_{n}.JPEG")
    answers = (f"val_{n}.JPEG\t{WNIDS[1 - n]}\t0\t2\t20\t22" for n in range(2))
    _text(home / "val" / "val_annotations.txt", *answers)
    _text(home / "wnids.txt", *WNIDS)
    _text(home / "words.txt", *(f"{wnid}\tgoldfish, Carassius auratus" for wnid in WNIDS))


def make_imagenet(root: Path) -> None:
    """The flat validation folder with the development kit beside it."""
    for wnid in WNIDS:
        for n in range(2):
            _image(root / "train" / wnid / f"{wnid}_{n}.JPEG")
    for n in (1, 2):
        _image(root / "val" / f"ILSVRC2012_val_{n:08d}.JPEG")
    kit = root / "ILSVRC2012_devkit_t12" / "data"
    _text(kit / "ILSVRC2012_validation_ground_truth.txt", "2", "1")
    _text(kit / "map_clsloc.txt", *(f"{wnid} {n} fish" for n, wnid in enumerate(WNIDS, 1)))


def make_kaggle(root: Path) -> None:
    """Kaggle's archive without its boxes: the answers are beside ``ILSVRC``."""
    make_imagenet(root / "ILSVRC" / "Data" / "CLS-LOC")
    (root / "ILSVRC/Data/CLS-LOC/ILSVRC2012_devkit_t12").rename(root / "kit")
    rows = (f"ILSVRC2012_val_{n:08d},{wnid} 1 2 9 9" for n, wnid in ((1, WNIDS[1]), (2, WNIDS[0])))
    _text(root / "LOC_val_solution.csv", "ImageId,PredictionString", *rows)
    _text(root / "LOC_synset_mapping.txt", *(f"{wnid} a fish" for wnid in WNIDS))


def _folders(*places: str) -> Callable[[Path], None]:
    """Two images of each class in each place; ``{}`` is the class."""

    def make(root: Path) -> None:
        for place in places:
            for name in ("cat", "dog"):
                for n in range(2):
                    _image(root / place.format(name) / f"{n}.jpg")
        _text(root / "README.md", "about")

    return make


#: {layout: (its maker, format, what the reason has, {split: number of images})}.
LAYOUTS: Mapping[str, tuple[Callable[[Path], None], str, str, dict[str, int]]] = {
    "CUB": (make_cub, "cub", "CUB-200-2011, in CUB_200_2011", {"train": 4, "val": 2}),
    "Tiny ImageNet": (
        make_tiny_imagenet,
        "tiny_imagenet",
        "wnids.txt in tiny-imagenet-200 lists the classes",
        {"train": 4, "val": 2},
    ),
    "ImageNet": (
        make_imagenet,
        "ilsvrc",
        "val/ILSVRC2012_val_00000001.JPEG is an image of ILSVRC's validation set, whose classes "
        "are in ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt",
        {"train": 4, "val": 2},
    ),
    "Kaggle": (make_kaggle, "ilsvrc", "it has ILSVRC/Data/CLS-LOC", {"train": 4, "val": 2}),
    "one level too high": (
        _folders("set/{}"),
        "image_folder",
        "set/cat is a folder of images",
        {"all": 4},
    ),
    "splits one level too high": (
        _folders("set/train/{}", "set/val/{}"),
        "image_folder",
        "set/train/cat is a folder of images",
        {"train": 4, "val": 4},
    ),
    "training alone, one level too high": (
        _folders("set/train/{}"),
        "image_folder",
        "set/train/cat is a folder of images",
        {"train": 4},
    ),
    "a folder between split and classes": (
        _folders("train/images/{}", "val/images/{}"),
        "image_folder",
        "train/images/cat is a folder of images",
        {"train": 4, "val": 4},
    ),
    "a folder in each class": (
        _folders("train/{}/images", "val/{}/images"),
        "image_folder",
        "train/cat is a folder of images",
        {"train": 4, "val": 4},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_recognised_and_read(tmp_path: Path, name: str) -> None:
    make, format, reason, counts = LAYOUTS[name]
    make(tmp_path)
    add_hidden_files(tmp_path)
    recognition = recognise(tmp_path)
    assert (recognition.format.name, recognition.others) == (format, ())
    assert reason in recognition.reason
    sources = recognition.format.splits(tmp_path)
    classes = set()
    for split, source in sources.items():
        images, findings = inspect(source, Reading(part="val" if split == "val" else "train"))
        assert [f for f in findings if f.severity != "note"] == []
        assert (len(images), images[0].size) == (counts[split], (36, 40))
        classes |= {image.image_class for image in images}
    assert list(sources) == list(counts) and len(classes) == 2
    assert [f.kind for f in inspect_folders(list(sources.values())) if f.severity != "note"] == []


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_is_checked_and_loaded_for_training(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, config = tmp_path / "in", tmp_path / "mine.yaml"
    LAYOUTS[name][0](root)
    assert main(["check-data", str(root), "--write-config", str(config)]) == 0
    printed = capsys.readouterr().out
    assert f"format: {LAYOUTS[name][1]}, because " in printed and LAYOUTS[name][2] in printed
    assert f"next: resdet train-cls --cfg {config}" in printed
    words = ["data.source.val_fraction=0.5"] if "val" not in LAYOUTS[name][3] else []
    assert main(["train-cls", "--cfg", str(config), "--dry-run", *words]) == 0


def test_folders_that_may_be_the_classes_are_told_before_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The check reads the lowest level; a config that names a higher one trains on it, told."""
    places = (f"{split}/data/{{}}/{where}" for split in ("train", "val") for where in ("in", "out"))
    _folders(*places)(tmp_path)
    config = tmp_path / "mine.yaml"
    config.write_text(TRAINING + "task: classification\ndata: {workers: 0, source: {root: .}}\n")
    config.write_text(config.read_text().replace("root:", "format: image_folder, root:"))
    words = ("data.source.train=train/data", "data.source.val=val/data")
    assert main(["check-data", str(tmp_path)]) == 0
    assert "2 of 2 classes have their images in several folders" in capsys.readouterr().out
    assert main(["train-cls", "--cfg", str(config), "--dry-run", *words]) == 0
    out = capsys.readouterr().out
    assert "WARNING: data.train: " in out and "name the folder above them:" in out
    assert "classes: 2 with 4 to 4 images each" in out


TRAINING = """
crop: {kind: resized, size: 32}
network: {depth: 18, width: 8, norm: group, weights: null}
train: {iterations: 2, batch_size: 2, base_batch_size: 2, warmup_iterations: 0, eval_every: 2}
test: {resize: 36, size: 32, batch_size: 2}
"""


@pytest.mark.parametrize("name", ["CUB", "Tiny ImageNet", "ImageNet"])
def test_a_public_set_is_trained_on_and_evaluated(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, format, _, _ = LAYOUTS[name]
    make(tmp_path / "in")
    config, run = tmp_path / "mine.yaml", tmp_path / "run"
    data = {"source": {"format": format, "root": "in"}, "workers": 0}
    config.write_text(TRAINING + yaml.safe_dump({"task": "classification", "data": data}))
    assert main(["train-cls", "--cfg", str(config), "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["eval", "--weights", str(run / "weights" / "last.pt")]) == 0
    assert "top1_error" in capsys.readouterr().out


# ---------------------------------------------------------------------------------- labels


def test_the_labels_of_cub_are_those_of_its_lists(tmp_path: Path) -> None:
    make_cub(tmp_path)
    train, val = labelled_splits(CubSource(root=tmp_path))
    assert train.classes == BIRDS
    assert [record.image_label for record in train.records] == [0, 0, 1, 1]
    assert [record.image_id for record in val.records] == [
        f"{bird}/{bird[4:]}_2.jpg" for bird in BIRDS
    ]
    located = localization_split(CubSource(root=tmp_path), "val", classes=BIRDS)
    boxes = [record.annotation.boxes.tolist() for record in located.records]
    assert boxes == [[[2.0, 3.0, 22.0, 26.0]], [[2.0, 3.0, 22.0, 29.0]]]


def test_the_labels_of_tiny_imagenet_are_those_of_its_list(tmp_path: Path) -> None:
    make_tiny_imagenet(tmp_path)
    train, val = labelled_splits(TinyImagenetSource(root=tmp_path))
    assert train.classes == WNIDS
    assert [record.image_label for record in val.records] == [1, 0]


def test_the_flat_validation_folder_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_imagenet(tmp_path)
    (tmp_path / "ILSVRC2012_devkit_t12").rename(tmp_path / "val" / "devkit")
    assert main(["check-data", str(tmp_path / "val")]) == 0
    printed = capsys.readouterr().out
    assert "ILSVRC2012_val_00000001.JPEG is an image of ILSVRC's validation set" in printed
    assert "val: 2 images" in printed and "next:" not in printed
    words = ["check-data", str(tmp_path / "val"), "--write-config", str(tmp_path / "a.yaml")]
    assert main(words) == 2
    assert "needs images for training, there are val" in capsys.readouterr().err


def test_flat_images_without_their_classes_are_images(tmp_path: Path) -> None:
    _image(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    assert recognise(tmp_path).format.name == "images"


# ---------------------------------------------------------------------------------- faults


def _replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("images.txt", "1 001", "x 001", "malformed_file images.txt: line 1: 'x 001.Black"),
        ("images.txt", "2 001", "1 001", "malformed_file images.txt: line 2: 1 is there already"),
        ("images.txt", "_0.jpg", "_9.jpg", "missing_image images.txt: image 1: '001.Black"),
        (
            "image_class_labels.txt",
            "1 1\n",
            "",
            "missing_annotation image_class_labels.txt: image 1: image_class_labels.txt has ",
        ),
        ("image_class_labels.txt", "1 1", "1 3", "unknown_class image_class_labels.txt: image 1: "),
        ("train_test_split.txt", "1 1", "1 yes", "malformed_file train_test_split.txt: image 1: "),
        ("train_test_split.txt", "1 1\n", "", "missing_annotation train_test_split.txt: image 1: "),
        (
            "bounding_boxes.txt",
            "2.0 3.0",
            "2.0",
            "malformed_file bounding_boxes.txt: image 1: ",
        ),
        ("bounding_boxes.txt", "1 2.0", "9 2.0", "image_without_box bounding_boxes.txt: image 1: "),
    ],
)
def test_faults_of_cub_name_file_and_image(
    tmp_path: Path, file: str, old: str, new: str, said: str
) -> None:
    make_cub(tmp_path)
    _replaced(tmp_path / "CUB_200_2011" / file, old, new)
    _, findings = inspect(CubSource(root=tmp_path))
    told = [f"{f.kind} {str(f).replace(f'{f.file}', f.file.name, 1)}" for f in findings]
    assert any(line.startswith(said) for line in told), told


def test_faults_of_tiny_imagenet(tmp_path: Path) -> None:
    make_tiny_imagenet(tmp_path)
    home = tmp_path / "tiny-imagenet-200"
    answers = home / "val" / "val_annotations.txt"
    _text(answers, f"val_0.JPEG\t{WNIDS[0]}\t0", "val_7.JPEG\tn1\t0", "val_0.JPEG\tn1", "alone")
    images, findings = inspect(TinyImagenetSource(root=home), Reading(part="val"))
    assert [image.path.name for image in images] == ["val_0.JPEG"]
    assert {finding.kind for finding in findings} == {
        *("missing_image", "listed_twice", "malformed_file", "missing_annotation"),
        "class_missing_in_split",
    }
    _text(home / "wnids.txt", WNIDS[0])
    _, findings = inspect(TinyImagenetSource(root=home))
    assert [(f.kind, f.object) for f in findings] == [("unknown_class", WNIDS[1])]


@pytest.mark.parametrize(
    ("places", "source", "said"),
    [
        (("set/train/{}", "set/val/{}"), {}, "there are set/train, set/val: set train: set/train "),
        (("{}",), {}, "the class folders are in one folder: set train: . of the source"),
        (("set/{}",), {}, "the class folders are in one folder: set train: set of the source"),
        (("train/{}", "valid/{}"), {"part": "val"}, "there are train, valid: set val: valid of"),
        (("train/{}", "test/{}"), {"part": "val"}, "there are train, test: set val: "),
        ((), {}, "no such folder"),
    ],
)
def test_a_wrong_level_in_a_config_is_told_the_setting(
    tmp_path: Path, places: tuple[str, ...], source: dict[str, Any], said: str
) -> None:
    _folders(*places)(tmp_path)
    found: Source = FolderSource(root=tmp_path)
    images, findings = inspect(found, Reading(**source))
    assert images == [] and [finding.kind for finding in findings] == ["missing_folder"]
    assert said in findings[0].reason


def test_the_error_of_a_wrong_level_ends_training(tmp_path: Path) -> None:
    _folders("set/train/{}", "set/val/{}")(tmp_path)
    with pytest.raises(DataError, match="set train: set/train of the source"):
        labelled_splits(FolderSource(root=tmp_path))

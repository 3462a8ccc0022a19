"""The dict of formats: names, recognition, and a new format that every command takes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from PIL import Image
from resdet.datasets import formats
from resdet.datasets.checks.check import Effort, check
from resdet.datasets.checks.sources import config_data, folder_data
from resdet.datasets.findings import Finding
from resdet.datasets.formats import FORMATS, find_format, named_source, recognise
from resdet.datasets.formats.format import (
    Carries,
    Format,
    Inspected,
    Reading,
    SplitSource,
    checked_size,
)
from resdet.datasets.formats.ilsvrc_layout import IlsvrcSource
from resdet.datasets.records import RawImage, RawObject
from resdet.detection.config.classifier import ClassifierDataConfig
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import check_dict
from resdet.detection.config.localizer import LocalizerDataConfig
from resdet.detection.errors import ConfigError
from resdet.detection.tasks.detector import DETECTION
from resdet.tests.datasets.formats.ilsvrc_tree import write_ilsvrc
from resdet.tests.datasets.formats.sources import inspect, read
from resdet.tools.cli import main


def test_a_format_is_called_like_its_key_and_the_word_in_a_config() -> None:
    for name, each in FORMATS.items():
        assert each.name == name
        assert get_args(each.source.model_fields["format"].annotation) == (name,)
        assert each.source.model_fields["format"].default == name


@pytest.mark.parametrize(
    ("carries", "names"),
    [
        (
            "boxes",
            {"voc", "ilsvrc_det", "coco", "yolo", "labelme", "label_studio", "cvat", "csv"},
        ),
        ("class", {"image_folder", "tiny_imagenet", "shards", "ilsvrc", "cub"}),
        ("both", {"ilsvrc", "cub"}),
        ("nothing", {"images"}),
    ],
)
def test_what_each_task_takes(carries: Carries, names: set[str]) -> None:
    assert {each.name for each in FORMATS.values() if each.has(carries)} == names
    for name in names:
        assert find_format(name, carries) is FORMATS[name]
    with pytest.raises(ValueError, match=r"unknown format 'yollo'"):
        find_format("yollo", carries)


def test_an_earlier_name_is_taken_and_the_new_one_told(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """In a config, in a checkpoint, which holds one, and on the command line."""
    formats._tell_new_name.cache_clear()
    section = {"source": {"format": "cls_loc", "root": "a", "coordinates": "zero_based"}}
    data = LocalizerDataConfig.model_validate_json(json.dumps(section))
    assert isinstance(data.source, IlsvrcSource)
    assert data.source.format == "ilsvrc" and data.source.coordinates == "zero_based"
    section["source"]["root"] = Path("a")
    assert LocalizerDataConfig.model_validate(section) == data
    assert [record.getMessage() for record in caplog.records] == [
        "format cls_loc is called ilsvrc now: write the new name"
    ]
    write_ilsvrc(tmp_path)
    printed = []
    for name in ("cls-loc", "ilsvrc"):
        assert main(["check-data", str(tmp_path), "--format", name, "--quick"]) == 0
        printed.append(re.sub(r"[\d.]+ s", "", capsys.readouterr().out))
    assert printed[0] == printed[1]
    with pytest.raises(ValueError, match="unknown format 'cls_loc_2'"):
        find_format("cls_loc_2")


def test_the_nearest_name_is_suggested() -> None:
    known = r"did you mean 'yolo'\? \(known here: ilsvrc_det, voc, coco, yolo, labelme, "
    with pytest.raises(ValueError, match=known):
        find_format("yollo", "boxes")
    with pytest.raises(ValueError, match=r"unknown format 'voc' \(known here: ilsvrc, cub\)"):
        find_format("voc", "both")


def test_a_folder_of_no_format(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        recognise(tmp_path)
    for each in FORMATS.values():
        assert not each.layout or f"{each.layout} ({each.name})" in str(caught.value)
    with pytest.raises(ConfigError, match="no such folder"):
        recognise(tmp_path / "gone")


# ---------------------------------------------------------------------------------- a new format


class CsvSource(SplitSource):
    """``root/<split>.csv`` with the columns image, x1, y1, x2, y2, label."""

    format: Literal["csv"] = "csv"


def _inspect(source: CsvSource, reading: Reading) -> Inspected:
    path = source.root / f"{source.split}.csv"
    objects: dict[str, list[RawObject]] = {}
    findings = []
    for line, (name, *box, label) in enumerate(csv.reader(path.open()), 1):
        if len(box) != 4:
            findings.append(Finding("malformed_file", "error", path, f"line {line}: columns"))
            continue
        x1, y1, x2, y2 = map(float, box)
        objects.setdefault(name, []).append(RawObject(label, (x1, y1, x2, y2)))
    images = [
        RawImage(
            Path(name).stem,
            source.root / name,
            checked_size(source.root / name, None, path, reading.rules),
            tuple(found),
            path,
        )
        for name, found in objects.items()
    ]
    return images, findings


CSV = Format(
    name="csv",
    source=CsvSource,
    carries="boxes",
    layout="*.csv",
    recognise=lambda root: "it has CSV files" if any(root.glob("*.csv")) else "",
    splits=lambda root: {
        path.stem: CsvSource(root=root, split=path.stem) for path in sorted(root.glob("*.csv"))
    },
    inspect=_inspect,
)


@pytest.fixture
def csv_folder(scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The drawn scenes, without difficult objects and empty images, in the new format."""
    monkeypatch.setitem(FORMATS, "csv", CSV)
    root = tmp_path / "table"
    for split in ("train", "val"):
        lines = []
        for image in read("voc", scenes, split, difficult="exclude"):
            target = root / split / image.path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image.path, target)
            name = target.relative_to(root).as_posix()
            lines += [[name, *map(str, obj.box), obj.name] for obj in image.objects]
        (root / f"{split}.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    return root


def test_a_new_format_is_taken_by_every_command(
    csv_folder: Path, tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Checked, trained on, evaluated, converted, and read back from the new data set."""
    # FORMATS holds it last, so that class folders would be recognised before it.
    assert main(["check-data", str(csv_folder), "--format", "csv", "--quick"]) == 0
    assert "no findings" in capsys.readouterr().out

    config = tmp_path / "csv.yaml"
    text = tiny_config.read_text()
    for split in ("train", "val"):
        voc, own = f"{{format: voc, root: scenes, split: {split}}}", f"split: {split}}}"
        assert voc in text
        text = text.replace(voc, f"{{format: csv, root: table, {own}")
    config.write_text(text)
    assert main(["check-data", "--cfg", str(config), "--quick"]) == 0
    run = tmp_path / "run"
    words = ["train.iterations=2", "train.eval_every=2", "train.val_loss_batches=0"]
    assert main(["train-det", "--cfg", str(config), "--out", str(run), *words]) == 0
    assert main(["eval", "--weights", str(run / "weights" / "last.pt")]) == 0
    assert "voc_ap50" in capsys.readouterr().out

    voc = tmp_path / "voc"
    words = ["--from", "csv", "--split", "train", "--split", "val", "--to", "voc"]
    assert main(["convert-data", str(csv_folder), *words, "--out", str(voc)]) == 0
    for split in ("train", "val"):
        old, new = inspect("csv", csv_folder, split)[0], read("voc", voc, split)
        assert [image.objects for image in new] != []
        for before, after in zip(old, new, strict=True):
            assert after.path.read_bytes() == before.path.read_bytes()
            boxes = [[(obj.name, obj.box) for obj in image.objects] for image in (before, after)]
            assert boxes[0] == boxes[1]


def test_a_wrong_file_of_a_new_format_is_a_finding(
    csv_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (csv_folder / "val.csv").open("a") as file:
        file.write("val/x.jpg,1,2,3,cat\n")
    assert main(["check-data", str(csv_folder), "--format", "csv", "--quick"]) == 3
    assert "malformed_file" in capsys.readouterr().out
    words = ["--from", "csv", "--split", "val", "--to", "voc", "--out", str(csv_folder / "voc")]
    assert main(["convert-data", str(csv_folder), *words]) == 3
    assert "val.csv: line" in capsys.readouterr().err


def test_an_unknown_key_of_a_source_names_those_of_its_format(
    csv_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "wrong.yaml"
    config.write_text("data:\n  train:\n    - {format: csv, root: table, splitt: train}\n")
    assert main(["train-det", "--cfg", str(config), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert f"{config}:3: data.train.0.splitt: unknown key; did you mean 'split'?" in error
    assert f"{config}:3: data.train.0.split: is required" in error


# ---------------------------------------------------------------------------------- YOLO


@pytest.fixture
def yolo(scenes: Path, tmp_path: Path) -> Path:
    root = tmp_path / "yolo"
    words = ["--from", "voc", "--split", "train", "--split", "val", "--to", "yolo"]
    assert main(["convert-data", str(scenes), *words, "--out", str(root), "--allow-loss"]) == 0
    return root


def test_a_yolo_folder_is_recognised_and_checked(
    yolo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recognise(yolo).format is FORMATS["yolo"]
    assert main(["check-data", str(yolo), "--quick"]) == 0
    assert "train: 12 images" in capsys.readouterr().out
    label = min((yolo / "labels/val").iterdir())
    label.write_text("0 0.5 0.5 0.2 0.2\n7 0.5 0.5 0.2 0.2\n0 0.5 0.5 0.2\n")
    (yolo / "labels/train/lost.txt").write_text("")
    assert main(["check-data", str(yolo), "--quick"]) == 3
    printed = capsys.readouterr().out
    for kind in ("unknown_category", "malformed_object", "orphan_annotation"):
        assert kind in printed
    images, findings = inspect("yolo", yolo, "val")
    assert len(images) == 6
    assert [finding.object for finding in findings] == ["line 2", "line 3"]
    assert {finding.image for finding in findings} == {images[0].path}


def test_training_sees_the_boxes_of_voc(yolo: Path, scenes: Path) -> None:
    """What has no place in YOLO, difficult objects, is left out of VOC too."""
    splits = []
    for name, root in (("voc", scenes), ("yolo", yolo)):
        data = {"train": [{"format": name, "root": str(root), "split": "train"}]}
        config = check_dict(DetectorConfig, {"data": data}, "test")
        splits.append(DETECTION.read(config, "train", training=True))
    assert splits[0].classes == splits[1].classes
    for voc, own in zip(splits[0].records, splits[1].records, strict=True):
        assert (voc.image_id, voc.size) == (own.image_id, own.size)
        assert torch.equal(voc.annotation.boxes, own.annotation.boxes)
        assert torch.equal(voc.annotation.labels, own.annotation.labels)


def test_a_yolo_folder_without_splits_is_divided_by_lists(
    yolo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = tmp_path / "flat"
    for kind in ("images", "labels"):
        shutil.copytree(yolo / kind / "train", flat / kind)
    shutil.copy(yolo / "data.yaml", flat)
    assert list(FORMATS["yolo"].splits(flat)) == ["all"]
    whole = read("yolo", flat, None)
    words = ["--from", "yolo", "--parts", "train=0.75", "val=0.25"]
    assert main(["split", str(flat), *words]) == 0
    assert list(FORMATS["yolo"].splits(flat)) == ["train", "val"]
    parts = [read("yolo", flat, split) for split in ("train", "val")]
    assert [len(part) for part in parts] == [9, 3]
    assert sorted(image.image_id for part in parts for image in part) == [
        image.image_id for image in whole
    ]
    assert all(image in whole for part in parts for image in part)
    assert main(["check-data", str(flat), "--quick"]) == 0
    (flat / "val.txt").write_text("./images/gone.jpg\n")
    assert [each.kind for each in inspect("yolo", flat, "val")[1]] == ["missing_image"]
    capsys.readouterr()
    assert main(["split", str(yolo), *words]) == 2
    assert "--parts: 'train' is a folder of images already" in capsys.readouterr().err
    assert main(["split", str(yolo), *words, "--split", "train"]) == 2
    assert "divided as a whole" in capsys.readouterr().err


def test_objects_of_a_yolo_folder_are_cropped(yolo: Path, tmp_path: Path) -> None:
    out = tmp_path / "objects"
    words = ["--from", "yolo", "--split", "val", "--out", str(out)]
    assert main(["crop-objects", str(yolo), *words]) == 0
    count = sum(len(image.objects) for image in read("yolo", yolo, "val"))
    assert len(list(out.rglob("*.jpg"))) == count > 0


def test_classes_are_those_of_the_files_in_their_order(tmp_path: Path) -> None:
    """A category without objects keeps its place, so that a model fits published ids."""
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    names = ["pets", "zebra", "unused", "cat"]
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 9, 9]}],
        "categories": [
            {"id": n, "name": name, "supercategory": "pets" if n else "none"}
            for n, name in enumerate(names)
        ],
    }
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content))
    source = FORMATS["coco"].source(images=tmp_path, annotations=path)
    config = check_dict(
        DetectorConfig, {"data": {"train": [source.model_dump(mode="json")]}}, "test"
    )
    split = DETECTION.read(config, "train", training=True)
    assert split.classes == ("zebra", "unused", "cat")
    assert split.records[0].annotation.labels.tolist() == [2]
    assert [each.kind for each in split.findings if each.kind == "group_category"]
    report = check(folder_data(tmp_path, FORMATS["coco"]), Effort(decode=False))
    assert [each.name for each in report.classes] == ["zebra", "unused", "cat"]
    content["annotations"][0]["category_id"] = 0  # an object of the group makes it a class
    path.write_text(json.dumps(content))
    assert FORMATS["coco"].classes(source) == tuple(names)


def test_a_source_by_its_name() -> None:
    source = named_source(FORMATS["voc"], Path("a"), "val")
    assert source == FORMATS["voc"].source(root=Path("a"), split="val")
    coco = named_source(FORMATS["coco"], Path("a"), "val")
    assert coco.title == "a/annotations/instances_val.json"
    file = named_source(FORMATS["coco"], Path("a"), "val", Path("b.json"))
    assert file == FORMATS["coco"].source(images=Path("a"), annotations=Path("b.json"))


def test_a_checked_image_with_a_class_has_one_object_of_its_size(shared_data: Path) -> None:
    pets = ClassifierDataConfig(source=IlsvrcSource(root=shared_data / "pets_cls_loc"))
    for data in (
        folder_data(shared_data / "caltech40", FORMATS["image_folder"]),
        config_data(Path("pets.yaml"), pets, Reading()),  # its boxes are not for classifiers
    ):
        report = check(data, Effort(decode=False))
        assert all(split.objects == split.images > 0 for split in report.splits)
        assert {finding.severity for finding in report.findings} <= {"note"}

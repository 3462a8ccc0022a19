"""Reading ILSVRC DET: lists, images without objects, classes, and faults."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from resdet.datasets.formats import FORMATS, recognise
from resdet.datasets.formats.ilsvrc_det_classes import DET_CLASSES
from resdet.datasets.records import RawImage
from resdet.tests.datasets.formats.det_tree import HALVES, NEGATIVE, TRAIN, VAL, write_det
from resdet.tests.datasets.formats.ilsvrc_tree import DOG
from resdet.tests.datasets.formats.sources import inspect
from resdet.tools.cli import main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_det(tmp_path / "ILSVRC")
    return tmp_path / "ILSVRC"


def kinds(root: Path, split: str, **options: object) -> list[str]:
    return [finding.kind for finding in inspect("ilsvrc_det", root, split, **options)[1]]


def names(image: RawImage) -> list[str]:
    return [obj.name for obj in image.objects]


def test_the_classes_of_the_development_kit() -> None:
    """Numbers 1, 58, 59, 124 and 200 of map_det.txt."""
    listed = list(DET_CLASSES.items())
    assert len(listed) == len(set(DET_CLASSES.values())) == 200
    assert [listed[number - 1] for number in (1, 58, 59, 124, 200)] == [
        ("n02672831", "accordion"),
        ("n02084071", "dog"),
        ("n02121808", "domestic cat"),
        ("n00007846", "person"),
        ("n02391049", "zebra"),
    ]


def test_both_splits(root: Path) -> None:
    assert recognise(root).format is FORMATS["ilsvrc_det"]
    assert list(FORMATS["ilsvrc_det"].splits(root)) == ["train", "val"]
    train, findings = inspect("ilsvrc_det", root, "train")
    assert findings == []
    assert [image.image_id for image in train] == [*TRAIN, *NEGATIVE]
    assert names(train[0]) == ["dog"] and names(train[4]) == ["dog", "domestic cat"]
    assert [image.objects for image in train[-2:]] == [(), ()]
    assert all(image.size == (96, 128) for image in train)
    val, findings = inspect("ilsvrc_det", root, "val")
    assert findings == [] and [image.image_id for image in val] == list(VAL)
    assert [len(image.objects) for image in val] == [2, 2, 0, 2, 2, 0]


def test_pixels_count_from_one(root: Path) -> None:
    """xmin 1 is the left edge, 0.0, and the last pixel belongs to the box."""
    xml = root / "Annotations" / "DET" / "val" / f"{VAL[0]}.xml"
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>128</xmax><ymax>96</ymax></bndbox>"
    text = f"<annotation><object><name>{DOG}</name>{box}</object></annotation>"
    xml.write_text(text)
    image = inspect("ilsvrc_det", root, "val")[0][0]
    assert image.objects[0].box == (0.0, 1.0, 128.0, 96.0)


def test_a_half_of_val_by_its_list(root: Path) -> None:
    for half, expected in HALVES.items():
        images, findings = inspect("ilsvrc_det", root, "val", list_file=root / f"lists/{half}.txt")
        assert findings == [] and [image.image_id for image in images] == list(expected)


def test_a_single_list_goes_before_those_of_the_classes(root: Path) -> None:
    """As in ILSVRC2015; without flags the folder tells which images are negative."""
    one = root / "ImageSets" / "DET" / "train.txt"
    one.write_text(f"{TRAIN[0]} 1\n{NEGATIVE[0]} 2\n")
    images, findings = inspect("ilsvrc_det", root, "train")
    assert findings == [] and [image.image_id for image in images] == [TRAIN[0], NEGATIVE[0]]
    one.write_text(f"{NEGATIVE[1]} 2\n")
    assert kinds(root, "train") == ["missing_annotation"]


def test_negative_images_can_be_left_out_and_are_counted(root: Path) -> None:
    images, (finding,) = inspect("ilsvrc_det", root, "train", negatives=False)
    assert [image.image_id for image in images] == list(TRAIN)
    assert finding.severity == "warning" and "2 negative images are left out" in finding.reason


def test_faults_name_file_and_reason(root: Path) -> None:
    (root / "Data" / "DET" / "val" / f"{VAL[0]}.JPEG").unlink()
    (root / "Annotations" / "DET" / "val" / f"{VAL[1]}.xml").unlink()
    (root / "Annotations" / "DET" / "val" / f"{VAL[3]}.xml").write_text("<annotation>")
    listed = root / "ImageSets" / "DET" / "val.txt"
    listed.write_text(listed.read_text() + f"{VAL[2]} 3\none two three\n")
    images, findings = inspect("ilsvrc_det", root, "val")
    assert sorted(finding.kind for finding in findings) == [
        "listed_twice",
        "malformed_file",
        "malformed_xml",
        "missing_annotation",
        "missing_image",
    ]
    assert [image.image_id for image in images] == [VAL[2], VAL[4], VAL[5]]
    listed.unlink()
    assert kinds(root, "val") == ["missing_file"]
    listed.write_text("")
    assert kinds(root, "val") == ["empty_image_set"]


def test_check_data(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-data", str(root), "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "train: 9 images" in printed and "val: 6 images" in printed
    xml = root / "Annotations" / "DET" / "val" / f"{VAL[0]}.xml"
    xml.write_text(xml.read_text().replace(DOG, "n99999999"))
    words = ["--cfg", "ilsvrc_det_r101.yaml", f"data.root={root.parent}", "--quick"]
    for half in HALVES:
        shutil.copy(root / "lists" / f"{half}.txt", root.parent)
    assert main(["check-data", *words]) == 3
    printed = capsys.readouterr().out
    assert "unknown_class" in printed and "n99999999" in printed

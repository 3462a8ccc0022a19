"""Localizers get images with class and boxes; all others are errors or counted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from resdet.datasets.catalog_classes import localization_split
from resdet.datasets.coordinates import Coordinates
from resdet.datasets.formats.ilsvrc import class_names
from resdet.datasets.formats.ilsvrc_layout import IlsvrcSource
from resdet.detection.errors import DataError
from resdet.tests.datasets.formats.ilsvrc_tree import CAT, DOG, write_ilsvrc, write_xml

LISTS, NOTES = Path("ImageSets/CLS-LOC"), Path("Annotations/CLS-LOC")
VAL_1 = "ILSVRC2012_val_00000001"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_ilsvrc(tmp_path)
    return tmp_path


def test_training_images(root: Path) -> None:
    split = localization_split(IlsvrcSource(root=root), "train", classes=None)
    assert split.classes == (DOG, CAT)
    ids = [f"{DOG}/{DOG}_0", f"{DOG}/{DOG}_1", f"{CAT}/{CAT}_0"]
    assert [record.image_id for record in split.records] == ids
    assert [record.image_label for record in split.records] == [0, 0, 1]
    assert [record.annotation.labels.tolist() for record in split.records] == [[0], [0], [1]]
    # 2 3 20 25, counted from 1 with the last pixel included.
    assert split.records[0].annotation.boxes.tolist() == [[1.0, 2.0, 20.0, 25.0]]
    assert split.records[0].size == (30, 40) and not split.records[0].annotation.ignore.any()


def test_images_without_boxes_are_counted(root: Path) -> None:
    (warning,) = localization_split(IlsvrcSource(root=root), "train", classes=None).findings
    assert (warning.kind, warning.severity) == ("image_without_box", "warning")
    assert warning.file == root
    assert warning.reason == f"1 of 4 images have no box and are left out: {CAT}/{CAT}_1"


def test_validation_images(root: Path) -> None:
    split = localization_split(IlsvrcSource(root=root), "val", classes=None)
    assert split.classes == (DOG, CAT)
    assert [record.image_label for record in split.records] == [0, 1, 1]
    assert [len(record.annotation) for record in split.records] == [1, 1, 2]
    assert [finding.kind for finding in split.findings] == ["several_objects"]
    other = localization_split(IlsvrcSource(root=root), "val", classes=[CAT, "n00000000", DOG])
    assert [record.image_label for record in other.records] == [2, 0, 0]
    assert [finding.kind for finding in other.findings] == [
        "several_objects",
        "class_missing_in_split",
    ]


@pytest.mark.parametrize(("coordinates", "left"), [("one_based", 1.0), ("zero_based", 2.0)])
def test_coordinates(root: Path, coordinates: Coordinates, left: float) -> None:
    split = localization_split(
        IlsvrcSource(root=root, coordinates=coordinates), "train", classes=None
    )
    assert split.records[0].annotation.boxes[0, 0] == left


def test_names_for_display(root: Path) -> None:
    assert class_names(root) == {DOG: "dog, hound", CAT: "cat"}


def test_a_class_of_which_nothing_has_a_box(root: Path) -> None:
    (root / NOTES / "train" / CAT / f"{CAT}_0.xml").unlink()
    left_out, absent = localization_split(IlsvrcSource(root=root), "train", classes=None).findings
    assert left_out.reason.startswith("2 of 4 images")
    assert (absent.kind, absent.severity) == ("absent_class", "warning") and CAT in absent.reason


def _edit(path: Path | str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


def _as_train_loc(root: Path) -> None:
    (root / LISTS / "train_cls.txt").rename(root / LISTS / "train_loc.txt")


def _emptied_train_loc(root: Path) -> None:
    """All have an XML, one of them without objects."""
    _as_train_loc(root)
    write_xml(root / NOTES / "train" / CAT / f"{CAT}_1.xml")


def _without_cats(root: Path) -> None:
    text = (root / LISTS / "train_cls.txt").read_text()
    kept = [line for line in text.splitlines() if CAT not in line]
    (root / LISTS / "train_cls.txt").write_text("\n".join(kept))


REFUSED = {
    "bad XML": (
        *("val", _edit(NOTES / "val" / f"{VAL_1}.xml", "</object>", "")),
        rf"{VAL_1}\.xml.*malformed|malformed.*{VAL_1}",
    ),
    "class outside the mapping": (
        *("train", _edit("LOC_synset_mapping.txt", f"{CAT} cat\n", "")),
        f"{CAT}.*not in LOC_synset_mapping",
    ),
    "listed, but not there": (
        *("val", _edit(LISTS / "val.txt", f"{VAL_1} 1", f"{VAL_1} 1\nother 4")),
        "other: no image in",
    ),
    "no solution": (
        *("val", lambda root: (root / "LOC_val_solution.csv").unlink()),
        r"LOC_val_solution\.csv: no such file",
    ),
    "no row in the solution": (
        *("val", _edit("LOC_val_solution.csv", f"{VAL_1},{DOG} 1 1 10 10 \n", "")),
        f"{VAL_1}: has no row",
    ),
    "another class in the solution": (
        *("val", _edit("LOC_val_solution.csv", f"{VAL_1},{DOG}", f"{VAL_1},{CAT}")),
        f"{VAL_1}.*the object is {DOG}, the image {CAT}",
    ),
    "an image of several classes": (
        *("val", _edit(NOTES / "val" / "ILSVRC2012_val_00000003.xml", CAT, DOG)),
        "objects of several classes",
    ),
    "a class that training lacks": ("val", _without_cats, f"{CAT}: .*training lacks"),
    "no XML, though the list promises a box": ("train", _as_train_loc, f"{CAT}_1.*no annotation"),
    "no object, though the list promises one": (
        *("train", _emptied_train_loc),
        rf"{CAT}_1\.xml: the image has no box",
    ),
    "nothing to measure an image by": (
        *("val", lambda root: write_xml(root / NOTES / "val" / f"{VAL_1}.xml")),
        rf"{VAL_1}\.xml: the image has no box",
    ),
    "no training image has a box": (
        *("train", lambda root: [xml.unlink() for xml in (root / NOTES / "train").rglob("*.xml")]),
        "no image of train has a box",
    ),
    "bad box": (
        *("train", _edit(NOTES / "train" / DOG / f"{DOG}_1.xml", "<xmax>20", "<xmax>1")),
        rf"{DOG}_1.*swapped corners.*data\.on_bad_box=drop",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_refused(fault: str, root: Path) -> None:
    split, plant, message = REFUSED[fault]
    plant(root)
    with pytest.raises(DataError, match=message) as caught:
        localization_split(IlsvrcSource(root=root), split, classes=None)
    assert "\n" not in str(caught.value)


def test_a_class_that_is_not_wanted(root: Path) -> None:
    with pytest.raises(
        DataError, match=f"{CAT}: 2 images of a class that is not in the class list"
    ):
        localization_split(IlsvrcSource(root=root), "train", classes=[DOG])


@pytest.mark.parametrize("name", ["train_cls", "train_loc"])
def test_a_image_whose_boxes_are_dropped_is_counted(root: Path, name: str) -> None:
    """``on_bad_box: drop`` asked for it, whatever the list promises; of val it is skipped."""
    if name == "train_loc":
        _as_train_loc(root)
        write_xml(root / NOTES / "train" / CAT / f"{CAT}_1.xml", (CAT, "2 3 20 25"))
    _edit(NOTES / "train" / DOG / f"{DOG}_1.xml", "<xmax>20", "<xmax>1")(root)
    split = localization_split(IlsvrcSource(root=root), "train", classes=None, on_bad_box="drop")
    assert f"{DOG}/{DOG}_1" not in [record.image_id for record in split.records]
    kinds = [(finding.kind, finding.severity) for finding in split.findings]
    assert kinds == [("swapped_corners", "warning"), ("image_without_box", "warning")]
    assert len(split.problems) == 1
    _edit(NOTES / "val" / f"{VAL_1}.xml", "<xmax>10", "<xmax>0")(root)
    split = localization_split(IlsvrcSource(root=root), "val", classes=None, on_bad_box="drop")
    assert VAL_1 not in [record.image_id for record in split.records]
    (left_out,) = (each for each in split.findings if each.kind == "image_without_box")
    assert (left_out.severity, left_out.outcome) == ("warning", "skipped")
    assert "all its boxes were dropped" in str(left_out)


def test_pets(shared_data: Path) -> None:
    root = shared_data / "pets_cls_loc"
    train = localization_split(IlsvrcSource(root=root), "train", classes=None)
    assert (len(train.records), train.findings) == (237, ())
    assert train.classes == ("n00000001", "n00000002", "n00000003")
    val = localization_split(IlsvrcSource(root=root), "val", classes=train.classes)
    assert len(val.records) == 59
    assert sum(len(record.annotation) for record in val.records) == 60
    # LOC_val_solution.csv: n00000001 142 60 223 136, which the XML counts from 1.
    assert val.records[0].annotation.boxes.tolist() == [[141.0, 59.0, 223.0, 136.0]]
    for record in (*train.records, *val.records):
        assert set(record.annotation.labels.tolist()) == {record.image_label}

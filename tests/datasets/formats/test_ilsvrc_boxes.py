"""ILSVRC CLS-LOC is read as distributed, and every fault becomes a finding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.findings import Finding
from resdet.datasets.formats import FORMATS
from resdet.datasets.formats.ilsvrc_files import read_list, read_mapping, read_solution
from resdet.detection.errors import DataError
from resdet.tests.datasets.formats.ilsvrc_tree import (
    CAT,
    DOG,
    write_ilsvrc,
    write_image,
    write_xml,
)
from resdet.tests.datasets.formats.sources import inspect, read


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_ilsvrc(tmp_path)
    return tmp_path


def _all(root: Path) -> list[Finding]:
    """Without the note on the image with two objects."""
    findings = [
        each
        for split in FORMATS["ilsvrc"].splits(root)
        for each in inspect("ilsvrc", root, split)[1]
    ]
    return [each for each in findings if each.kind != "several_objects"]


def test_a_good_folder(root: Path) -> None:
    assert list(FORMATS["ilsvrc"].splits(root)) == ["train", "val"]
    images, findings = inspect("ilsvrc", root, "train")
    assert findings == []
    assert read("ilsvrc", root, "train") == images
    assert [image.image_id for image in images] == [
        f"{name}/{name}_{number}" for name in (DOG, CAT) for number in range(2)
    ]
    assert [image.image_class for image in images] == [DOG, DOG, CAT, CAT]
    assert [len(image.objects) for image in images] == [1, 1, 1, 0]
    assert images[0].objects[0].box == (1.0, 2.0, 20.0, 25.0)
    assert images[0].size == (30, 40)


def test_the_image_with_two_objects_is_noted(root: Path) -> None:
    images, findings = inspect("ilsvrc", root, "val")
    assert [image.image_class for image in images] == [DOG, CAT, CAT]
    (note,) = findings
    assert (note.kind, note.severity, note.file.stem) == (
        "several_objects",
        "note",
        "ILSVRC2012_val_00000003",
    )
    assert note.image == images[2].path


def _edit(path: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / path).read_text()
        assert old in text
        (root / path).write_text(text.replace(old, new, 1))

    return change


VAL_1, VAL_3 = "ILSVRC2012_val_00000001", "ILSVRC2012_val_00000003"
VAL_LIST, SOLUTION = "ImageSets/CLS-LOC/val.txt", "LOC_val_solution.csv"
XML_1 = f"Annotations/CLS-LOC/val/{VAL_1}.xml"
PLANTED: dict[str, tuple[Callable[[Path], None], list[tuple[str, str]]]] = {
    "class outside the mapping": (
        _edit("LOC_synset_mapping.txt", f"{CAT} cat\n", ""),
        [("unknown_class", "error")] * 2,  # one a split
    ),
    "several classes in an XML": (
        _edit(f"Annotations/CLS-LOC/val/{VAL_3}.xml", CAT, DOG),
        [("several_classes", "error"), ("solution_mismatch", "warning")],
    ),
    "class of the XML is not the folder's": (
        _edit(f"Annotations/CLS-LOC/train/{DOG}/{DOG}_0.xml", DOG, CAT),
        [("other_class", "error")],
    ),
    "wrong class in the solution": (
        _edit(SOLUTION, f"{VAL_1},{DOG}", f"{VAL_1},{CAT}"),
        [("other_class", "error"), ("solution_mismatch", "warning")],
    ),
    "one box less in the solution": (
        _edit(SOLUTION, f" {CAT} 7 8 20 21", ""),
        [("solution_mismatch", "warning")],
    ),
    "no row in the solution": (
        _edit(SOLUTION, f"{VAL_1},{DOG} 1 1 10 10 \n", ""),
        [("missing_solution", "error")],
    ),
    "a row that the list lacks": (
        _edit(SOLUTION, f"{VAL_1},", f"other,{DOG} 1 1 5 5\n{VAL_1},"),
        [("unlisted_solution", "warning")],
    ),
    "four words": (
        _edit(SOLUTION, f"{VAL_1},{DOG} 1 1 10 10", f"{VAL_1},{DOG} 1 1 10"),
        [("malformed_file", "error"), ("missing_solution", "error")],
    ),
    "no number": (
        _edit(SOLUTION, f"{VAL_1},{DOG} 1 1 10 10", f"{VAL_1},{DOG} 1 1 10 nan"),
        [("malformed_file", "error"), ("missing_solution", "error")],
    ),
    "no header": (
        _edit(SOLUTION, "ImageId,PredictionString\n", "id;label\n"),
        [("malformed_file", "error")],
    ),
    "listed, but not there": (
        _edit(VAL_LIST, f"{VAL_1} 1", f"ILSVRC2012_val_00000009 4\n{VAL_1} 1"),
        [("missing_solution", "error"), ("missing_image", "error")],
    ),
    "there, but not listed": (
        lambda root: write_image(root / "Data" / "CLS-LOC" / "val" / "new.JPEG"),
        [("unlisted_image", "warning")],
    ),
    "listed twice": (
        _edit(VAL_LIST, f"{VAL_1} 1", f"{VAL_1} 1\n{VAL_1} 1"),
        [("listed_twice", "error")],
    ),
    "line of the list": (
        _edit(VAL_LIST, f"{VAL_1} 1", f"{VAL_1} one"),
        [
            ("malformed_file", "error"),
            ("unlisted_solution", "warning"),
            ("unlisted_image", "warning"),
        ],
    ),
    "malformed XML": (_edit(XML_1, "</object>", ""), [("malformed_xml", "error")]),
    "no XML of an image of val": (
        lambda root: (root / XML_1).unlink(),
        [("missing_annotation", "error")],
    ),
    "XML without image": (
        lambda root: write_xml(
            root / "Annotations" / "CLS-LOC" / "val" / "new.xml", (DOG, "1 1 5 5")
        ),
        [("orphan_annotation", "warning")],
    ),
    "no object": (
        lambda root: write_xml(root / "Annotations" / "CLS-LOC" / "train" / DOG / f"{DOG}_0.xml"),
        [("no_objects_in_image", "warning")],
    ),
    "other size": (_edit(XML_1, "<width>40", "<width>50"), [("size_mismatch", "error")]),
    "no mapping": (
        lambda root: (root / "LOC_synset_mapping.txt").unlink(),
        [("missing_file", "error")] * 2,  # reported for either split
    ),
    "line of the mapping": (
        _edit("LOC_synset_mapping.txt", f"{DOG} dog, hound", f"{DOG} dog, hound\n{DOG} twice"),
        [("malformed_file", "error")] * 2,
    ),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found_alone(fault: str, root: Path) -> None:
    assert _all(root) == []
    plant, expected = PLANTED[fault]
    plant(root)
    assert sorted((each.kind, each.severity) for each in _all(root)) == sorted(expected)


def test_errors_refuse_the_split(root: Path) -> None:
    PLANTED["wrong class in the solution"][0](root)
    with pytest.raises(DataError, match=VAL_1):
        read("ilsvrc", root, "val")
    assert len(read("ilsvrc", root, "train")) == 4


def test_train_loc_lists_images_with_boxes(root: Path) -> None:
    lists = root / "ImageSets" / "CLS-LOC"
    (lists / "train_cls.txt").rename(lists / "train_loc.txt")
    assert [each.kind for each in _all(root)] == ["missing_annotation"]


def test_an_empty_root(tmp_path: Path) -> None:
    assert FORMATS["ilsvrc"].splits(tmp_path) == {}
    images, findings = inspect("ilsvrc", tmp_path, "val")
    assert images == []
    assert {each.kind for each in findings} == {"missing_folder"}


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "file.txt"
    path.write_bytes(data)
    for reader in (read_mapping, read_list, read_solution):
        content, findings = reader(path)
        assert all(each.severity == "error" and each.file == path for each in findings)
        assert isinstance(content, dict | list)


def test_pets_have_exactly_one_image_with_two_objects(shared_data: Path) -> None:
    root = shared_data / "pets_cls_loc"
    images, findings = inspect("ilsvrc", root, "train")
    assert (len(images), findings) == (237, [])
    images, findings = inspect("ilsvrc", root, "val")
    assert len(images) == 59
    assert [(each.kind, each.file.name) for each in findings] == [
        ("several_objects", "ILSVRC2012_val_00000020.xml")
    ]

"""Class folders and ILSVRC are read with one class list; faults are errors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.catalog_classes import describe_labelled, labelled_split, labelled_splits
from resdet.datasets.formats.ilsvrc import class_names
from resdet.datasets.formats.ilsvrc_layout import IlsvrcSource
from resdet.datasets.formats.image_folder import FolderSource
from resdet.datasets.image import ImageRules
from resdet.detection.errors import DataError
from resdet.tests.datasets.formats.sources import inspect
from scipy.io import savemat

FOX, DOG, CAT = "n02119789", "n02100735", "n02123045"


def save(path: Path, colour: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (colour, colour, 0)).save(path, "JPEG")
    return path


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split, count in (("train", 4), ("val", 2)):
        for number, name in enumerate(("cat", "ant", "dog")):
            for index in range(count):
                save(tmp_path / split / name / f"{index}.jpg", 10 * number + index)
    return tmp_path


# -------------------------------------------------------------------------------- class folders


def test_one_class_list(folders: Path) -> None:
    train, val = labelled_splits(FolderSource(root=folders))
    assert train.classes == val.classes == ("ant", "cat", "dog")
    assert [record.image_label for record in train.records] == [0] * 4 + [1] * 4 + [2] * 4
    assert val.records[3].image_id == "cat/1.jpg" and val.records[3].size == (30, 40)
    assert all(len(record.annotation) == 0 for record in train.records)
    assert describe_labelled(val) == "images: 6, classes: 3 with 2 to 2 images each"


def test_labels_of_given_classes(folders: Path) -> None:
    order = ("dog", "wolf", "cat", "ant")
    val = labelled_split(FolderSource(root=folders), "val", classes=order)
    assert Counter(record.image_label for record in val.records) == {0: 2, 2: 2, 3: 2}
    [finding] = val.findings
    assert finding.kind == "class_missing_in_split" and "wolf" in str(finding)


def test_an_image_in_two_classes_is_told(folders: Path) -> None:
    """In its own part, with the other image; copies within a class are none of these."""
    (folders / "train/dog/9.jpg").write_bytes((folders / "train/cat/0.jpg").read_bytes())
    (folders / "train/cat/9.jpg").write_bytes((folders / "train/cat/0.jpg").read_bytes())
    (folders / "val/dog/9.jpg").write_bytes((folders / "train/ant/3.jpg").read_bytes())
    train, val = labelled_splits(FolderSource(root=folders))
    (in_train,), (in_val,) = (
        [each for each in part.findings if each.kind == "label_conflict"] for part in (train, val)
    )
    assert in_train.file == folders / "train/dog/9.jpg" and "cat/0.jpg" in in_train.reason
    assert in_val.file == folders / "val/dog/9.jpg" and "train/ant/3.jpg" in in_val.reason
    alone = labelled_split(FolderSource(root=folders), "train", classes=None)
    assert alone.findings == (in_train,)
    assert labelled_splits(FolderSource(root=folders, headers=False))[0].findings == ()


def test_headers_need_not_be_read(folders: Path) -> None:
    broken = folders / "train" / "cat" / "1.jpg"
    broken.write_text("<html>")
    with pytest.raises(DataError, match=r"1\.jpg.*not an image"):
        labelled_splits(FolderSource(root=folders))
    train, _ = labelled_splits(FolderSource(root=folders, headers=False))
    assert {record.size for record in train.records} == {(0, 0)} and len(train.records) == 12


def test_a_class_that_training_lacks(folders: Path) -> None:
    save(folders / "val" / "wolf" / "a.jpg")
    with pytest.raises(DataError, match=r"val/wolf: wolf: .* that training lacks"):
        labelled_splits(FolderSource(root=folders))


def test_an_empty_class_folder(folders: Path) -> None:
    (folders / "train" / "wolf").mkdir()
    with pytest.raises(DataError, match=r"train/wolf: wolf: the class folder has no images"):
        labelled_splits(FolderSource(root=folders))


def test_a_missing_split(folders: Path) -> None:
    with pytest.raises(DataError, match=r"validation: no such folder"):
        labelled_splits(FolderSource(root=folders, val="validation"))
    with pytest.raises(DataError, match="listed twice: cat"):
        labelled_splits(FolderSource(root=folders), classes=("ant", "cat", "dog", "cat"))


# ------------------------------------------------------------------------------------- hold-out


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    for name, count in (("ant", 20), ("cat", 10), ("dog", 2)):
        for index in range(count):
            save(tmp_path / name / f"{index}.jpg", len(list(tmp_path.rglob("*.jpg"))))
    return tmp_path


def test_held_out_images_have_the_class_frequencies_of_the_whole(whole: Path) -> None:
    source = FolderSource(root=whole, train=".", val_fraction=0.2)
    train, val = labelled_splits(source)
    assert Counter(record.image_label for record in val.records)[0] == 4
    assert Counter(record.image_label for record in val.records)[1] == 2
    assert Counter(record.image_label for record in train.records)[2] >= 1
    ids = [record.image_id for record in (*train.records, *val.records)]
    assert len(ids) == len(set(ids)) == 32
    again = labelled_splits(source)[1]
    assert [r.image_id for r in again.records] == [r.image_id for r in val.records]
    other = labelled_splits(FolderSource(root=whole, train=".", val_fraction=0.2, split_seed=1))[1]
    assert {r.image_id for r in other.records} != {r.image_id for r in val.records}
    alone = labelled_split(source, "val", classes=train.classes)
    assert [r.image_id for r in alone.records] == [r.image_id for r in val.records]


def test_copies_are_held_out_together(whole: Path) -> None:
    for index in range(10):
        (whole / "cat" / f"copy{index}.jpg").write_bytes((whole / "cat" / "0.jpg").read_bytes())
    splits = labelled_splits(FolderSource(root=whole, train=".", val_fraction=0.4))
    copies = [
        sum("copy" in record.image_id or record.image_id == "cat/0.jpg" for record in split.records)
        for split in splits
    ]
    assert sorted(copies) == [0, 11]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_impossible_fractions(tmp_path: Path, fraction: float) -> None:
    with pytest.raises(ValueError, match="val_fraction"):
        FolderSource(root=tmp_path, val_fraction=fraction)


# --------------------------------------------------------------------------------------- ILSVRC


def images(data: Path) -> None:
    """Two training images of each class and three of val."""
    for wnid in (FOX, DOG, CAT):
        for number in range(2):
            save(data / "train" / wnid / f"{wnid}_{number}.JPEG")
    for number in (1, 2, 3):
        save(data / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    """The academic download: classes numbered otherwise than sorted. Image 1 is a cat."""
    images(tmp_path)
    data = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n2\n")
    fields = [("ILSVRC2012_ID", "f8"), ("WNID", "O"), ("words", "O"), ("num_children", "f8")]
    rows = [(1, FOX, "fox", 0), (2, DOG, "dog", 0), (3, CAT, "cat", 0), (4, "n1", "animal", 3)]
    savemat(data / "meta.mat", {"synsets": np.array(rows, dtype=fields)[:, None]})
    return tmp_path


@pytest.fixture
def kaggle(tmp_path: Path) -> Path:
    images(tmp_path / "Data" / "CLS-LOC")
    rows = [f"ILSVRC2012_val_0000000{n},{w} 1 1 9 9" for n, w in ((1, CAT), (2, FOX), (3, DOG))]
    text = "\n".join(["ImageId,PredictionString", *rows])
    (tmp_path / "LOC_val_solution.csv").write_text(text + "\n")
    names = f"{FOX} kit fox, Vulpes\n{DOG} English setter\n{CAT} tabby\n"
    (tmp_path / "LOC_synset_mapping.txt").write_text(names)
    return tmp_path


def val_labels(root: Path) -> list[int | None]:
    return [
        r.image_label for r in labelled_splits(IlsvrcSource(root=root, headers=True))[1].records
    ]


def test_the_development_kit(kit: Path) -> None:
    train, val = labelled_splits(IlsvrcSource(root=kit, headers=True))
    assert train.classes == (DOG, FOX, CAT)  # sorted wnids, as in published models
    assert [record.image_label for record in val.records] == [2, 1, 0]
    assert val.records[0].image_id == "ILSVRC2012_val_00000001.JPEG"
    assert [record.image_label for record in train.records] == [0, 0, 1, 1, 2, 2]


def test_the_later_kit_says_the_numbers_as_text(kit: Path) -> None:
    data = kit / "ILSVRC2012_devkit_t12" / "data"
    (data / "meta.mat").unlink()
    (data / "map_clsloc.txt").write_text(f"{FOX} 1 kit_fox\n{DOG} 2 setter\n{CAT} 3 tabby\n")
    assert val_labels(kit) == [2, 1, 0]


def test_kaggle(kaggle: Path) -> None:
    assert val_labels(kaggle) == [2, 1, 0]
    assert class_names(kaggle)[FOX] == "kit fox, Vulpes"


def test_val_sorted_into_class_folders(kit: Path) -> None:
    for number, wnid in ((1, CAT), (2, FOX), (3, DOG)):
        image = kit / "val" / f"ILSVRC2012_val_{number:08d}.JPEG"
        (kit / "val" / wnid).mkdir()
        image.rename(kit / "val" / wnid / image.name)
    assert val_labels(kit) == [0, 1, 2]  # by folder


def truth(kit: Path) -> Path:
    return kit / "ILSVRC2012_devkit_t12" / "data" / "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\n1\n", r"ground_truth\.txt: 2 lines for 3 images"),
        ("3\n1\n2\n2\n", r"ground_truth\.txt: line 4: no image for it \(4 lines for 3 images"),
        ("3\n1\n5\n", r"ground_truth\.txt: line 3: no class has the number 5 \(1\.\.3\)"),
        ("3\n1\nfox\n", r"ground_truth\.txt: line 3: 'fox': expected a class's number"),
        ("", r"ground_truth\.txt: 0 lines for 3 images"),
    ],
)
def test_a_wrong_ground_truth(kit: Path, text: str, message: str) -> None:
    truth(kit).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        val_labels(kit)
    assert "\n" not in str(caught.value)


def test_a_kit_that_lacks_files(kit: Path) -> None:
    meta = truth(kit).with_name("meta.mat")
    meta.write_bytes(meta.read_bytes()[:100])
    with pytest.raises(DataError, match=r"meta\.mat: cannot be read"):
        val_labels(kit)
    meta.unlink()
    with pytest.raises(DataError, match=r"neither meta\.mat nor map_clsloc\.txt"):
        val_labels(kit)
    truth(kit).unlink()
    with pytest.raises(DataError, match=r"val: nothing says the classes of its images"):
        val_labels(kit)


def test_val_images_named_otherwise(kit: Path) -> None:
    image = kit / "val" / "ILSVRC2012_val_00000002.JPEG"
    image.rename(image.with_name("ILSVRC2012_val_00000200.JPEG"))
    with pytest.raises(DataError, match=r"00000200\.JPEG: its number is not one of the lines 1..3"):
        val_labels(kit)


def test_a_solution_of_other_images(kaggle: Path) -> None:
    path = kaggle / "LOC_val_solution.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:-1], "ILSVRC2012_val_00000009,n02119789 1 1 9 9"]))
    with pytest.raises(DataError, match="no row for the image ILSVRC2012_val_00000003") as caught:
        val_labels(kaggle)
    assert "ILSVRC2012_val_00000009: no image for the row" in str(caught.value)


def test_an_unknown_wnid_in_the_solution(kaggle: Path) -> None:
    path = kaggle / "LOC_val_solution.csv"
    path.write_text(path.read_text().replace(DOG, "n99999999"))
    with pytest.raises(DataError, match=r"solution\.csv: n99999999: line 4: first at ILSVRC2012"):
        val_labels(kaggle)


def test_an_unknown_wnid_among_the_folders(kaggle: Path) -> None:
    save(kaggle / "Data" / "CLS-LOC" / "train" / "n99999999" / "a.JPEG")
    images, findings = inspect("ilsvrc", kaggle, "train", headers=True)
    assert len(images) == 7
    assert [(each.kind, each.object) for each in findings] == [("unknown_class", "n99999999")]


def test_pets_are_read_as_kaggle_distributes(shared_data: Path) -> None:
    train, val = labelled_splits(IlsvrcSource(root=shared_data / "pets_cls_loc", headers=True))
    assert (len(train.records), len(val.records), len(train.classes)) == (237, 59, 3)
    assert {record.image_label for record in val.records} == {0, 1, 2}


def test_caltech_as_it_is_and_with_a_part_held_out(shared_data: Path) -> None:
    train, val = labelled_splits(FolderSource(root=shared_data / "caltech40"))
    assert (len(train.records), len(val.records), len(train.classes)) == (1070, 357, 40)
    source = FolderSource(root=shared_data / "caltech40", val_fraction=0.25, headers=False)
    rest, held = labelled_splits(source)
    assert len(rest.records) + len(held.records) == 1070
    counts = Counter(record.image_label for record in held.records)
    assert len(counts) == 40 and max(counts.values()) - min(counts.values()) <= 2


@pytest.mark.parametrize("which", ["kit", "kaggle"])
def test_missing_validation_images_are_skipped_one_by_one(
    which: str, request: pytest.FixtureRequest
) -> None:
    root = request.getfixturevalue(which)
    [image] = root.rglob("ILSVRC2012_val_00000002.JPEG")
    image.unlink()
    source = IlsvrcSource(root=root, headers=True)
    with pytest.raises(DataError, match=r"data\.on_bad_image=skip"):
        labelled_splits(source)
    _, val = labelled_splits(source, rules=ImageRules(min_side=1, on_bad_image="skip"))
    assert [record.image_label for record in val.records] == [2, 0]
    assert [finding.outcome for finding in val.findings if finding.outcome] == ["skipped"]

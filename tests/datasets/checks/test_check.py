"""Each kind of fault, added once to a clean data set, is reported, and nothing else."""

from __future__ import annotations

import copy
import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.checks.check import DataSet, Effort, Report, check
from resdet.datasets.checks.report import report_as_dict, write_report
from resdet.datasets.checks.sources import folder_data
from resdet.datasets.checks.statistics import Anchors
from resdet.datasets.class_names import similar_names
from resdet.datasets.finding_kinds import KINDS
from resdet.datasets.formats import FORMATS, recognise
from resdet.datasets.records import RawImage, RawObject

#: (kind, name of the file, object)
Named = tuple[str, str, str]
WIDTH, HEIGHT = 64, 48
TRAIN = [f"t{number:02d}" for number in range(60)]
VAL = ["v00", "v01"]


def _draw(path: Path, seed: int, quality: int = 92) -> None:
    """Coloured cells, so that no two are alike."""
    cells = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(cells).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)
    image.save(path, quality=quality)


def _named(report: Report) -> set[Named]:
    for finding in report.findings:
        assert finding.severity in KINDS[finding.kind][0], finding
    named = [(finding.kind, finding.file.name, finding.object) for finding in report.findings]
    assert len(named) == len(set(named))
    return set(named)


# ---------------------------------------------------------------------------------- VOC

CLASSES = ("dog", "cat", "bird")


def _box(x1: object, y1: object, x2: object, y2: object) -> str:
    return f"<bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>"


DOG = _box(5, 6, 30, 40)
CAT = _box(20, 1, 64, 48)


@pytest.fixture(scope="module")
def clean_voc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a dog and a cat each, the last one with a bird as well."""
    root = tmp_path_factory.mktemp("voc") / "VOC"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for seed, stem in enumerate([*TRAIN, *VAL]):
        _draw(root / "JPEGImages" / f"{stem}.jpg", seed)
        bird = f"<object><name>bird</name>{_box(2, 2, 9, 9)}</object>" if stem == TRAIN[-1] else ""
        (root / "Annotations" / f"{stem}.xml").write_text(
            f"<annotation><filename>{stem}.jpg</filename>"
            f"<size><width>{WIDTH}</width><height>{HEIGHT}</height></size>"
            f"<object><name>dog</name>{DOG}</object><object><name>cat</name>{CAT}</object>"
            f"{bird}</annotation>"
        )
    for name, stems in (("train", TRAIN), ("val", VAL), ("trainval", TRAIN + VAL)):
        (root / "ImageSets" / "Main" / f"{name}.txt").write_text("\n".join(stems) + "\n")
    return root


class Voc:
    """A copy to damage; most faults have their own image."""

    def __init__(self, root: Path, stem: str) -> None:
        self.root, self.stem = root, stem
        self.image = root / "JPEGImages" / f"{stem}.jpg"
        self.xml = root / "Annotations" / f"{stem}.xml"

    def edit(self, old: str, new: str, path: Path | None = None) -> None:
        path = path or self.xml
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def list_again(self, split: str, line: str) -> None:
        path = self.root / "ImageSets" / "Main" / f"{split}.txt"
        path.write_text(path.read_text() + line + "\n")

    def delist(self) -> None:
        for path in (self.root / "ImageSets" / "Main").glob("*.txt"):
            path.write_text(path.read_text().replace(f"{self.stem}\n", ""))


def _first_dog(box: str) -> Callable[[Voc], None]:
    return lambda voc: voc.edit(DOG, box)


def _remove_image(voc: Voc) -> None:
    voc.image.unlink()


def _orphan_annotation(voc: Voc) -> None:
    voc.image.unlink()
    voc.delist()


def _orphan_image(voc: Voc) -> None:
    voc.xml.unlink()
    voc.delist()


def _named_by_xml(voc: Voc, *, listed: bool) -> None:
    """The XML has another name than its image, which its <filename> names."""
    voc.delist()
    voc.xml.rename(voc.xml.with_stem(f"x{voc.stem}"))
    if listed:
        voc.list_again("train", f"x{voc.stem}")


def _only_difficult(voc: Voc) -> None:
    """The only bird, which training leaves out."""
    xml = voc.xml.with_stem(TRAIN[-1])
    voc.edit("<name>bird</name>", "<name>bird</name><difficult>1</difficult>", xml)


def _second_image(voc: Voc) -> None:
    shutil.copy(voc.image, voc.image.with_suffix(".png"))


def _cut_xml(voc: Voc) -> None:
    voc.xml.write_text(voc.xml.read_text()[:60])


def _cut_image(voc: Voc) -> None:
    data = voc.image.read_bytes()
    voc.image.write_bytes(data[: len(data) * 2 // 3])


def _zeroed(voc: Voc) -> None:
    data = voc.image.read_bytes()
    middle = len(data) // 2
    voc.image.write_bytes(data[:middle] + bytes(100) + data[middle + 100 :])


def _entities(voc: Voc) -> None:
    voc.xml.write_text('<!DOCTYPE x [<!ENTITY e "boom">]><annotation>&e;</annotation>')


def _rotate(voc: Voc) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(voc.image).save(voc.image, exif=exif)


def _same_file(voc: Voc) -> None:
    shutil.copy(voc.root / "JPEGImages" / f"{TRAIN[0]}.jpg", voc.image)


def _same_scene(voc: Voc) -> None:
    _draw(voc.image, seed=1, quality=60)


def _copy_into_val(voc: Voc) -> None:
    shutil.copy(voc.image, voc.root / "JPEGImages" / "v00.jpg")


def _in_val_too(voc: Voc) -> None:
    voc.list_again("val", voc.stem)


def _bomb(voc: Voc) -> None:
    """A PNG whose header says 60000x60000."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    end = b"IDAT"
    voc.image.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk
        + struct.pack(">I", 0)
        + end
        + struct.pack(">I", zlib.crc32(end))
    )


def _small(voc: Voc) -> None:
    Image.new("RGB", (8, 8)).save(voc.image)


def _grey(voc: Voc) -> None:
    Image.open(voc.image).convert("L").save(voc.image)


def _png(voc: Voc) -> None:
    Image.open(voc.image).save(voc.image, format="PNG")


OBJECT = "object 1 (dog)"
#: name: what to do, and the findings for image {s}
VOC_FAULTS: dict[str, tuple[Callable[[Voc], None], set[Named]]] = {
    "missing image": (_remove_image, {("missing_image", "{s}.xml", "{s}")}),
    "missing annotation": (
        lambda voc: voc.xml.unlink(),
        {("missing_annotation", "train.txt", "{s}")},
    ),
    "annotation alone": (_orphan_annotation, {("orphan_annotation", "{s}.xml", "")}),
    "image alone": (_orphan_image, {("orphan_image", "{s}.jpg", "")}),
    "image named by <filename>": (
        partial(_named_by_xml, listed=True),
        set(),
    ),
    "named by <filename>, not listed": (
        partial(_named_by_xml, listed=False),
        {("unlisted_image", "Main", "")},
    ),
    "only difficult": (_only_difficult, {("absent_class", "VOC", "bird")}),
    "not listed": (Voc.delist, {("unlisted_image", "Main", "")}),
    "listed twice": (
        lambda voc: voc.list_again("train", voc.stem),
        {("listed_twice", "train.txt", "{s}")},
    ),
    "two images": (_second_image, {("ambiguous_image", "train.txt", "{s}")}),
    "empty image set": (
        lambda voc: (voc.root / "ImageSets" / "Main" / "extra.txt").write_text("\n") and None,
        {("empty_image_set", "extra.txt", "")},
    ),
    "cut XML": (_cut_xml, {("malformed_xml", "{s}.xml", "")}),
    "entities": (_entities, {("malformed_xml", "{s}.xml", "")}),
    "comma of thousands": (
        _first_dog(_box("5,500", 6, 30, 40)),
        {("not_a_number", "{s}.xml", OBJECT)},
    ),
    "unclear difficult": (
        _first_dog(DOG + "<difficult>maybe</difficult>"),
        {("unclear_difficult", "{s}.xml", OBJECT)},
    ),
    "no name": (lambda voc: voc.edit("dog", " "), {("unnamed_object", "{s}.xml", "object 1")}),
    "no box": (_first_dog(""), {("missing_box", "{s}.xml", OBJECT)}),
    "two boxes": (_first_dog(DOG + DOG), {("several_boxes", "{s}.xml", OBJECT)}),
    "swapped": (
        _first_dog(_box(30, 6, 5, 40)),
        {("swapped_corners", "{s}.xml", "{s}.jpg: " + OBJECT)},
    ),
    "outside": (
        _first_dog(_box(100, 6, 130, 40)),
        {("outside_image", "{s}.xml", "{s}.jpg: " + OBJECT)},
    ),
    "mostly outside": (
        _first_dog(_box(60, 6, 100, 40)),
        {("partly_outside", "{s}.xml", "{s}.jpg: " + OBJECT)},
    ),
    "a bit outside": (
        _first_dog(_box(40, 6, 65, 40)),
        {("partly_outside", "{s}.xml", "{s}.jpg: " + OBJECT)},
    ),
    "NaN": (
        _first_dog(_box("nan", 6, 30, 40)),
        {("non_finite_box", "{s}.xml", "{s}.jpg: " + OBJECT)},
    ),
    "one pixel": (
        _first_dog(_box(5, 6, 5, 6)),
        {("tiny_box", "{s}.xml", "{s}.jpg: " + OBJECT)},
    ),
    "object twice": (
        lambda voc: voc.edit("</object>", f"</object><object><name>dog</name>{DOG}</object>"),
        {("duplicate_object", "{s}.xml", "{s}.jpg: object 2 (dog)")},
    ),
    "counted from zero": (
        _first_dog(_box(0, 6, 30, 40)),
        {
            ("zero_based_coordinates", "{s}.xml", ""),
            ("partly_outside", "{s}.xml", "{s}.jpg: " + OBJECT),
        },
    ),
    "wrong size": (
        lambda voc: voc.edit("<width>64", "<width>65"),
        {("size_mismatch", "{s}.xml", "<size>")},
    ),
    "rotated": (
        _rotate,
        {("size_matches_unrotated", "{s}.xml", "<size>"), ("rotated_image", "{s}.jpg", "")},
    ),
    "another file's name": (
        lambda voc: voc.edit(f"{voc.stem}.jpg", r"C:\images\other.jpg"),
        {("other_filename", "{s}.xml", "")},
    ),
    "in two splits": (_in_val_too, {("listed_in_two_splits", "{s}.xml", "image {s}")}),
    "unknown class": (
        lambda voc: voc.edit("dog", "quokka"),
        {("unknown_class", "{s}.xml", "'quokka'")},
    ),
    "misspelt class": (
        lambda voc: voc.edit("dog", "Dogg"),
        {("misspelt_class", "{s}.xml", "'Dogg'")},
    ),
    "class without objects": (
        lambda voc: voc.edit("bird", "dog", voc.root / "Annotations" / f"{TRAIN[-1]}.xml"),
        {("absent_class", "VOC", "bird")},
    ),
    "empty image": (
        lambda voc: voc.image.write_bytes(b"") and None,
        {("undecodable_image", "{s}.jpg", "")},
    ),
    "a web page": (
        lambda voc: voc.image.write_text("<html></html>") and None,
        {("undecodable_image", "{s}.jpg", "")},
    ),
    "zeros inside the image": (_zeroed, {("damaged_image", "{s}.jpg", "")}),
    "bomb": (_bomb, {("oversized_image", "{s}.jpg", "")}),
    "tiny image": (_small, {("tiny_image", "{s}.jpg", "")}),
    "cut image": (_cut_image, {("truncated_image", "{s}.jpg", "")}),
    "grey": (_grey, {("unusual_mode", "{s}.jpg", "")}),
    "PNG named jpg": (_png, {("wrong_extension", "{s}.jpg", "")}),
    "same file": (_same_file, {("same_image", "{s}.jpg", "")}),
    "nearly the same": (_same_scene, {("similar_image", "{s}.jpg", "")}),
    "training image in val": (_copy_into_val, {("same_image_in_splits", "v00.jpg", "")}),
}


def _expected(named: set[Named], stem: str) -> set[Named]:
    return {(kind, file.format(s=stem), where.format(s=stem)) for kind, file, where in named}


def _check_voc(root: Path) -> Report:
    return check(folder_data(root, recognise(root).format, classes=CLASSES))


@pytest.fixture
def voc(clean_voc: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean_voc, tmp_path / "VOC"))


def test_a_clean_voc_folder_has_no_findings(clean_voc: Path) -> None:
    report = _check_voc(clean_voc)
    assert report.findings == ()
    assert [(split.name, split.images, split.objects) for split in report.splits] == [
        ("train", 60, 121),
        ("val", 2, 4),
    ]
    assert [(each.name, each.objects) for each in report.classes] == [
        ("dog", (60, 2)),
        ("cat", (60, 2)),
        ("bird", (1, 0)),
    ]
    assert report.images_checked == 62


@pytest.mark.parametrize("fault", VOC_FAULTS)
def test_one_fault_in_a_voc_folder(voc: Path, fault: str) -> None:
    spoil, named = VOC_FAULTS[fault]
    spoil(Voc(voc, TRAIN[10]))
    assert _named(_check_voc(voc)) == _expected(named, TRAIN[10])


def test_all_faults_in_one_voc_folder(voc: Path) -> None:
    expected = set()
    for stem, (spoil, named) in zip(TRAIN[10:], VOC_FAULTS.values(), strict=False):
        spoil(Voc(voc, stem))
        expected |= _expected(named, stem)
    assert len(VOC_FAULTS) <= len(TRAIN[10:-1])
    report = _check_voc(voc)
    assert _named(report) == expected
    ranks = [("error", "warning", "note").index(finding.severity) for finding in report.findings]
    assert ranks == sorted(ranks)


def test_without_decoding_headers_are_checked(voc: Path) -> None:
    for stem, fault in zip(TRAIN, ("a web page", "nearly the same", "cut image"), strict=False):
        VOC_FAULTS[fault][0](Voc(voc, stem))
    report = check(folder_data(voc, FORMATS["voc"], classes=CLASSES), Effort(decode=False))
    assert _named(report) == {("unreadable_image", "t00.jpg", "")}
    assert report.images_checked == 0


def test_names_that_differ_in_case_only(voc: Path) -> None:
    Voc(voc, TRAIN[3]).edit("dog", "Dog")
    report = check(folder_data(voc, FORMATS["voc"]))
    assert ("similar_classes", "t03.xml", "'Dog'") in _named(report)


def _similar(names: dict[str, int]) -> list[str]:
    objects = [RawObject(name, (0, 0, 9, 9)) for name, count in names.items() for _ in range(count)]
    image = RawImage("a", Path("a.jpg"), (10, 10), tuple(objects), Path("a.xml"))
    return [finding.reason for finding in similar_names([image])]


def test_rare_names_that_are_nearly_frequent_ones() -> None:
    names = {"square": 99, "sqaure": 2, "squares": 4, "cat": 100, "cut": 1}
    names |= {"type 1": 200, "type 2": 1, "circle": 100, "star": 1}
    # squares: too many to be misspelt
    assert _similar(names) == ["'sqaure' x2 is nearly 'square' x99"]


@pytest.mark.parametrize("wrong", ["sqaure", "squar", "sqquare", "squore", "quares"])
def test_a_slip_in_a_name_of_few_objects(wrong: str) -> None:
    names = {"circle": 60, "square": 49, "squire": 12, wrong: 1}
    assert _similar(names) == [f"{wrong!r} x1 is nearly 'square' x49"]


def test_no_slips() -> None:
    assert not _similar({"carrot": 800, "parrot": 6, "baseball": 900, "basketball": 1})
    assert not _similar({"square": 29, "sqaure": 3})


def test_many_names_are_compared_in_no_time() -> None:
    generator = np.random.default_rng(0)
    usual = generator.choice(list("abcdefghijklmno"), (5000, 12))
    rare = generator.choice(list("pqrstuvwxyz"), (5000, 12))
    names = {"".join(row): 10 for row in usual} | {"".join(row): 1 for row in rare}
    start = time.process_time()
    assert not _similar(names)
    assert time.process_time() - start < 2


def test_without_image_sets_every_annotation_is_read(voc: Path) -> None:
    shutil.rmtree(voc / "ImageSets")
    report = _check_voc(voc)
    assert [(split.name, split.images) for split in report.splits] == [("all", 62)]
    assert report.findings == ()


def test_image_sets_of_one_class_and_unions_are_not_splits(voc: Path) -> None:
    flags = "\n".join(f"{stem}  {'-1' if stem == 't00' else ' 1'}" for stem in TRAIN)
    (voc / "ImageSets" / "Main" / "dog_train.txt").write_text(flags)
    report = _check_voc(voc)
    assert [split.name for split in report.splits] == ["train", "val"]
    assert report.findings == ()


# ---------------------------------------------------------------------------------- COCO

Content = dict[str, Any]


@pytest.fixture(scope="module")
def clean_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``annotations/instances_train.json`` with images 1..30 in ``train``; val has one."""
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    for split, first, last in (("train", 1, 31), ("val", 31, 32)):
        (root / split).mkdir()
        content: Content = {
            "images": [],
            "annotations": [],
            "categories": [{"id": 18, "name": "dog"}, {"id": 7, "name": "cat"}],
        }
        for number in range(first, last):
            _draw(root / split / f"{number}.jpg", number)
            size = {"width": WIDTH, "height": HEIGHT}
            content["images"].append({"id": number, "file_name": f"{number}.jpg", **size})
            for offset, (category, box) in enumerate(
                [(18, [0, 4, 20.5, 30]), (7, [10, 0, WIDTH - 10, HEIGHT])]
            ):
                entry = {"id": 10 * number + offset, "image_id": number, "category_id": category}
                content["annotations"].append({**entry, "bbox": box, "iscrowd": 0, "area": 1})
        path = root / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))
    return root


class Coco:
    """The arguments of a fault: the content, image ``n`` and its first annotation."""

    def __init__(self, root: Path, content: Content, number: int) -> None:
        self.root, self.content, self.n = root, content, number
        self.image = next(each for each in content["images"] if each["id"] == number)
        self.dog = next(each for each in content["annotations"] if each["image_id"] == number)
        self.path = root / "train" / f"{number}.jpg"

    def add(self, key: str, entry: Content, **changes: object) -> None:
        self.content[key].append({**copy.deepcopy(entry), **changes})


def _set(**values: object) -> Callable[[Coco], None]:
    return lambda coco: coco.dog.update(values)


def _set_image(**values: object) -> Callable[[Coco], None]:
    return lambda coco: coco.image.update(values)


def _rotate_coco(coco: Coco) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(coco.path).save(coco.path, exif=exif)


def _permute(coco: Coco) -> None:
    path = coco.root / "annotations" / "instances_val.json"
    content = json.loads(path.read_text())
    first, second = content["categories"]
    first["id"], second["id"] = second["id"], first["id"]
    for entry in content["annotations"]:
        entry["category_id"] = {18: 7, 7: 18}[entry["category_id"]]
    path.write_text(json.dumps(content))


def _new_id(coco: Coco) -> None:
    coco.add("images", coco.image, id=1000)


WHERE = "{n}.jpg: annotation {n}0 (dog)"
JSON = "instances_train.json"
COCO_FAULTS: dict[str, tuple[Callable[[Coco], None], set[Named]]] = {
    "missing image": (
        lambda coco: coco.path.unlink(),
        {("missing_image", JSON, "image {n}")},
    ),
    "no file name": (
        lambda coco: coco.image.pop("file_name") and None,
        {("bad_image", JSON, "image {n}"), ("unlisted_image", "train", "")},
    ),
    "a name too long for a file": (
        _set_image(file_name="long" * 2000),
        {("missing_image", JSON, "image {n}"), ("unlisted_image", "train", "")},
    ),
    "no pixel count": (_set_image(width="64 px"), {("bad_image", JSON, "image {n}")}),
    "wrong size": (_set_image(width=65), {("size_mismatch", JSON, "image {n}")}),
    "rotated": (
        _rotate_coco,
        {("size_matches_unrotated", JSON, "image {n}"), ("rotated_image", "{n}.jpg", "")},
    ),
    "image id twice": (
        lambda coco: coco.add("images", coco.image),
        {("image_id_twice", JSON, "image {n}")},
    ),
    "listed twice": (_new_id, {("listed_twice", JSON, "image 1000")}),
    "not listed": (
        lambda coco: _draw(coco.root / "train" / "more.jpg", 99),
        {("unlisted_image", "train", "")},
    ),
    "category id twice": (
        lambda coco: coco.add("categories", {"id": 18, "name": "wolf"}),
        {("category_id_twice", JSON, "category 18")},
    ),
    "category name twice": (
        lambda coco: coco.add("categories", {"id": 19, "name": "dog"}),
        {("category_name_twice", JSON, "category 19")},
    ),
    "category without name": (
        lambda coco: coco.add("categories", {"id": 20}),
        {("bad_category", JSON, "")},
    ),
    "permuted categories": (
        _permute,
        {
            ("permuted_classes", "instances_val.json", "category 7"),
            ("permuted_classes", "instances_val.json", "category 18"),
        },
    ),
    "unknown image": (_set(image_id=999), {("unknown_image", JSON, "annotation {n}0")}),
    "unknown category": (_set(category_id=99), {("unknown_category", JSON, "annotation {n}0")}),
    "box of words": (
        _set(bbox=["a", 1, 2, 3]),
        {("malformed_object", JSON, "annotation {n}0")},
    ),
    "three numbers": (_set(bbox=[1, 2, 3]), {("malformed_object", JSON, "annotation {n}0")}),
    "null box": (_set(bbox=None), {("non_finite_box", JSON, WHERE)}),
    "no area": (_set(bbox=[5, 5, 0, 9]), {("no_area", JSON, WHERE)}),
    "negative width": (_set(bbox=[30, 5, -9, 9]), {("swapped_corners", JSON, WHERE)}),
    "outside": (_set(bbox=[90, 5, 9, 9]), {("outside_image", JSON, WHERE)}),
    "mostly outside": (_set(bbox=[60, 5, 19, 9]), {("partly_outside", JSON, WHERE)}),
    "half a pixel": (_set(bbox=[9, 5, 0.5, 9]), {("tiny_box", JSON, WHERE)}),
    "object twice": (
        lambda coco: coco.add("annotations", coco.dog, id=5000),
        {("duplicate_object", JSON, "{n}.jpg: annotation 5000 (dog)")},
    ),
    "annotation id zero": (_set(id=0), {("annotation_id_zero", JSON, "annotation 0")}),
    "annotation id twice": (
        lambda coco: coco.dog.update(id=11),
        {("annotation_id_twice", JSON, "annotation 11")},
    ),
    "no iscrowd": (
        lambda coco: coco.dog.pop("iscrowd") and None,
        {("missing_iscrowd", JSON, "")},
    ),
}


def _plant(root: Path, numbers: dict[str, int]) -> set[Named]:
    path = root / "annotations" / JSON
    content = json.loads(path.read_text())
    expected = set()
    for fault, number in numbers.items():
        spoil, named = COCO_FAULTS[fault]
        spoil(Coco(root, content, number))
        expected |= {
            (kind, file.format(n=number), where.format(n=number)) for kind, file, where in named
        }
    path.write_text(json.dumps(content))
    return expected


@pytest.fixture
def coco(clean_coco: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean_coco, tmp_path / "coco"))


def _check_coco(root: Path) -> Report:
    return check(folder_data(root, recognise(root).format))


def test_a_clean_coco_folder_has_no_findings(clean_coco: Path) -> None:
    report = _check_coco(clean_coco)
    assert report.findings == ()
    assert [(split.name, split.images) for split in report.splits] == [("train", 30), ("val", 1)]


@pytest.mark.parametrize("fault", COCO_FAULTS)
def test_one_fault_in_a_coco_file(coco: Path, fault: str) -> None:
    expected = _plant(coco, {fault: 4})
    assert _named(_check_coco(coco)) == expected


@pytest.mark.parametrize(("listed", "kind"), [("dog", "unknown_class"), ("hog", "misspelt_class")])
def test_a_category_beside_a_similar_one_is_not_misspelt(
    coco: Path, listed: str, kind: str
) -> None:
    """Where the file lists ``dogs`` beside ``dog``, they are two classes."""
    for path in (coco / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        content["categories"] = [{"id": 18, "name": "dogs"}, {"id": 7, "name": "cat"}]
        content["categories"].append({"id": 9, "name": listed})
        path.write_text(json.dumps(content))
    report = check(folder_data(coco, FORMATS["coco"], classes=("cat", "dog")), Effort(decode=False))
    errors = [finding for finding in report.findings if finding.severity == "error"]
    assert {(finding.kind, finding.object) for finding in errors} == {(kind, "'dogs'")}
    assert all(("did you mean" in finding.reason) == (listed == "hog") for finding in errors)


def test_all_faults_in_one_coco_file(coco: Path) -> None:
    assert len(COCO_FAULTS) <= 29
    expected = _plant(coco, {fault: number for number, fault in enumerate(COCO_FAULTS, 2)})
    assert _named(_check_coco(coco)) == expected


@pytest.mark.parametrize(
    ("text", "kind", "where"),
    [
        ('{"images": [\n  {"id": 1,', "malformed_json", "line 2 column "),
        ("", "malformed_json", "line 1 column 1"),
        ("[]", "malformed_json", ""),
        ('{"images": [], "annotations": []}', "missing_key", ""),
    ],
)
def test_a_json_that_cannot_be_read(coco: Path, text: str, kind: str, where: str) -> None:
    (coco / "annotations" / JSON).write_text(text)
    report = _check_coco(coco)
    (error,) = (finding for finding in report.findings if finding.severity == "error")
    assert (error.kind, error.file.name) == (kind, JSON)
    assert re.match(where, error.object)
    assert [split.images for split in report.splits] == [0, 1]  # the other split was checked


def test_two_annotation_files_with_the_same_name_are_both_checked(
    coco: Path, tmp_path: Path
) -> None:
    files = [coco / "annotations" / JSON, tmp_path / JSON]
    shutil.copy(*files)
    report = check(
        folder_data(coco / "train", FORMATS["coco"], annotations=files), Effort(decode=False)
    )
    assert [(split.name, split.images) for split in report.splits] == [
        (str(file), 30) for file in files
    ]
    assert {finding.kind for finding in report.findings} == {"listed_in_two_splits"}


def test_a_byte_order_mark_is_no_fault(coco: Path) -> None:
    path = coco / "annotations" / JSON
    path.write_text(path.read_text(), "utf-8-sig")
    assert _check_coco(coco).findings == ()


# ---------------------------------------------------------------------------------- the report


def test_real_blood_cells(shared_data: Path) -> None:
    root = shared_data / "bccd"
    report = check(folder_data(root, recognise(root).format), Effort(decode=False))
    assert _named(report) == {
        ("tiny_box", "BloodImage_00338.xml", "BloodImage_00338.jpg: object 13 (RBC)"),
        ("tiny_box", "BloodImage_00343.xml", "BloodImage_00343.jpg: object 4 (RBC)"),
    }
    assert sum(split.images for split in report.splits) == 364
    totals = {each.name: sum(each.objects) for each in report.classes}
    assert totals == {"RBC": 4155, "WBC": 372, "Platelets": 361}
    assert (report.edges.before, report.edges.boxes) == (0, 4888)


def test_blood_cells_read_as_zero_based(shared_data: Path) -> None:
    root = shared_data / "bccd"
    report = check(
        folder_data(root, FORMATS["voc"], coordinates="zero_based"), Effort(decode=False)
    )
    kinds = {
        kind: {f.file.stem for f in report.findings if f.kind == kind} for kind in ("no_area",)
    }
    assert kinds == {"no_area": {"BloodImage_00338", "BloodImage_00343"}}
    assert {f.kind for f in report.findings} == {"no_area", "one_based_coordinates"}


def test_anchors_that_do_not_fit_are_reported_with_better_ones(clean_voc: Path) -> None:
    data = folder_data(clean_voc, FORMATS["voc"], classes=CLASSES)
    big = Anchors((512.0,), (1.0,), short_side=HEIGHT, long_side_max=WIDTH, stride=16)
    report = check(replace(data, anchors=big), Effort(decode=False))
    (finding,) = report.findings
    assert (finding.kind, finding.severity) == ("anchors_do_not_fit", "warning")
    assert finding.reason.startswith("100.0% of the objects")
    assert "rpn.anchor_sizes=[" in finding.reason


def test_the_report_is_json(voc: Path, tmp_path: Path) -> None:
    VOC_FAULTS["NaN"][0](Voc(voc, TRAIN[0]))
    report = _check_voc(voc)
    write_report(report, tmp_path / "data_report.json")
    read = json.loads(
        (tmp_path / "data_report.json").read_text(), parse_constant=lambda _: pytest.fail("no JSON")
    )
    assert read == report_as_dict(report)
    assert read["counts"] == {"error": {"non_finite_box": 1}, "warning": {}, "note": {}}
    (finding,) = read["findings"]
    assert finding["file"] == str(voc / "Annotations" / "t00.xml")
    assert finding["box"][0] == "nan"


def test_a_folder_with_only_images(tmp_path: Path) -> None:
    for number in range(3):
        _draw(tmp_path / f"{number}.jpg", number)
    _draw(tmp_path / "2.jpg", 0, quality=60)
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "names.csv").write_text("a,b\n")
    assert recognise(tmp_path).format.name == "images"
    report = check(folder_data(tmp_path, FORMATS["images"]))
    assert _named(report) == {
        ("undecodable_image", "empty.png", ""),
        ("similar_image", "2.jpg", ""),
        ("stray_file", "names.csv", ""),
    }
    assert [(each.name, each.images, each.objects) for each in report.splits] == [("all", 3, 0)]
    assert (report.classes, report.anchors) == ((), None)
    assert [sum(each.counts) for each in report.histograms] == [3, 3]


def test_an_empty_data_set_is_an_error(tmp_path: Path) -> None:
    report = check(DataSet(tmp_path, {"train": [lambda: ([], [])]}))
    assert _named(report) == {("no_objects", tmp_path.name, "")}

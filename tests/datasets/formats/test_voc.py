"""VOC folders are read as drawn, and every fault becomes a finding."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path, PurePath

import pytest
from PIL import Image
from resdet.datasets.formats.voc import VocSource, inspect_folders
from resdet.datasets.image import ImageRules
from resdet.detection.errors import DataError
from resdet.tests.datasets.formats.sources import inspect, read

BOX = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox>"


def _object(body: str = BOX, name: str = "dog") -> str:
    return f"<object><name>{name}</name>{body}</object>"


def _xml(*objects: str, size: str = "") -> str:
    return f"<annotation>{size}{''.join(objects)}</annotation>"


def _folder(root: Path, xml: str | bytes = "<annotation/>", listed: str = "a\n") -> Path:
    """One 64x48 image `a` with this XML."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(root / "JPEGImages" / "a.jpg")
    data = xml.encode() if isinstance(xml, str) else xml
    (root / "Annotations" / "a.xml").write_bytes(data)
    (root / "ImageSets" / "Main" / "train.txt").write_text(listed)
    return root


def _error(root: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read("voc", root, "train", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_based_inclusive_boxes_become_continuous(tmp_path: Path) -> None:
    pixel = "<bndbox><xmax>7</xmax><ymax> 9 </ymax><xmin>7.0</xmin><ymin>8.5</ymin></bndbox>"
    root = _folder(tmp_path, _xml(_object(), _object(pixel, " big dog ")))
    (image,) = read("voc", root, "train")
    assert image.image_id == "a"
    assert image.path == root / "JPEGImages" / "a.jpg"
    assert image.source == root / "Annotations" / "a.xml"
    assert image.size == (48, 64)
    assert [obj.box for obj in image.objects] == [(0, 0, 64, 48), (6, 7.5, 7, 9)]
    assert [obj.name for obj in image.objects] == ["dog", "big dog"]
    (image,) = read("voc", root, "train", coordinates="zero_based")
    assert image.objects[0].box == (1, 1, 64, 48)


def test_swapped_corners_cover_the_same_pixels(tmp_path: Path) -> None:
    swapped = "<bndbox><xmin>9</xmin><ymin>5</ymin><xmax>2</xmax><ymax>4</ymax></bndbox>"
    (image,) = read("voc", _folder(tmp_path, _xml(_object(swapped))), "train")
    assert image.objects[0].box == (9, 5, 1, 3)  # pixels 2..9 and 4..5 are [1, 9] x [3, 5]


def test_boxes_of_parts_are_not_the_object_s(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>5</xmin></bndbox></part>"
    (image,) = read("voc", _folder(tmp_path, _xml(_object(part + BOX + part))), "train")
    assert [(obj.name, obj.box) for obj in image.objects] == [("dog", (0, 0, 64, 48))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", False), ("Unspecified", False), ("0", False), ("1", True), ("1.0", True), (" 1\n", True)],
)
def test_difficult(tmp_path: Path, text: str, expected: bool) -> None:
    tagged = _object(BOX + f"<difficult>{text}</difficult>")
    root = _folder(tmp_path, _xml(tagged, _object()))  # the second has no tag at all
    assert [obj.ignore for obj in read("voc", root, "train")[0].objects] == [expected, False]
    included = read("voc", root, "train", difficult="include")[0].objects
    assert [obj.ignore for obj in included] == [False, False]
    excluded = read("voc", root, "train", difficult="exclude")[0]
    assert (len(excluded.objects), excluded.left_out) == (2 - expected, expected)


def test_images_without_objects_are_kept(tmp_path: Path) -> None:
    (image,) = read("voc", _folder(tmp_path), "train")
    assert image.objects == ()


@pytest.mark.parametrize(
    "data",
    [
        _xml(_object(name="狗")).encode("utf-8-sig"),
        _xml(_object(name="狗")).encode("utf-16"),
        b"\n\n<?xml version='1.0' encoding='utf-8'?>" + _xml(_object(name="狗")).encode(),
        b'<?xml version="1.0" encoding="GBK"?>' + _xml(_object(name="狗")).encode("gbk"),
        b'<?xml version="1.0" encoding="Shift_JIS"?>' + _xml(_object(name="狗")).encode("sjis"),
    ],
)
def test_encodings(tmp_path: Path, data: bytes) -> None:
    assert read("voc", _folder(tmp_path, data), "train")[0].objects[0].name == "狗"


@pytest.mark.parametrize(
    ("xml", "reason"),
    [
        ("", "a.xml: not readable as XML"),
        (_xml(_object(name="a & b")), "line 1"),
        ("<annotation/><annotation/>", "junk after document element"),
        ('<!DOCTYPE x [<!ENTITY e "boom">]><annotation>&e;</annotation>', "entities"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "klingon"),
        ("<html/>", "root is <html>"),
        (_xml(_object(BOX.replace(">64<", ">1,500<"))), "object 1 (dog): <xmax> is '1,500'"),
        (_xml(_object(), _object(BOX.replace("ymin", "why"))), "object 2 (dog): <ymin> is ''"),
        (_xml(_object("")), "0 <bndbox>"),
        (_xml(_object(BOX + BOX)), "2 <bndbox>"),
        (_xml(_object(name=" ")), "object 1: has no name"),
        (_xml(size="<size><width>32</width><height>48</height></size>"), "<size>: says 32x48, a."),
    ],
)
def test_bad_xml_is_reported_with_its_file(tmp_path: Path, xml: str, reason: str) -> None:
    message = _error(_folder(tmp_path, xml))
    assert "a.xml: " in message
    assert reason in message


def test_an_unclear_difficult_is_a_warning_and_taken_as_no(tmp_path: Path) -> None:
    root = _folder(tmp_path, _xml(_object(BOX + "<difficult>maybe</difficult>")))
    (image,), (finding,) = inspect("voc", root, "train", difficult="exclude")
    assert [obj.ignore for obj in image.objects] == [False]
    assert (finding.kind, finding.severity) == ("unclear_difficult", "warning")
    said = "a.xml: object 1 (dog): <difficult> is 'maybe', expected 0 or 1: taken as 0"
    assert str(finding).endswith(said)


def test_a_huge_xml_is_not_parsed(tmp_path: Path) -> None:
    root = _folder(tmp_path, b"<annotation>" + b" " * 10 * 2**20 + b"</annotation>")
    assert "larger than 10 MB" in _error(root)


@pytest.mark.parametrize("size", ["", "<size/>", "<size><width>0</width><height>0</height></size>"])
def test_a_missing_size_is_the_image_s(tmp_path: Path, size: str) -> None:
    assert read("voc", _folder(tmp_path, _xml(size=size)), "train")[0].size == (48, 64)


def test_boxes_drawn_before_exif_rotation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = "<size><width>64</width><height>48</height></size>"
    root = _folder(tmp_path, _xml(size=stored))
    Image.new("RGB", (64, 48)).save(root / "JPEGImages" / "a.jpg", exif=exif)
    assert "before EXIF rotation, set `exif: ignore`" in _error(root)
    assert read("voc", root, "train", rules=ImageRules(exif="ignore"))[0].size == (48, 64)
    shown = "<size><width>48</width><height>64</height></size>"
    (root / "Annotations" / "a.xml").write_text(_xml(size=shown))
    assert read("voc", root, "train")[0].size == (64, 48)
    assert "set `exif: apply`" in _error(root, rules=ImageRules(exif="ignore"))


def test_image_sets_with_a_presence_column_and_blank_lines(tmp_path: Path) -> None:
    root = _folder(tmp_path, listed="a  -1\n\nphoto 1\nb\t 1\n")
    for name, suffix in (("photo 1", ".PNG"), ("b", ".webp")):
        Image.new("RGB", (20, 20)).save(root / "JPEGImages" / f"{name}{suffix}")
        (root / "Annotations" / f"{name}.xml").write_text(_xml())
    (root / "JPEGImages" / "b.json").write_text("{}")  # labelme leaves its file beside the image
    images = read("voc", root, "train")
    assert [image.path.name for image in images] == ["a.jpg", "photo 1.PNG", "b.webp"]


def test_what_is_missing_double_or_ambiguous_is_listed(tmp_path: Path) -> None:
    root = _folder(tmp_path, listed="a\na\nb\nc\n")
    for name in ("c.png", "c.jpg"):
        Image.new("RGB", (20, 20)).save(root / "JPEGImages" / name)
    message = _error(root)
    assert "4 errors (" in message
    assert "train.txt: a: listed 2 times" in message
    assert "train.txt: b: 'b': no such file below" in message
    assert "train.txt: c: several images: c.jpg, c.png" in message
    assert "train.txt: c: no annotation c.xml" in message


def test_an_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    with pytest.raises(DataError, match="there are: train"):
        read("voc", root, "trian")
    with pytest.raises(DataError, match="gone: no such folder"):
        read("voc", tmp_path / "gone", "train")
    (root / "ImageSets" / "Main" / "empty.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no images"):
        read("voc", root, "empty")


def test_errors_of_many_files_are_counted(tmp_path: Path) -> None:
    names = [f"n{number}" for number in range(9)]
    root = _folder(tmp_path, listed="\n".join(["a", *names]))
    for name in names:
        (root / "JPEGImages" / f"{name}.jpg").write_bytes(b"")
        (root / "Annotations" / f"{name}.xml").write_text(_xml())
    message = _error(root)
    assert "image set 'train': 9 errors (unreadable_image 9)" in message
    assert "n0.jpg: the file is empty" in message
    assert "and 4 more" in message


@pytest.mark.parametrize(
    ("name", "splits", "images", "objects"),
    [
        ("bccd", ("trainval", "test"), 364, {"RBC": 4155, "WBC": 372, "Platelets": 361}),
        ("cards", ("train", "val"), 363, None),
    ],
)
def test_real_data(
    shared_data: Path, name: str, splits: tuple[str, ...], images: int, objects: dict[str, int]
) -> None:
    found = [image for split in splits for image in read("voc", shared_data / name, split)]
    assert len(found) == images
    counts = Counter(obj.name for image in found for obj in image.objects)
    if objects is None:  # counted independently
        files = (shared_data / name / "Annotations").glob("*.xml")
        names = re.findall(r"<name>(.*?)</name>", "".join(file.read_text() for file in files))
        assert counts == Counter(names)
        assert counts.total() == 670
    else:
        assert counts == objects


def test_processes_that_share_the_reading_change_nothing(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = inspect("voc", shared_data / "cards", "val")
    monkeypatch.setattr("resdet.datasets.formats.xml_pairs.WORTH_SHARING", 1)
    images, findings = inspect("voc", shared_data / "cards", "val", workers=2)
    assert images == alone[0]
    assert set(findings) == set(alone[1])


@pytest.mark.parametrize("split", ["test", None])
def test_images_without_annotations(tmp_path: Path, split: str | None) -> None:
    """Only the list and the images are read; an XML, damaged or not, is not looked at."""
    root = _folder(tmp_path, "no xml")
    Image.new("RGB", (30, 20)).save(root / "JPEGImages" / "b.png")
    (root / "ImageSets" / "Main" / "test.txt").write_text("b\na\n")
    images = read("voc", root, split, annotated=False)
    assert [(image.image_id, image.size, image.objects) for image in images] == (
        [("b", (20, 30), ()), ("a", (48, 64), ())][:: 1 if split else -1]
    )
    (root / "ImageSets" / "Main" / "test.txt").write_text("b\nc\n")
    with pytest.raises(DataError, match="c: 'c': no such file below"):
        read("voc", root, "test", annotated=False)


def test_a_second_annotation_of_an_image_is_told(tmp_path: Path) -> None:
    """One that a file manager copied; the image is that of its own annotation."""
    root = _folder(tmp_path)
    copy = root / "Annotations" / "a (copy).xml"
    copy.write_text("<annotation><filename>a.jpg</filename></annotation>")
    (finding,) = inspect_folders([VocSource(root=root, split="train")])
    assert (finding.kind, finding.severity) == ("orphan_annotation", "warning")
    assert finding.file == copy and "a.jpg has an annotation of its own" in finding.reason


def test_two_annotations_of_an_image_are_not_two_images(tmp_path: Path) -> None:
    """Without a list both would be read, and the image learned twice."""
    root = _folder(tmp_path)
    shutil.rmtree(root / "ImageSets")
    copy = root / "Annotations" / "a (copy).xml"
    copy.write_text("<annotation><filename>a.jpg</filename></annotation>")
    with pytest.raises(DataError, match=r"a\.xml, a \(copy\)\.xml are of the same image a\.jpg"):
        read("voc", root, None)


def test_many_images_of_other_names_are_compared_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, count = _folder(tmp_path), 60
    for number in range(count):
        (root / "JPEGImages" / f"{number}.jpg").touch()
        xml = f"<annotation><filename>{number}.jpg</filename></annotation>"
        (root / "Annotations" / f"x{number}.xml").write_text(xml)
    equal, compared = PurePath.__eq__, []
    monkeypatch.setattr(
        PurePath, "__eq__", lambda self, other: compared.append(1) or equal(self, other)
    )
    (finding,) = inspect_folders([VocSource(root=root, split="train")])
    assert finding.kind == "unlisted_image" and f"{count} annotated images" in finding.reason
    assert len(compared) < 10 * count  # each with each: 1770

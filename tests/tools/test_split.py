"""The split command: what it writes and prints, and what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from resdet.tools.cli import main

PARTS = ("--parts", "train=0.5", "val=0.25", "test=0.25")


def _run(*words: object) -> int:
    return main(["split", *map(str, words)])


def _sets(root: Path) -> dict[str, list[str]]:
    folder = root / "ImageSets" / "Main"
    return {path.stem: path.read_text().split() for path in sorted(folder.glob("*.txt"))}


@pytest.fixture
def voc(scenes: Path, tmp_path: Path) -> Path:
    """Twelve drawn images and a copy of the first, without image sets."""
    root = tmp_path / "voc"
    shutil.copytree(scenes, root)
    shutil.rmtree(root / "ImageSets")
    for path in [*root.glob("*/val_*"), root / ".resdet-synthetic.json"]:
        path.unlink()
    for folder, suffix in (("JPEGImages", "jpg"), ("Annotations", "xml")):
        shutil.copy(root / folder / f"train_00000.{suffix}", root / folder / f"copy.{suffix}")
    return root


def test_voc(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(voc, "--from", "voc", *PARTS) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[0].split() == ["train", "val", "test"]
    assert "1 images are exact copies of another and stay with it" in printed
    sets = _sets(voc)
    assert sorted(name for names in sets.values() for name in names) == sorted(
        path.stem for path in (voc / "Annotations").iterdir()
    )
    assert any({"copy", "train_00000"} <= set(names) for names in sets.values())
    assert all(sets.values())


def test_near_copies_stay_together_if_asked(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Beside the exact copy of train_00000, which is all but flat: train_00001 at half the size."""
    image = Image.open(voc / "JPEGImages/train_00001.jpg")
    half = image.resize((image.width // 2, image.height // 2))
    half.save(voc / "JPEGImages/half.jpg")
    xml = (voc / "Annotations/train_00001.xml").read_text()
    for name, length in (("width", half.width), ("height", half.height)):
        xml = re.sub(rf"<{name}>\d+", f"<{name}>{length}", xml)
    xml = re.sub(r"<object>.*</object>", "", xml, flags=re.DOTALL)
    (voc / "Annotations/half.xml").write_text(xml)

    assert _run(voc, "--from", "voc", *PARTS, "--group-near") == 0
    assert "2 images are exact or near copies of another" in capsys.readouterr().out
    for together in ({"copy", "train_00000"}, {"half", "train_00001"}):
        assert any(together <= set(names) for names in _sets(voc).values())


def test_parts_that_are_there(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(voc, "--from", "voc", *PARTS) == 0
    first = _sets(voc)
    assert _run(voc, "--from", "voc", *PARTS, "--seed", 1) == 3
    assert "there already; --force replaces" in capsys.readouterr().err
    assert _sets(voc) == first
    assert _run(voc, "--from", "voc", *PARTS, "--seed", 1, "--force") == 0
    assert _sets(voc) != first
    pool = ("--split", "train", "--split", "val", "--split", "test", "--split", "train")
    assert _run(voc, "--from", "voc", *PARTS, "--force", *pool) == 0
    assert _sets(voc) == first


def test_a_pool_smaller_than_the_parts(voc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (voc / "ImageSets/Main").mkdir(parents=True)
    (voc / "ImageSets/Main/one.txt").write_text("train_00003\n")
    assert _run(voc, "--from", "voc", *PARTS, "--split", "one") == 3
    assert "val, test: no images; 1 are too few" in capsys.readouterr().err
    assert _sets(voc) == {"one": ["train_00003"]}


def test_an_earlier_split_leaves_no_list_behind(
    voc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its images are in the new parts, and would be tested on after training on them."""
    folder = voc / "ImageSets" / "Main"
    assert _run(voc, "--from", "voc", *PARTS) == 0
    (folder / "mine.txt").write_text("train_00003\n")
    two = ("--parts", "train=0.5", "val=0.5")
    assert _run(voc, "--from", "voc", *two, "--force") == 0
    assert f"removed, of an earlier split: {folder / 'test.txt'}" in capsys.readouterr().out
    assert sorted(_sets(voc)) == ["mine", "train", "val"]
    # Without --force others may stand beside them, and are forgotten by neither.
    assert _run(voc, "--from", "voc", "--parts", "a=0.5", "b=0.5") == 0
    assert _run(voc, "--from", "voc", "--parts", "a=0.5", "c=0.5", "--force") == 0
    assert sorted(_sets(voc)) == ["a", "c", "mine"]
    # A list of images that are not divided again stays.
    again = ("--split", "a", "--parts", "d=0.5", "e=0.5", "--force")
    assert _run(voc, "--from", "voc", *again) == 0
    assert sorted(_sets(voc)) == ["c", "d", "e", "mine"]


def test_coco(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = tmp_path / "coco"
    words = ("--from", "voc", "--to", "coco", "--split", "trainval", "--out", str(coco))
    assert main(["convert-data", str(scenes), *words]) == 0
    whole = coco / "annotations/instances_trainval.json"
    source = (coco / "trainval", "--from", "coco", "--annotations", whole)
    assert _run(*source, "--parts", "a=0.5", "b=0.5", "--out", tmp_path / "parts") == 0
    parts = [json.loads((tmp_path / f"parts/{name}.json").read_text()) for name in "ab"]
    assert [len(part["images"]) for part in parts] == pytest.approx([9, 9], abs=1)
    content = json.loads(whole.read_text())
    for key in ("images", "annotations"):
        together = [entry for part in parts for entry in part[key]]
        assert sorted(together, key=lambda entry: entry["id"]) == content[key]
    assert parts[0]["categories"] == content["categories"]
    capsys.readouterr()
    clash = ("--parts", "instances_trainval=0.5", "b=0.5", "--force")
    assert _run(*source, *clash) == 2
    assert "would replace" in capsys.readouterr().err
    assert json.loads(whole.read_text()) == content


def test_coco_beside_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As labelling services export it: several files are named, and the only one is taken."""
    for part in ("train", "valid"):
        (tmp_path / part).mkdir()
        for number in range(2):
            Image.new("RGB", (40, 30), (number * 90, 9, 9)).save(tmp_path / part / f"{number}.jpg")
        images = [{"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 30} for n in range(2)]
        objects = [
            {"id": n + 1, "image_id": n, "category_id": 1, "bbox": [5, 5, 9, 9]} for n in (0, 1)
        ]
        classes = [{"id": 0, "name": "pets"}, {"id": 1, "name": "cat", "supercategory": "pets"}]
        content = {"images": images, "annotations": objects, "categories": classes}
        (tmp_path / part / "_annotations.coco.json").write_text(json.dumps(content))
    parts = ("--parts", "a=0.5", "b=0.5", "--out", tmp_path / "parts")
    assert _run(tmp_path, *parts) == 2
    files = "; ".join(
        str(tmp_path / part / "_annotations.coco.json") for part in ("train", "valid")
    )
    assert f"give --annotations JSON; there are: {files}\n" in capsys.readouterr().err
    assert _run(tmp_path / "train", *parts) == 0
    written = [json.loads((tmp_path / f"parts/{name}.json").read_text()) for name in "ab"]
    assert [len(part["annotations"]) for part in written] == [1, 1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from", "voc", "--parts", "train"), "--parts: 'train': '' is not a number"),
        (("--from", "voc", "--parts", "a=x"), "'x' is not a number"),
        (("--from", "voc", "--parts", "../a=1"), "'../a=1' is not NAME=FRACTION"),
        (("--from", "voc", "--parts", "a=0.5", "a=0.5"), "--parts: 'a' is given twice"),
        (("--from", "voc", "--parts", "a=0.5", "b=0.6"), "the fractions add up to 1.1"),
        (("--from", "voc", "--parts", "a=1", "--out", "x"), "only for coco"),
        (("--from", "coco", "--parts", "a=1"), "give --annotations"),
        (("--from", "coco", "--parts", "a=1", "--split", "x"), "--split: only for voc"),
    ],
)
def test_usage(
    scenes: Path, words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(scenes, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1

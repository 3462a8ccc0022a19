"""The config that check-data proposes trains, and the next command leads there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from PIL import Image
from resdet.datasets.formats import recognise
from resdet.tests.datasets.formats.test_layouts import LAYOUTS
from resdet.tools.cli import main


def _next(printed: str) -> list[str]:
    (line,) = (line for line in printed.splitlines() if line.startswith("next: resdet "))
    return shlex.split(line)[2:]


@pytest.mark.parametrize("name", ["XML beside images", "COCO of Roboflow", "VOCdevkit", "labelme"])
def test_the_config_of_a_detector_trains(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make, format, splits = LAYOUTS[name]
    root, path = tmp_path / "in", tmp_path / "mine.yaml"
    make(root)
    assert main(["check-data", str(root), "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "no validation" not in printed
    assert _next(printed) == [*("check-data", str(root), "--write-config", "mine.yaml")]
    assert main(["check-data", str(root), "--quick", "--write-config", str(path)]) == 0
    words = _next(capsys.readouterr().out)
    assert words == ["train-det", "--cfg", str(path)]
    data = yaml.safe_load(path.read_text())["data"]
    assert {source["format"] for part in ("train", "val") for source in data[part]} == {format}
    count = sum(len(data.get(part, ())) for part in ("train", "val", "test"))
    assert count == len(splits)
    assert main([*words, "--dry-run"]) == 0
    assert "classes" in data


def test_without_validation_images_a_share_is_held_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, path = tmp_path / "in", tmp_path / "mine.yaml"
    LAYOUTS["result.json"][0](root)
    hint = "\nno validation images: data.val={fraction: 0.2} holds out a share of training"
    assert main(["check-data", str(root), "--quick"]) == 0
    assert f"{hint}, as the config of --write-config does" in capsys.readouterr().out
    assert main(["check-data", str(root), "--quick", "--write-config", str(path)]) == 0
    words = _next(capsys.readouterr().out)
    written = yaml.safe_load(path.read_text())
    assert written["data"]["val"] == {"fraction": 0.2}
    assert written["train"] == {"epochs": 1400}  # two images, as many steps as with more
    assert main([*words, "--dry-run"]) == 3  # of two images
    assert "2 images in 2 groups of near copies are too few" in capsys.readouterr().err
    assert main([*words, "--dry-run", "data.val.fraction=0.5"]) == 0
    capsys.readouterr()
    assert main(["check-data", "--cfg", str(path), "--quick"]) == 0
    assert "no validation" not in capsys.readouterr().out
    assert main(["check-data", "--cfg", str(path), "--quick", "data.val=[]"]) == 0
    assert hint in capsys.readouterr().out


def test_after_a_split_the_parts_are_used_and_not_the_whole(tmp_path: Path) -> None:
    root, path = tmp_path / "in", tmp_path / "mine.yaml"
    LAYOUTS["result.json"][0](root)
    words = ["split", str(root), "--annotations", str(root / "result.json")]
    assert main([*words, "--parts", "train=0.5", "val=0.5", "--out", str(root / "parts")]) == 0
    assert {*recognise(root).format.splits(root)} == {"train", "val", "result"}
    assert main(["check-data", str(root), "--quick", "--write-config", str(path)]) == 0
    data = yaml.safe_load(path.read_text())["data"]  # not on the whole, which has the images of val
    assert [Path(each["annotations"]).name for each in data["train"]] == ["train.json"]


def test_the_whole_of_training_and_validation_is_no_training_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, path = tmp_path / "in", tmp_path / "mine.yaml"
    (root / "images").mkdir(parents=True)
    (root / "data.yaml").write_text("names: [cat]\n")
    for number, side in enumerate((40, 60)):
        Image.new("RGB", (side, 30), (number * 90, 9, 9)).save(root / f"images/{number}.png")
        (root / "labels").mkdir(exist_ok=True)
        (root / f"labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    lists = {"train": [0], "val": [1], "trainval": [0, 1]}
    for name, numbers in lists.items():
        (root / f"{name}.txt").write_text("".join(f"./images/{n}.png\n" for n in numbers))
    words = ["check-data", str(root), "--quick", "--max-pixels", "10000000"]
    assert main(words) == 0
    assert "--max-pixels 10000000 --write-config" in capsys.readouterr().out
    assert main([*words, "--write-config", str(path)]) == 0
    data = yaml.safe_load(path.read_text())["data"]
    assert [source["split"] for source in data["train"]] == ["train"]
    assert data["max_pixels"] == 10_000_000
    assert main(["train-det", "--cfg", str(path), "--dry-run"]) == 0


def test_config_and_data_can_be_moved_together(tmp_path: Path) -> None:
    LAYOUTS["XML beside images"][0](tmp_path / "before" / "in")
    path = tmp_path / "before" / "mine.yaml"
    words = ["check-data", str(tmp_path / "before" / "in"), "--quick", "--write-config", str(path)]
    assert main(words) == 0
    (tmp_path / "before").rename(tmp_path / "after")
    assert main(["train-det", "--cfg", str(tmp_path / "after" / "mine.yaml"), "--dry-run"]) == 0


@pytest.mark.parametrize("split", [True, False])
def test_the_config_of_a_classifier_trains(
    tmp_path: Path, split: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    root, path = tmp_path / "in", tmp_path / "mine.yaml"
    for part in ("train", "valid") if split else (".",):
        for index in range(20):
            image = root / part / f"class{index % 2}" / f"{index}.png"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 30), (index, 9, 9)).save(image)
    assert main(["check-data", str(root), "--quick", "--write-config", str(path)]) == 0
    words = _next(capsys.readouterr().out)
    assert words == ["train-cls", "--cfg", str(path)]
    assert main([*words, "--dry-run"]) == 0
    assert ("train: images: 20" if split else "train: images: 16") in capsys.readouterr().out


def test_what_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, path = tmp_path / "in", tmp_path / "mine.yaml"
    LAYOUTS["XML beside images"][0](root)
    path.write_text("kept")
    assert main(["check-data", str(root), "--quick", "--write-config", str(path)]) == 2
    assert "mine.yaml: is there already" in capsys.readouterr().err
    assert path.read_text() == "kept"
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
    path.unlink()
    assert main(["check-data", str(tmp_path), "--format", "images", "--write-config", "x"]) == 2
    assert "without annotations there is nothing to train on" in capsys.readouterr().err

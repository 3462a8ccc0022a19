"""docs/first_detector.md: its commands run in their order, on drawn scenes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from resdet.tools.cli import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "first_detector.md"
#: What makes the commands of the page cheap enough for a test.
SMALLER = {
    "get-data": ["--train", "8", "--val", "3"],
    "train-det": [
        *("backbone.width=8", "rpn.channels=16", "image.short_side_train=[64]"),
        *(
            "image.short_side_test=64",
            "train.epochs=null",
            "train.iterations=2",
            "train.warmup_iterations=1",
        ),
        *("train.eval_every=2", "train.precision=fp32"),
    ],
    "check-data": ["--quick"],
    "infer": ["--conf", "0.01"],
}


def blocks(text: str, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for named, block in found if named == language]


def commands(text: str) -> list[list[str]]:
    """The commands of the page, as words."""
    words = [line.split() for block in blocks(text, "") for line in block.splitlines()]
    return [each for each in words if each[0] in ("resdet", "mv")]


def test_the_config_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of its images, as base, anchors and epochs depend on them."""
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    draw, move, check = commands(text)[:3]
    assert main(draw[1:]) == 0
    Path(move[1]).rename(move[2])
    assert main([*check[1:], "--quick"]) == 0
    (block,) = blocks(text, "yaml")
    assert yaml.safe_load(block) == yaml.safe_load(Path("mine.yaml").read_text())


def test_the_commands_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    for words in commands(text):
        if words[0] == "mv":
            Path(words[1]).rename(words[2])
            for folder in ("photos", "new"):
                Path(folder).mkdir()
                photo = next(Path("mydata/JPEGImages").glob("*.jpg"))
                (Path(folder) / "street.jpg").write_bytes(photo.read_bytes())
        else:
            assert main([*words[1:], *SMALLER.get(words[1], [])]) == 0, words
    named = re.findall(r"`((?:run|found|detections)/[\w./]+)`", text)
    assert named
    for path in named:
        assert Path(path).exists()
    for name in ("detections.jsonl", "detections.csv", "detections.coco.json"):
        assert (Path("detections") / name).exists()
    (snippet,) = blocks(text, "python")
    exec(compile(snippet, PAGE.name, "exec"), {})  # noqa: S102

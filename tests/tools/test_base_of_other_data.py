"""What a config has from its base is named where the data contradict it, with the line to write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

BASE = """\
# a comment moves the lines
data:
  classes: [aeroplane, bicycle]
  val: [{{format: voc, root: {val}, split: val}}]
"""


def _configs(folder: Path, tiny_config: Path, base: str, top: str) -> Path:
    """``mine.yaml`` on ``other.yaml`` on the config of the scenes."""
    (folder / "other.yaml").write_text(f"base: {tiny_config}\n{base}")
    (folder / "mine.yaml").write_text(f"base: other.yaml\n{top}")
    return folder / "mine.yaml"


@pytest.mark.parametrize("command", [("train-det", "--dry-run"), ("check-data", "--quick")])
def test_classes_of_a_base(
    resdet: Command, scenes: Path, tiny_config: Path, tmp_path: Path, command: tuple[str, str]
) -> None:
    config = _configs(tmp_path, tiny_config, BASE.format(val=scenes), "")
    done = resdet(*command, "--cfg", config)
    assert done.code == 3
    said = done.out + done.err
    assert f"data.classes is that of {tmp_path / 'other.yaml'}:4, a base of {config}" in said
    assert "data.val is" not in said  # classes are the cause, and what they come from is enough
    assert "the line `classes: null` below `data:` in mine.yaml takes the classes" in said
    config.write_text("base: other.yaml\ndata:\n  classes: null\n")
    done = resdet(*command, "--cfg", config)
    assert done.code == 0, done
    assert "other.yaml" not in done.out + done.err


@pytest.mark.parametrize("command", [("train-det", "--dry-run"), ("check-data", "--quick")])
def test_validation_images_of_a_base_that_are_not_here(
    resdet: Command, scenes: Path, tiny_config: Path, tmp_path: Path, command: tuple[str, str]
) -> None:
    config = _configs(
        tmp_path, tiny_config, BASE.format(val=tmp_path / "none"), "data: {classes: null}\n"
    )
    done = resdet(*command, "--cfg", config)
    assert done.code == 2
    assert f"data.val is that of {tmp_path / 'other.yaml'}:5" in done.err
    assert "the line `val: [{format: ..., root: ...}]` below `data:` in mine.yaml" in done.err
    val = f"[{{format: voc, root: {scenes}, split: val}}]"
    config.write_text(f"base: other.yaml\ndata:\n  classes: null\n  val: {val}\n")
    assert resdet(*command, "--cfg", config).code == 0


def test_classes_of_a_base_that_do_not_occur(
    resdet: Command, scenes: Path, tiny_config: Path, tmp_path: Path
) -> None:
    """They are trained for nothing: no error, but the log says where they come from."""
    listed = "classes: [" + ", ".join([*_names(scenes), "unicorn"]) + "]"
    config = _configs(tmp_path, tiny_config, f"data:\n  {listed}\n", "")
    done = resdet("train-det", "--dry-run", "--cfg", config)
    assert done.code == 0, done.err
    assert "unicorn" in done.out
    assert f"data.classes is that of {tmp_path / 'other.yaml'}:3" in done.out
    own = resdet("train-det", "--dry-run", "--cfg", tmp_path / "other.yaml")
    assert "is that of" not in own.out  # the file's own, stated by the user


def _names(scenes: Path) -> list[str]:
    from resdet.datasets.formats import inspect
    from resdet.datasets.formats.voc import VocSource

    images, _ = inspect(VocSource(root=scenes, split="train"))
    return sorted({obj.name for image in images for obj in image.objects})

"""``resdet find-lr``: a suggestion and a figure, and nothing else; ``test_train_loc.py`` has the
other tasks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import pytest
from resdet.tools.cli import main

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_the_rate_of_a_detector(resdet: Command, tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    before = files_in(tiny_config.parent)
    words = ("find-lr", "--cfg", tiny_config, "--steps", 50, "--lowest", 1e-3, "--highest", 1e3)
    words += ("backbone.norm=group", "train.base_batch_size=4", "train.ema_decay=0.9")
    words += ("image.short_side_train=[64]", "data.val=[]")
    here = {"cwd": tmp_path, "env": {"TMPDIR": str(tmp_path / "tmp")}}
    done = resdet(*words, **here)
    assert done.code == 0, done.err
    found = re.search(
        r"lowest \S+ at train\.lr=(\S+); diverged at (\S+)\n"
        r"suggestion: train\.lr=(\S+), a tenth of the rate with the lowest smoothed loss "
        r"\(for train\.base_batch_size=4\)\nwritten: find_lr\.png",
        done.out,
    )
    assert found, done.out
    best, end, suggested = map(float, found.groups())
    assert suggested == pytest.approx(best / 10, rel=0.05) and 1e-3 < best < end < 1e3
    own = {name for name in files_in(tmp_path) if "torchinductor" not in name}  # PyTorch's cache
    assert own == {"tmp", "find_lr.png"}
    assert files_in(tiny_config.parent) == before
    assert cv2.imread(str(tmp_path / "find_lr.png")).std() > 1


def test_a_dry_run_writes_nothing(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "a.png"
    assert main(["find-lr", "--cfg", str(tiny_config), "--out", str(out), "--dry-run"]) == 0
    assert "100 steps of 2 images, train.lr from 1e-05 to 10" in capsys.readouterr().out
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "5"], "--steps 5: expected at least 20"),
        (["--lowest", "2", "--highest", "1"], "--lowest 2 --highest 1: expected rates above 0"),
        (["--lowest", "nan"], "--lowest nan"),
        (["--out", "a.txt"], "a.txt: expected a suffix of .png"),
        (["data.root=nowhere", "data.val=[]"], "nowhere"),
        (["--weights", "none.pt"], "none.pt"),
    ],
)
def test_what_is_refused(
    words: list[str], message: str, tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["find-lr", "--cfg", str(tiny_config), *words]) in (2, 3)
    said = capsys.readouterr().err
    assert message in said and said.startswith("error: ") and said.count("\n") == 1

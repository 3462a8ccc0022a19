"""docs/inference.md: its snippets and commands run as they are written, on drawn scenes."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from resdet.tests.test_first_detector import blocks
from resdet.tools.cli import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "inference.md"
SNIPPETS = blocks(PAGE.read_text(encoding="utf-8"), "python")
#: Inputs that are not there in a test.
_LIVE = ("0", "rtsp://camera/live")


@pytest.fixture
def here(
    scenes: Path, tiny_config: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The working folder of the page: ``scenes``, ``tiny.yaml``, ``best.pt``, ``clip.mp4``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes").symlink_to(scenes)
    config = yaml.safe_load(tiny_config.read_text())
    config["train"] |= {"iterations": 2, "eval_every": 2}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    shutil.copy(tiny_run / "weights" / "best.pt", tmp_path)
    writer = cv2.VideoWriter("clip.mp4", cv2.VideoWriter.fourcc(*"mp4v"), 10, (128, 96))
    for path in sorted((scenes / "JPEGImages").iterdir())[:6]:
        writer.write(np.asarray(cv2.imread(str(path))))
    writer.release()
    yield tmp_path


def run(snippet: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(snippet, PAGE.name, "exec"), names)  # noqa: S102
    return names


def test_the_commands_in_python(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = (each for each in SNIPPETS if "resdet.train" in each)
    names = run(snippet)
    assert names["summary"].done == 18  # type: ignore[attr-defined]
    assert "voc_ap50" in capsys.readouterr().out
    assert (here / "runs/mine/weights/best.pt").exists()
    assert len((here / "found/detections.jsonl").read_text().splitlines()) == 18


def test_the_frames_of_a_video(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = (each for each in SNIPPETS if "every=5" in each)
    run(f"import resdet\n{snippet}")
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [["0", "0.0"], ["5", "0.5"]]


def test_tracking(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("supervision", "trackers"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    (snippet,) = (each for each in SNIPPETS if "ByteTrack" in each)
    run(snippet)
    frames = re.findall(r"^(\d) 0\.\d \[", capsys.readouterr().out, re.MULTILINE)
    assert frames == list("012345")


def test_the_commands_of_the_page(here: Path) -> None:
    lines = "\n".join(blocks(PAGE.read_text(encoding="utf-8"), "")).splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("resdet")]
    assert {words[3] for words in commands} == {"clip.mp4", *_LIVE}
    for words in commands:
        if words[3] not in _LIVE:
            assert main(words) == 0
    assert len((here / "found/frames/clip.mp4.jsonl").read_text().splitlines()) == 2
    assert (here / "found/drawn/clip.mp4").exists()

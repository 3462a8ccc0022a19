"""The write-shards command: its output, its error messages, and resuming after SIGKILL."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.shards.index import INDEX, read_shards
from resdet.tools.cli import main

if TYPE_CHECKING:
    from conftest import Command


def run(*words: object) -> int:
    return main(["write-shards", *map(str, words)])


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """26 + 4 images of more than a megabyte each, so that each gets its own shard."""
    root = tmp_path_factory.mktemp("data")
    pixels = np.random.default_rng(0).integers(0, 256, (700, 600, 3), dtype=np.uint8)
    for split, count in (("train", 26), ("val", 4)):
        for number in range(count):
            path = root / split / ("ant", "cat")[number % 2] / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.roll(pixels, number, axis=0)).save(path)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_shards_index_and_verification(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "shards"
    assert run(images, "--out", out, "--size-mb", 2) == 0
    printed = capsys.readouterr()
    assert "train: images: 26, classes: 2 with 13 to 13 images each" in printed.out
    assert "val: 4 images in 4 shards" in printed.out
    assert printed.out.endswith(f"next: resdet write-shards --check {out}\n")
    assert {path.name for path in out.iterdir()} == {"train", "val"}
    shards = read_shards(out / "val")
    assert shards.classes == ("ant", "cat") and len(shards) == 4
    before = contents(out)
    assert run(images, "--out", out, "--size-mb", 2) == 0
    assert "26 shards, 26 of them already existed" in capsys.readouterr().out
    assert contents(out) == before
    assert run("--check", out) == 0
    assert "26 images in 26 shards verified" in capsys.readouterr().out
    path = out / "train" / "000003.tar"
    path.write_bytes(path.read_bytes()[::-1])
    assert run("--check", out / "train") == 3
    assert "000003.tar: its contents are not those that were written" in capsys.readouterr().err


def test_an_interrupted_run_is_continued(images: Path, tmp_path: Path, resdet: Command) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    words = ("write-shards", images, "--size-mb", 1, "--out")
    assert resdet(*words, whole).code == 0
    interrupted = 0
    for wanted in (3, 10, 21):
        running = resdet.start(*words, killed)
        running.until_lines(wanted, killed / "train" / INDEX)
        running.kill()
        interrupted += running.wait().code == -signal.SIGKILL
    done = resdet(*words, killed)
    assert done.code == 0, done.err
    assert interrupted and "of them already existed" in done.out
    assert contents(killed) == contents(whole)


def test_error_messages(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, code, message in (
        (("--out", tmp_path), 2, "give the data set folder and --out"),
        ((images, "--check", tmp_path), 2, "takes neither a source folder nor --out"),
        (("--check", tmp_path), 2, "no index.jsonl"),
        ((images, "--out", tmp_path, "--size-mb", 0), 2, "at least a megabyte"),
        ((images, "--out", tmp_path, "--val", "test"), 3, "test: no such folder"),
        ((images, "--out", tmp_path, "--val-fraction", 2), 2, "val_fraction: 2"),
        ((images, "--layout", "ilsvrc", "--out", tmp_path, "--val", "x"), 3, "x: no such folder"),
    ):
        assert run(*words) == code, message
        assert message in capsys.readouterr().err

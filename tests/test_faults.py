"""User errors give one line with file, object and reason, and the documented exit code."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

Spoil = Callable[[Path], None]


def in_file(name: str, old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return spoil


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


XML = "scenes/Annotations/train_00001.xml"
FAULTS: dict[str, tuple[Spoil, int, tuple[str, ...]]] = {
    "unknown key": (
        in_file("tiny.yaml", "warmup_iterations", "warmup_iteration"),
        2,
        ("tiny.yaml", "train.warmup_iteration", "did you mean 'warmup_iterations'"),
    ),
    "wrong type": (in_file("tiny.yaml", "lr: 0.02", "lr: fast"), 2, ("tiny.yaml", "train.lr")),
    "missing data set": (
        lambda folder: shutil.rmtree(folder / "scenes"),
        2,
        ("data.train.0.root", "scenes", "not found"),
    ),
    "missing image set": (
        remove("scenes/ImageSets/Main/val.txt"),
        3,
        ("val.txt",),
    ),
    "missing image": (
        remove("scenes/JPEGImages/train_00003.jpg"),
        3,
        ("JPEGImages", "train_00003"),
    ),
    "unknown class": (
        in_file("tiny.yaml", "circle, cross", "cirkle, cross"),
        3,
        (".xml", "'circle'", "did you mean 'cirkle'"),
    ),
    "bad box": (in_file(XML, "<xmax>", "<xmax>9"), 3, ("train_00001", "object 2", "image")),
    "broken annotation": (cut(XML), 3, ("train_00001.xml",)),
    "corrupt image": (
        cut("scenes/JPEGImages/train_00005.jpg"),
        3,
        ("train_00005.jpg",),
    ),
}


@pytest.fixture
def copied(tiny_config: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    shutil.copytree(tiny_config.parent, folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("workers", [0])
def test_one_line_and_the_exit_code(
    resdet: Command, copied: Path, fault: str, workers: int, tmp_path: Path
) -> None:
    spoil, code, parts = FAULTS[fault]
    spoil(copied)
    words = ("train-det", "--cfg", copied / "tiny.yaml", "--out", tmp_path / "run")
    done = resdet(*words, f"data.workers={workers}")
    expect_one_line(done.err, *parts)
    assert done.code == code


def test_a_corrupt_image_in_a_worker(resdet: Command, copied: Path, tmp_path: Path) -> None:
    cut("scenes/JPEGImages/train_00005.jpg")(copied)
    words = ("train-det", "--cfg", copied / "tiny.yaml", "--out", tmp_path / "run")
    done = resdet(*words, "data.workers=2")
    expect_one_line(done.err, "train_00005.jpg")
    assert done.code == 3


@pytest.mark.parametrize("option", ["--weights", "--resume"])
def test_an_invalid_checkpoint(
    resdet: Command, tiny_config: Path, tmp_path: Path, option: str
) -> None:
    path = tmp_path / "weights" / "last.pt"
    path.parent.mkdir()
    path.write_bytes(b"not a checkpoint")
    done = resdet("train-det", "--cfg", tiny_config, option, path, cwd=tmp_path)
    expect_one_line(done.err, str(path))
    assert done.code == 3


def test_an_invalid_device_and_an_invalid_folder(
    resdet: Command, tiny_config: Path, tmp_path: Path
) -> None:
    words = ("train-det", "--cfg", tiny_config)
    done = resdet(*words, "--out", tmp_path / "run", "--device", "cuda:77")
    expect_one_line(done.err, "--device cuda:77")
    assert done.code == 2
    done = resdet(*words, "--out", "/proc/nowhere")
    expect_one_line(done.err, "/proc/nowhere")
    assert done.code == 2
    done = resdet(*words, "--out", tiny_config)
    expect_one_line(done.err, str(tiny_config))
    assert done.code == 2


def expect_one_line(text: str, *parts: str) -> None:
    """libjpeg may add warnings, and two missing data sources are two errors."""
    lines = [line for line in text.splitlines() if not line.startswith("Corrupt JPEG data")]
    assert lines and all(line.startswith("error: ") for line in lines), text
    assert len(lines) == 1 or all("not found, tried" in line for line in lines), text
    assert "Traceback" not in text and "--debug" not in text, text
    for part in parts:
        assert part in text, text


def test_only_images_without_objects_train_to_finite_losses(
    resdet: Command, copied: Path, tmp_path: Path
) -> None:
    import json
    import re

    for path in (copied / "scenes" / "Annotations").glob("train_*.xml"):
        path.write_text(re.sub(r"<object>.*</object>", "", path.read_text(), flags=re.DOTALL))
    run = tmp_path / "run"
    done = resdet("train-det", "--cfg", copied / "tiny.yaml", "--out", run)
    assert done.code == 0, done.err
    assert "with objects 0, empty 12" in done.out
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if entry["kind"] == "train"]
    assert len(losses) == 4 and None not in losses
    assert losses[-1] < losses[0]


def test_the_tests_named_in_the_table_of_faults_exist() -> None:
    """Each row of docs/faults.md ends with an existing test."""
    import ast
    import re

    root = Path(__file__).resolve().parent.parent
    table = (root / "docs" / "faults.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("| ") and "test |" not in line]
    rows = [line for line in rows if line.count("|") > 3]
    named = re.findall(r"`(tests/[^`:]+\.py)::(\w+)`", table)
    assert len(rows) > 25 and len(named) >= len(rows)
    assert all("::test_" in line.rstrip(" |").rpartition("|")[2] for line in rows)
    for file, name in named:
        tree = ast.parse((root / file).read_text(encoding="utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert name in tests, f"{file}::{name}"

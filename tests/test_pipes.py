"""Pipes in place of input files: every command refuses them at once, where opening one would wait
for ever."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from PIL import Image
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.datasets.convert.split import RECORD, same_bytes
from resdet.datasets.manifests.manifest import write_manifest
from resdet.datasets.manifests.storage import open_stream, read_bytes
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.tasks.hub import measured_part
from resdet.detection.tasks.region_localizer import _read_proposals
from resdet.tools.cli import main
from resdet.tools.serve import _token


@pytest.fixture(autouse=True)
def ending() -> Iterator[None]:
    """Ends a test that waits for a pipe."""

    def end(number: int, frame: FrameType | None) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def _pipe(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)
    return path


def _image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48)).save(path)
    return path


def _voc(root: Path, pipe: str) -> list[str]:
    _image(root / "JPEGImages" / "a.jpg")
    for name, text in (("Annotations/a.xml", "<annotation/>"), ("ImageSets/Main/train.txt", "a")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _pipe(path) if name == pipe else path.write_text(text)
    return ["check-data", str(root), "--format", "voc"]


def _coco(root: Path) -> list[str]:
    _image(root / "images" / "a.jpg")
    _pipe(root / "instances_train.json")
    return ["check-data", str(root), "--format", "coco"]


def _yolo(root: Path, pipe: str) -> list[str]:
    _image(root / "images" / "train" / "a.jpg")
    for name, text in (("labels/train/a.txt", ""), ("data.yaml", "names: [dog]")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        _pipe(path) if name == pipe else path.write_text(text)
    return ["check-data", str(root), "--format", "yolo"]


def _infer(root: Path) -> list[str]:
    return [
        "infer",
        "--weights",
        str(_pipe(root / "w.pt")),
        str(_image(root / "a.jpg")),
        "--out",
        "o",
    ]


def _other(root: Path, format: str, name: str) -> list[str]:
    _image(root / "a.jpg")
    given = ["--annotations", str(_pipe(root / name))] if format != "labelme" else []
    _pipe(root / "a.json")
    return ["check-data", str(root), "--format", format, *given]


COMMANDS: dict[str, Callable[[Path], list[str]]] = {
    "XML": lambda root: _voc(root, "Annotations/a.xml"),
    "image set": lambda root: _voc(root, "ImageSets/Main/train.txt"),
    "COCO": _coco,
    "labels": lambda root: _yolo(root, "labels/train/a.txt"),
    "names": lambda root: _yolo(root, "data.yaml"),
    "config": lambda root: ["train-det", "--cfg", str(_pipe(root / "a.yaml"))],
    "weights": _infer,
    "converted": lambda root: [
        *("eval", "--cfg", "voc_r101.yaml", "--weights", str(_pipe(root / "w.safetensors")))
    ],
    "CSV": lambda root: _other(root, "csv", "train.csv"),
    "CVAT": lambda root: _other(root, "cvat", "train.xml"),
    "Label Studio": lambda root: _other(root, "label_studio", "train.json"),
    "labelme": lambda root: _other(root, "labelme", "train/a.json"),
    "evaluation": lambda root: [*("compare", *[str(_pipe(root / "images.json").parent)] * 2)],
    "convert": lambda root: ["convert-weights", str(_pipe(root / "w.pth")), "x.safetensors"],
    "manifest": lambda root: [
        *("eval", "--manifest", str(_pipe(root / "manifest.json").parent)),
        *("--predictions", str(root), "--annotations", str(root)),
    ],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(COMMANDS[name](tmp_path / "data")) in (2, 3)
    out, err = capsys.readouterr()
    assert "Traceback" not in err and "run again with --debug" not in err
    assert "not a regular file" in out + err or "no such" in out + err.lower(), out + err


def test_a_pipe_among_files_that_are_looked_into(tmp_path: Path) -> None:
    _image(tmp_path / "a.jpg")
    for name in ("a.csv", "a.json", "a.xml", "a.txt", "data.yaml"):
        _pipe(tmp_path / name)
    assert main(["check-data", str(tmp_path)]) == 0


def test_a_pipe_in_place_of_a_shard_an_image_to_compare_or_the_record_of_a_split(
    tmp_path: Path,
) -> None:
    pipe = _pipe(tmp_path / "pipe")
    for read in (partial(open_stream, size=9), read_bytes):
        with pytest.raises(OSError, match="not a regular file"):
            read(str(pipe))
    with pytest.raises(DataError, match="not a regular file"):
        same_bytes([pipe, pipe])
    _pipe(tmp_path / "metrics.json")
    with pytest.raises(DataError, match="not a regular file"):
        _read_proposals(pipe, [])
    with pytest.raises(ConfigError, match="not a regular file"):
        _token(pipe)
    with pytest.raises(ConfigError, match="not a regular file"):
        measured_part(tmp_path, pipe)
    make_scenes(tmp_path / "scenes", train=2, val=1, size=(64, 64))
    _pipe(tmp_path / "scenes" / "ImageSets" / "Main" / RECORD)
    parts = ("--split", "train", "--force", "--parts", "a=0.5", "b=0.5")
    assert main(["split", str(tmp_path / "scenes"), "--from", "voc", *parts]) == 0


def test_a_pipe_among_the_tar_files_of_a_manifest(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    _pipe(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar: cannot be read .*not a regular file"):
        write_manifest([str(tmp_path / "*.tar")], str(tmp_path / "manifest"))


def test_a_socket_as_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s.yaml"))
        assert main(["train-det", "--cfg", str(tmp_path / "s.yaml")]) == 2
    assert "s.yaml: not a regular file" in capsys.readouterr().err

"""The get-data command: output, location of the files, and errors."""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from resdet.datasets.acquire import download
from resdet.datasets.acquire.cifar import write_class_folders
from resdet.datasets.acquire.download import Archive
from resdet.datasets.image import read_image
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.files import read_config
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.tasks.classifier import CLASSIFICATION
from resdet.tools import get_data


def run(*words: str) -> int:
    parser = argparse.ArgumentParser()
    get_data.add_arguments(parser)
    return get_data.run(parser.parse_args(words))


def test_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run("synthetic", "--out", str(tmp_path), "--train", "3", "--val", "2", "--seed", "5")
    assert code == 0
    assert len(list((tmp_path / "synthetic" / "JPEGImages").iterdir())) == 5
    assert f"data.root={tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("voc2007", "--train", "3"), "--train"),
        (("coco2017", "--seed", "0"), "--seed"),
        (("synthetic", "--delete-archives"), "--delete-archives"),
        (("synthetic", "--train", "-3"), "train"),
    ],
)
def test_options_that_do_not_apply(tmp_path: Path, words: tuple[str, ...], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named}"):
        run(*words, "--out", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_unknown_data_set() -> None:
    with pytest.raises(SystemExit) as caught:
        run("voc2013")
    assert caught.value.code == 2


@pytest.fixture
def tiny_voc(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small archive in place of VOC 2007, at an address without a server."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        info = tarfile.TarInfo("VOCdevkit/VOC2007/ImageSets/Main/test.txt")
        info.size = 7
        packed.addfile(info, io.BytesIO(b"000001\n"))
    content = buffer.getvalue()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    urls = ("http://127.0.0.1:1/voc.tar",)
    archive = Archive("voc.tar", urls, len(content), digest, target=".", folder="VOCdevkit/VOC2007")
    monkeypatch.setitem(download.DATASETS, "voc2007", (archive,))
    return content


@pytest.mark.parametrize("option", [(), ("--delete-archives",)])
def test_archive_placed_by_hand(
    tmp_path: Path,
    tiny_voc: bytes,
    option: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    placed = tmp_path / "archives" / "voc.tar"
    placed.parent.mkdir()
    placed.write_bytes(tiny_voc)
    assert run("voc2007", "--out", str(tmp_path), *option) == 0
    assert (tmp_path / "VOCdevkit/VOC2007/ImageSets/Main/test.txt").read_bytes() == b"000001\n"
    assert placed.exists() == (not option)
    assert capsys.readouterr().out == (
        f"voc2007 is complete; use it with data.root={tmp_path}\n"
        f"next: resdet check-data {tmp_path}/VOCdevkit/VOC2007\n"
    )

    assert run("voc2007", "--out", str(tmp_path), *option) == 0  # nothing left to do


def test_cifar_becomes_class_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A small archive of its layout, placed by hand; its red image is red in the PNG."""
    red = bytes([1]) + bytes([200] * 1024 + [10] * 2048)
    other = bytes([0]) + bytes(range(256)) * 12
    files = {"batches.meta.txt": b"airplane\nbird\n\n", "test_batch.bin": red + other}
    files |= {f"data_batch_{number}.bin": other + red for number in range(1, 6)}
    packed_bytes = io.BytesIO()
    with tarfile.open(fileobj=packed_bytes, mode="w") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    (archive,) = download.DATASETS["cifar10"]
    content = packed_bytes.getvalue()
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(
        download.DATASETS, "cifar10", (replace(archive, size=len(content), md5=digest),)
    )
    placed = tmp_path / "archives" / archive.name
    placed.parent.mkdir()
    placed.write_bytes(content)
    monkeypatch.setenv("FORCE_COLOR", "1")  # colours, but no bars
    monkeypatch.setattr("resdet.detection.printing.LINE_EVERY", 0.0)
    for _ in range(2):  # a second time nothing is left to do
        assert run("cifar10", "--out", str(tmp_path)) == 0
    said = capsys.readouterr().err
    assert "images of train" in said and "\x1b" not in said
    seen: list[tuple[str, int, int]] = []
    write_class_folders(
        tmp_path / archive.folder, tmp_path / "a", progress=lambda *each: seen.append(each)
    )
    shutil.rmtree(tmp_path / "a")
    part, whole = 2 * 3073, 5 * 2 * 3073  # bytes
    assert (seen[0], seen[4]) == (
        ("images of train", part, whole),
        ("images of train", *[whole] * 2),
    )
    written = sorted(path.relative_to(tmp_path / "cifar10") for path in tmp_path.rglob("*.png"))
    numbers = [("airplane", 2 * n) for n in range(5)] + [("bird", 2 * n + 1) for n in range(5)]
    expected = [Path("train", name, f"{number:05d}.png") for name, number in numbers]
    expected += [Path("val", "airplane", "00001.png"), Path("val", "bird", "00000.png")]
    assert written == expected
    pixels = read_image(tmp_path / "cifar10" / written[-1]).pixels
    assert pixels.shape == (32, 32, 3) and (pixels == (200, 10, 10)).all()
    ramp = read_image(tmp_path / "cifar10" / written[0]).pixels
    assert ramp[0, :3].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]] and ramp[8, 0, 0] == 0
    config = read_config(ClassifierConfig, "cifar10_r20", [f"data.root={tmp_path}"])
    split = CLASSIFICATION.read(config, "train")
    assert split.classes == ("airplane", "bird") and len(split.records) == 10


def test_cifar_files_of_another_content(tmp_path: Path) -> None:
    (tmp_path / "batches.meta.txt").write_text("a b")
    for number in range(1, 6):
        (tmp_path / f"data_batch_{number}.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match=r"test_batch\.bin: cannot be read"):
        write_class_folders(tmp_path, tmp_path / "out")
    (tmp_path / "test_batch.bin").write_bytes(bytes(3072))
    with pytest.raises(DataError, match=r"test_batch\.bin: 3072 bytes, expected records of 3073"):
        write_class_folders(tmp_path, tmp_path / "out")
    (tmp_path / "test_batch.bin").write_bytes(bytes([7]) * 3073)
    with pytest.raises(DataError, match="label 7, but there are 2 classes"):
        write_class_folders(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out" / "val").exists()


def test_damaged_archive_placed_by_hand(tmp_path: Path, tiny_voc: bytes) -> None:
    placed = tmp_path / "archives" / "voc.tar"
    placed.parent.mkdir()
    placed.write_bytes(tiny_voc.replace(b"000001", b"000002"))
    with pytest.raises(DataError, match=r"voc\.tar: has md5"):
        run("voc2007", "--out", str(tmp_path))
    assert not (tmp_path / "VOCdevkit").exists()

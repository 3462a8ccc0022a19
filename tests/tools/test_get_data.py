"""The get-data command: output, location of the files, and errors."""

from __future__ import annotations

import argparse
import hashlib
import io
import tarfile
from pathlib import Path

import pytest
from resdet.datasets.acquire import download
from resdet.datasets.acquire.download import Archive
from resdet.detection.errors import ConfigError, DataError
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
    assert capsys.readouterr().out == f"voc2007 is complete; use it with data.root={tmp_path}\n"

    assert run("voc2007", "--out", str(tmp_path), *option) == 0  # nothing left to do


def test_damaged_archive_placed_by_hand(tmp_path: Path, tiny_voc: bytes) -> None:
    placed = tmp_path / "archives" / "voc.tar"
    placed.parent.mkdir()
    placed.write_bytes(tiny_voc.replace(b"000001", b"000002"))
    with pytest.raises(DataError, match=r"voc\.tar: has md5"):
        run("voc2007", "--out", str(tmp_path))
    assert not (tmp_path / "VOCdevkit").exists()

"""Folders that the user may not read are told and passed over by everything that lists folders."""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from resdet.datasets.catalog_classes import labelled_splits
from resdet.datasets.formats import inspect
from resdet.datasets.formats.image_folder import FolderSource
from resdet.datasets.image import ImageRules
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.inference.inputs import find_inputs
from resdet.tools.cli import main

TOLD = "locked: cannot be read: Permission denied; what is in it is left out"


@pytest.fixture
def as_user() -> Iterator[None]:
    """Root without the rights by which it reads what its permissions forbid (Linux)."""
    if os.geteuid() != 0:
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root reads everything")
    libc, head = ctypes.CDLL(None, use_errno=True), (ctypes.c_uint32 * 2)(0x20080522, 0)
    before, now = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for rights in (before, now):
        assert libc.capget(head, rights) == 0
    now[0] &= ~0b110  # of those in effect: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(head, now) == 0
    yield
    assert libc.capset(head, before) == 0


@pytest.fixture
def data(tmp_path: Path, as_user: None) -> Iterator[Path]:
    """Class folders of which one is locked; a folder of images is ``train``."""
    for number, place in enumerate(("train/cat", "train/dog", "train/locked", "val/cat")):
        for shade in (10, 200):
            path = tmp_path / "data" / place / f"{shade}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (40, 40), (shade, 20 * number, 0)).save(path)
    locked = tmp_path / "data" / "train" / "locked"
    locked.chmod(0)
    yield tmp_path / "data"
    locked.chmod(0o700)


@pytest.mark.parametrize("pattern", ["train", "train/*/*.png", "train/**/*.png", "*/*/10.png"])
def test_inputs_of_infer(data: Path, pattern: str) -> None:
    with pytest.warns(match=TOLD):
        found = find_inputs([str(data / pattern)])
    assert {file.path.parent.name for file in found} == {"cat", "dog"}
    with pytest.raises(ConfigError, match="locked: cannot be read: Permission denied"):
        find_inputs([str(data / "train" / "locked")])  # named itself


def test_the_data_of_a_training(data: Path) -> None:
    (data / "val" / "dog").mkdir()
    shutil.copy(data / "val" / "cat" / "10.png", data / "val" / "dog")
    images, (finding,) = inspect(FolderSource(root=data))
    assert [image.image_class for image in images] == ["cat", "cat", "dog", "dog"]
    assert (finding.kind, finding.severity) == ("unreadable_folder", "error")
    assert str(finding).endswith(TOLD)
    with pytest.raises(DataError, match=f"{TOLD}; data.on_bad_image=skip leaves such images out"):
        labelled_splits(FolderSource(root=data))
    rules = ImageRules(on_bad_image="skip")
    train, _ = labelled_splits(FolderSource(root=data), rules=rules)
    assert train.classes == ("cat", "dog")
    assert [each.outcome for each in train.findings if each.kind == finding.kind] == ["skipped"]


@pytest.mark.parametrize("place", [".", "train"])
def test_the_check(data: Path, place: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(match=TOLD):
        assert main(["check-data", str(data / place), "--quick"]) == 3
    assert "unreadable_folder" in capsys.readouterr().out


def test_a_manifest(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    with pytest.warns(match=TOLD):
        assert main(["manifest", str(data), "--out", str(tmp_path / "m")]) == 0
    assert "6 images" in capsys.readouterr().out

"""Listings leave out hidden and system files, and follow links once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from resdet.datasets.listing import image_files, is_hidden, is_image_name, subfolders, walk_files
from resdet.detection.errors import DataError


@pytest.mark.parametrize(
    "name", [".DS_Store", "._a.jpg", "Thumbs.db", "thumbs.DB", "__MACOSX", "~$a.xml", ".git"]
)
def test_names_of_system_files(name: str) -> None:
    assert is_hidden(name)
    assert not is_image_name(name)


@pytest.mark.parametrize("name", ["a.jpg", "A.JPEG", "a.b.png", "_a.tif", "thumbs.db.jpg"])
def test_names_of_images(name: str) -> None:
    assert is_image_name(name)
    assert not is_hidden(name)


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("b/a.jpg", "a.png", "a.txt", ".thumbnails/a.jpg", "__MACOSX/._a.jpg", "b/._a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(walk_files(tmp_path)) == [tmp_path / name for name in ("a.png", "a.txt", "b/a.jpg")]
    assert image_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b/a.jpg"]
    assert subfolders(tmp_path) == [tmp_path / "b"]
    assert len(list(walk_files(tmp_path, hidden=True))) == 6


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert image_files(tmp_path) == [tmp_path / "a" / "x.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0)
    with pytest.raises(DataError, match="a: cannot be read: Permission denied"):
        list(walk_files(tmp_path))

"""Listings leave out hidden and system files, and follow links once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from resdet.datasets.listing import (
    files_in,
    files_with_suffix,
    has_images,
    image_files,
    is_hidden,
    is_image_name,
    listed_once,
    subfolders,
    walk_files,
)
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


@pytest.mark.parametrize("name", ["jpg", "a", "a.jpg.txt", ".jpg", ""])
def test_names_of_no_images(name: str) -> None:
    assert not is_image_name(name)


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    for name in ("b/a.jpg", "a.png", "a.txt", ".thumbnails/a.jpg", "__MACOSX/._a.jpg", "b/._a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert list(walk_files(tmp_path)) == [tmp_path / name for name in ("a.png", "a.txt", "b/a.jpg")]
    assert image_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b/a.jpg"]
    assert subfolders(tmp_path) == [tmp_path / "b"]
    assert len(list(walk_files(tmp_path, hidden=True))) == 6
    assert files_in(tmp_path) == [tmp_path / "a.png", tmp_path / "a.txt"]
    assert files_in(tmp_path, ".txt") == [tmp_path / "a.txt"]
    assert files_in(tmp_path / "absent") == []
    assert list(files_with_suffix(tmp_path, ".jpg", ".txt")) == [
        tmp_path / "a.txt",
        tmp_path / "b/a.jpg",
    ]
    assert has_images(tmp_path / "b") and not has_images(tmp_path / "__MACOSX")


def test_a_folder_is_read_once_within_listed_once_and_again_after_it(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with listed_once():
        assert len(image_files(tmp_path)) == 1
        (tmp_path / "b.jpg").touch()
        with listed_once():
            assert len(image_files(tmp_path)) == len(files_in(tmp_path)) == 1
        assert len(image_files(tmp_path)) == 1
    assert len(image_files(tmp_path)) == len(files_in(tmp_path)) == 2


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"")
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert image_files(tmp_path) == [tmp_path / "a" / "x.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(mode=0)
    with pytest.raises(DataError, match="a: cannot be read: Permission denied"):
        list(walk_files(tmp_path / "a"))
    with pytest.warns(match="a: cannot be read: Permission denied; what is in it is left out"):
        assert list(walk_files(tmp_path)) == []

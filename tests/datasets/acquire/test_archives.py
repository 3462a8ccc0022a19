"""Unpacking of regular archives, and errors for malicious and damaged ones."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.acquire.archives import unpack
from resdet.detection.errors import DataError


def tar_with(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "outer" / "target"
    folder.mkdir(parents=True)
    return folder


def everything_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_tar_and_zip_are_unpacked_completely(tmp_path: Path, target: Path) -> None:
    tar = tar_with(
        tmp_path / "a.tar",
        (entry("top", tarfile.DIRTYPE), b""),
        (entry("top/one.txt"), b"one"),
        (entry("top/empty"), b""),
    )
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("top")
        archive.writestr("top/two.txt", b"two" * 100)
    assert unpack(tar, target) == 2
    assert unpack(tmp_path / "b.zip", target) == 1
    assert everything_below(target) == {"top/one.txt", "top/empty", "top/two.txt"}
    assert (target / "top/one.txt").read_bytes() == b"one"
    assert (target / "top/two.txt").read_bytes() == b"two" * 100


def test_empty_archive(tmp_path: Path, target: Path) -> None:
    assert unpack(tar_with(tmp_path / "a.tar"), target) == 0


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "..\\evil", "C:\\evil", "C:/evil", "a/.."]
)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_names_outside_the_target_are_errors(
    tmp_path: Path, target: Path, name: str, kind: str
) -> None:
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        tar_with(path, (entry(name), b"evil"))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(zipfile.ZipInfo(name), b"evil")
    with pytest.raises(DataError, match="outside the target"):
        unpack(path, target)
    assert everything_below(tmp_path) == {path.name}


@pytest.mark.parametrize(
    ("kind", "link"),
    [
        (tarfile.SYMTYPE, "/etc/passwd"),
        (tarfile.SYMTYPE, "inside"),
        (tarfile.LNKTYPE, "../../a.tar"),
        (tarfile.CHRTYPE, ""),
        (tarfile.BLKTYPE, ""),
        (tarfile.FIFOTYPE, ""),
    ],
)
def test_links_and_devices_in_tar(tmp_path: Path, target: Path, kind: bytes, link: str) -> None:
    path = tar_with(tmp_path / "a.tar", (entry("innocent", kind, link), b""))
    with pytest.raises(DataError, match="innocent: not a regular file"):
        unpack(path, target)
    assert list(target.iterdir()) == []


def test_symlink_in_zip(tmp_path: Path, target: Path) -> None:
    info = zipfile.ZipInfo("innocent")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="innocent: not a regular file"):
        unpack(tmp_path / "a.zip", target)
    assert list(target.iterdir()) == []


def test_an_existing_link_is_not_followed_outside(tmp_path: Path, target: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (target / "door").symlink_to(outside)
    path = tar_with(tmp_path / "a.tar", (entry("door/evil"), b"evil"))
    with pytest.raises(DataError, match="outside the target"):
        unpack(path, target)
    assert list(outside.iterdir()) == []


def test_file_modes_are_not_restored(tmp_path: Path, target: Path) -> None:
    info = entry("program")
    info.mode = 0o6777
    unpack(tar_with(tmp_path / "a.tar", (info, b"x")), target)
    assert stat.S_IMODE((target / "program").stat().st_mode) & 0o7111 == 0


def test_zip_bomb_stops_early(tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(50_000_000))
    size = (tmp_path / "a.zip").stat().st_size
    assert size < 100_000
    with pytest.raises(DataError, match="zeros: unpacks to much more"):
        unpack(tmp_path / "a.zip", target)
    assert (target / "zeros").stat().st_size <= 30 * size


def test_many_small_files_count_together(tmp_path: Path, target: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(10):
            archive.writestr(f"{index}", bytes(100_000))
    with pytest.raises(DataError, match="much more"):
        unpack(tmp_path / "a.zip", target, max_expansion=100)


def test_too_many_files(tmp_path: Path, target: Path) -> None:
    path = tar_with(tmp_path / "a.tar", *((entry(f"{index}"), b"") for index in range(11)))
    with pytest.raises(DataError, match="more than 10 files"):
        unpack(path, target, max_files=10)
    assert len(everything_below(target)) == 10


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
def test_not_an_archive(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"<html>sorry</html>" * 100)
    with pytest.raises(DataError, match="damaged archive"):
        unpack(tmp_path / name, target)


def test_flipped_byte_in_zip(tmp_path: Path, target: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("image", b"unmistakable")
    path.write_bytes(path.read_bytes().replace(b"unmistakable", b"unmistakablE", 1))
    with pytest.raises(DataError, match=r"damaged archive.*CRC"):
        unpack(path, target)


def test_tar_that_ends_in_a_zip_is_read_as_tar(tmp_path: Path, target: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("wrong", b"")
    path = tar_with(tmp_path / "a.tar", (entry("inner.zip"), inner.getvalue()))
    unpack(path, target)
    assert everything_below(target) == {"inner.zip"}


def test_file_where_a_folder_is_needed(tmp_path: Path, target: Path) -> None:
    path = tar_with(tmp_path / "a.tar", (entry("a"), b"1"), (entry("a/b"), b"2"))
    with pytest.raises(DataError, match="cannot be written"):
        unpack(path, target)


@given(name=st.text(alphabet="a./\\:~\0é ", min_size=1, max_size=12))
def test_no_name_writes_outside(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    base = tmp_path_factory.mktemp("case")
    target = base / "outer" / "target"
    target.mkdir(parents=True)
    path = tar_with(base / "a.tar", (entry(name), b"x"))
    with contextlib.suppress(DataError):
        unpack(path, target)
    outside = {Path(folder) / file for folder, _, files in os.walk(base) for file in files}
    assert all(file.is_relative_to(target) for file in outside - {path})

"""Atomic writes, checksums and the lock of an output folder."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.files import (
    LOCK,
    append_file,
    atomic_folder,
    atomic_write,
    folder_lock,
    is_unused,
    part_of,
    read_limited,
    remove_leftovers,
    sha256_of,
    write_file,
)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full after ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# ----------------------------------------------------------------------------- atomic writes


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("content", [b"", b"\x00\r\n\xff", "", "a\r\nb\u20ac\n"])
def test_the_content_is_written_unchanged(tmp_path: Path, content: bytes | str, sync: bool) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    write_file(path, content, sync=sync)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stays_until_the_end_of_the_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_write(path) as part:
        part.write_text("new")
        assert path.read_text() == "old" and part == part_of(path)
    assert path.read_text() == "new"


@pytest.mark.parametrize("fault", [KeyError("key"), KeyboardInterrupt(), OSError(5, "reason")])
def test_after_any_exception_all_is_as_before(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(fault)) as caught, atomic_write(path) as part:
        part.write_text("ne")
        raise fault
    assert caught.value is fault
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sync", [False, True])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with largest_file(1000), pytest.raises(DataError, match=r"file: cannot be written: File too"):
        write_file(path, bytes(2000), sync=sync, error=DataError)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["absent/file", "file/below", "folder"])
def test_a_place_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OSError):
        write_file(tmp_path / place, "new")
    with pytest.raises(ConfigError, match=f"{place}: cannot be written: [A-Z]"):
        write_file(tmp_path / place, "new", error=ConfigError)
    assert sorted(tmp_path.rglob("*")) == before


def test_text_that_utf8_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be written: .*surrogates"):
        write_file(tmp_path / "file", "\udcff", error=ConfigError)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_replaced_and_links_are_not_followed(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    other.write_text("other")
    part_of(path).symlink_to(other)
    write_file(path, "new")
    assert path.read_text() == "new" and not path.is_symlink() and other.read_text() == "other"


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(KeyError), atomic_folder(out) as part:
        (part / "file").write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    child = os.fork()
    if child == 0:
        with atomic_folder(out) as part:
            (part / "sub").mkdir()
            (part / "sub" / "file").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert not out.exists() and len(list(tmp_path.iterdir())) == 1
    for content in ("new", "newer"):
        with atomic_folder(out, replace=True) as part:
            assert is_unused(part)
            with pytest.raises(ConfigError, match="another run"), atomic_folder(out):
                pass
            (part / "file").write_text(content)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert [path.name for path in out.iterdir()] == ["file"]
        assert (out / "file").read_text() == content
    with atomic_folder(out, replace=True):
        pass
    assert list(out.iterdir()) == []


def test_a_folder_is_replaced_under_its_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting a large one takes long: another process must not begin meanwhile."""
    out, refused = tmp_path / "out", []
    (out / "sub").mkdir(parents=True)

    def slow(path: Path, remove: Callable[..., None] = shutil.rmtree, **options: bool) -> None:
        refused.append((path.name, (out / "file").exists()))
        with pytest.raises(ConfigError, match="another run"), atomic_folder(out):
            pass
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", slow)
    with atomic_folder(out, replace=True) as part:
        (part / "file").touch()
    assert refused == [("old", True)], "the new one is there before the old one is deleted"
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "file"]


def test_files_that_appear_in_a_folder_to_write_are_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with (
        pytest.raises(ConfigError, match=r"out: another program wrote into it meanwhile"),
        atomic_folder(out) as part,
    ):
        (part / "file").touch()
        (out / "notes.txt").write_text("mine")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]


def test_a_link_to_a_folder_to_write_stays(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk")
    with atomic_folder(tmp_path / "link") as part:
        (part / "file").touch()
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "file").exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_whose_replacement_was_killed_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, rename = tmp_path / "out", Path.rename
    out.mkdir()
    (out / "old").touch()

    def then_killed(path: Path, target: Path) -> None:
        rename(path, target)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(Path, "rename", then_killed)
        with atomic_folder(out, replace=True):
            pass
    os.waitpid(child, 0)
    assert not out.exists()
    with pytest.raises(KeyError), atomic_folder(out, replace=True):
        raise KeyError
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "old"]


def test_names_reach_the_disk_with_the_contents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file before it is renamed, its folder after it."""
    path, seen = tmp_path / "file", []

    def sync(descriptor: int) -> None:
        seen.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists()))

    monkeypatch.setattr(os, "fsync", sync)
    write_file(path, "new", sync=True)
    assert seen == [(part_of(path), False), (tmp_path, True)]


# -------------------------------------------------------------------------------- checksums


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_sha256(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


# ------------------------------------------------------------------------------------- lock


def test_a_lock_names_its_process_and_is_removed_at_the_end(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    with folder_lock(folder):
        assert (folder / LOCK).read_text() == f"{os.getpid()}\n" and is_unused(folder)
        with (
            pytest.raises(ConfigError, match=rf"run: another run \(process {os.getpid()}\)"),
            folder_lock(folder),
        ):
            pass
        (folder / "result").touch()
        assert not is_unused(folder)
    assert list(folder.iterdir()) == [folder / "result"]
    with folder_lock(folder):
        pass


def test_a_folder_left_empty_is_removed_only_if_it_was_made(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "new"):
        pass
    (tmp_path / "old").mkdir()
    with pytest.raises(KeyError), folder_lock(tmp_path / "old"):
        raise KeyError
    assert list(tmp_path.iterdir()) == [tmp_path / "old"] and is_unused(tmp_path / "absent")
    assert is_unused(tmp_path / "old")


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    """Its lock file says that it was killed; files of others and of runs within are kept."""
    run, left = tmp_path / "run", part_of(tmp_path / "run" / "weights" / "best.pt")
    kept = (run / "film.mp4.part", run / "downloads" / "song.mp3.part", run / "last.pt")
    other, within = part_of(tmp_path / "a"), part_of(run / "inner" / "a")
    for path in (left, *kept, other, run / LOCK, within, run / "inner" / LOCK):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with folder_lock(tmp_path), folder_lock(run):
        assert not left.exists()
        assert all(path.exists() for path in (*kept, other, within))


def test_what_was_killed_after_its_folder_was_finished_is_removed(tmp_path: Path) -> None:
    """The next one is refused, as the folder is there; nothing else would remove it."""
    work = part_of(tmp_path / "out")
    for path in (tmp_path / "out" / "a.txt", work / LOCK, work / "old" / "b.txt"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with folder_lock(work):
        remove_leftovers(tmp_path / "out")  # another process holds it
        assert (work / "old" / "b.txt").exists()
    (work / LOCK).touch()
    remove_leftovers(tmp_path / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_the_file_of_a_dead_process_locks_nothing(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("12345678 is gone\n")
    with folder_lock(tmp_path):
        assert (tmp_path / LOCK).read_text() == f"{os.getpid()}\n"


def test_a_forked_worker_neither_keeps_nor_ends_the_lock(tmp_path: Path) -> None:
    """It may outlive a killed run by seconds, in which the folder must not stay locked."""
    lock = folder_lock(tmp_path)
    lock.__enter__()
    worker = os.fork()
    if worker == 0:
        lock.__exit__(None, None, None)
        time.sleep(60)
        os._exit(0)
    try:
        time.sleep(0.3)
        with pytest.raises(ConfigError, match="another run"), folder_lock(tmp_path):
            pass
        lock.__exit__(None, None, None)
        with folder_lock(tmp_path):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL])
def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, "no locks here")

    monkeypatch.setattr("fcntl.flock", refuse)
    with folder_lock(tmp_path / "run"):
        (tmp_path / "run" / "result").touch()
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "result"]


@pytest.mark.parametrize("place", ["/proc/nowhere", "file"])
def test_a_folder_that_cannot_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigError, match=f"{place}: cannot write to this folder: [A-Z]"),
        folder_lock(tmp_path / place),
    ):
        pass


def test_a_full_disk_does_not_keep_the_lock_from_working(tmp_path: Path) -> None:
    with (
        largest_file(0),
        folder_lock(tmp_path),
        pytest.raises(ConfigError, match=r"another run \(process unknown\)"),
        folder_lock(tmp_path),
    ):
        pass


def test_append_file_adds_everything_or_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    append_file(path, b"one\n")
    append_file(path, b"two\n")
    assert path.read_bytes() == b"one\ntwo\n"
    with largest_file(1000), pytest.raises(OSError, match="File too"):
        append_file(path, bytes(2000))
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"abc")
    assert read_limited(path, 3) == b"abc"
    with pytest.raises(OSError, match="larger than 2 bytes"):
        read_limited(path, 2)
    with pytest.raises(IsADirectoryError):
        read_limited(tmp_path, 3)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc")
def test_a_file_that_has_more_than_it_says() -> None:
    """Its size is 0 for whoever asks."""
    with pytest.raises(OSError, match="grows while it is read"):
        read_limited(Path("/proc/self/maps"), 2**30)


def test_pipes_devices_and_links_to_them_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            read_limited(path, 3)

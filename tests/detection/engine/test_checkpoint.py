"""Checkpoints: atomic writing, and reading of damaged and hostile files."""

from __future__ import annotations

import os
import platform
import resource
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from resdet.detection.engine.checkpoint import free, load_checkpoint, save_checkpoint
from resdet.detection.errors import WeightsError


def state(step: int, size: int = 10) -> dict[str, Any]:
    return {
        "model": {"weight": torch.full((size,), float(step))},
        "config": {},
        "classes": ["cat"],
        "step": step,
    }


def test_round_trip_keeps_tensors_and_primitives(tmp_path: Path) -> None:
    path = tmp_path / "new" / "last.pt"
    save_checkpoint(path, {**state(3), "best": float("-inf"), "average": None})
    loaded = load_checkpoint(path)
    assert loaded["step"] == 3 and loaded["classes"] == ["cat"] and loaded["average"] is None
    assert loaded["best"] == float("-inf")
    assert torch.equal(loaded["model"]["weight"], torch.full((10,), 3.0))
    assert [file.name for file in path.parent.iterdir()] == ["last.pt"]


def test_the_file_before_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    for step in (1, 2, 3):
        save_checkpoint(path, state(step), keep_previous=True)
    assert load_checkpoint(path)["step"] == 3
    assert load_checkpoint(tmp_path / "last-1.pt")["step"] == 2


def test_the_file_before_is_kept_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")  # what FAT answers

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    for step in (1, 2, 3):
        save_checkpoint(tmp_path / "last.pt", state(step), keep_previous=True)
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 3
    assert load_checkpoint(tmp_path / "last-1.pt")["step"] == 2


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """A disk that is full after ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [0, 1_000, 50_000])
def test_full_disk_leaves_the_old_file(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state(1))
    with largest_file(limit), pytest.raises(OSError):
        save_checkpoint(path, state(2, size=100_000), keep_previous=True)
    assert load_checkpoint(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]


def test_killed_at_any_moment_of_a_save(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state(0, size=300_000))
    for round_ in range(12):
        saved, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            torch.set_num_threads(1)  # the parent's pool of threads does not survive a fork
            for step in range(1, 10_000):
                save_checkpoint(path, state(step, size=300_000), keep_previous=True)
                os.write(tell, b".")
            os._exit(0)
        os.close(tell)
        assert os.read(saved, 1) == b"."  # however long the first save takes
        time.sleep(0.0037 * round_)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(saved)
        loaded = load_checkpoint(path)
        assert (loaded["model"]["weight"] == loaded["step"]).all()
        assert loaded["step"] > 0
        load_checkpoint(path.with_name("last-1.pt"))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_cut_short(tmp_path: Path, share: float) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state(1, size=1000))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    expect_one_line(path)


def test_damaged_bytes_never_end_in_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, state(1))
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        damaged = bytearray(content)
        for place in torch.randint(len(content), (8,), generator=generator).tolist():
            damaged[place] ^= 0xFF
        path.write_bytes(damaged)
        try:
            load_checkpoint(path)
        except WeightsError as error:
            assert "\n" not in str(error) and str(path) in str(error)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def test_a_pickled_object_is_refused_unopened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pt"
    torch.save({"format_version": 1, **state(1), "model": Payload()}, path)
    expect_one_line(path, "asks for ", "could run code")
    assert not (tmp_path / "ran").exists()


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with pytest.raises(WeightsError, match="no such checkpoint"):
        load_checkpoint(path)
    torch.save({"conv.weight": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"lacks model, config.*convert-weights"):
        load_checkpoint(path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="not a checkpoint of this toolkit"):
        load_checkpoint(path)
    torch.save({"format_version": 99, **state(1)}, path)
    with pytest.raises(WeightsError, match="checkpoint format 99, expected 1"):
        load_checkpoint(path)
    path.write_bytes(b"")
    expect_one_line(path)


def expect_one_line(path: Path, *parts: str) -> None:
    with pytest.raises(WeightsError) as caught:
        load_checkpoint(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_training_checkpoint_loads_as_weights_only(tiny_run: Path) -> None:
    state = torch.load(tiny_run / "weights" / "last.pt", weights_only=True)
    assert state["format_version"] == 1 and state["step"] == 8
    for name in ("model", "average", "optimizer", "config", "classes", "best", "meter"):
        assert state[name] is not None


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_freed_tensors_are_given_back_to_the_system() -> None:
    """Also below a tensor that is still in use; glibc takes large ones from the heap as soon as one
    of that size was freed."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    torch.ones(1 << 21).sum()  # freed
    content = {number: torch.ones(1 << 18) for number in range(100)}  # 1 MiB each
    reader: list[object] = [*content.values()]
    reader.append(reader)  # refers to itself, as that of a file does
    del reader
    above = torch.ones(1 << 18)
    before = resident()
    free(content)
    assert before - resident() > 90 << 20
    assert above.sum() == 1 << 18

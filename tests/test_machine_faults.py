"""System faults during real runs: messages, exit codes, and what is kept."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.files import LOCK

if TYPE_CHECKING:
    from resdet.tests.conftest import Command, Finished

Mount = Callable[..., Path]


def expect_error(done: Finished, code: int, *parts: str) -> None:
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.code == code and len(errors) == 1, done
    assert "Traceback" not in done.err and "--debug" not in done.err, done.err
    for part in parts:
        assert part in errors[0], done.err


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def weights_equal(one: Path, other: Path) -> bool:
    first, second = (load_checkpoint(path)["model"] for path in (one, other))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """``mount("disk", "size=200k")``: a disk of its own, which options may make small or
    read-only; called again it changes the options."""
    mounted: list[Path] = []

    def make(name: str, options: str) -> Path:
        place = tmp_path / name
        remount = place in mounted
        place.mkdir(exist_ok=True)
        words = ["/bin/mount", "-t", "tmpfs", "-o", f"{'remount,' if remount else ''}{options}"]
        done = subprocess.run([*words, "resdet-test", str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no right to mount: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield make
    for place in set(mounted):
        subprocess.run(["/bin/umount", "--lazy", str(place)], check=True)


@pytest.fixture
def copied(tiny_config: Path, tmp_path: Path) -> Path:
    """The tiny config beside a data set that may be damaged."""
    folder = tmp_path / "given"
    folder.mkdir()
    shutil.copy(tiny_config, folder)
    shutil.copytree(tiny_config.parent / "scenes", folder / "scenes")
    return folder


@pytest.fixture
def many(scenes: Path, tmp_path: Path) -> Path:
    """36 images for `infer`."""
    for copy in range(2):
        shutil.copytree(scenes / "JPEGImages", tmp_path / "many" / str(copy))
    return tmp_path / "many"


# -------------------------------------------------------------------------------- the disk


def test_training_on_a_disk_that_is_full_from_the_start(
    resdet: Command, tiny_config: Path, mount: Mount
) -> None:
    """It continues, in case space is freed, but the exit code is not 0."""
    run = mount("disk", "size=600k") / "run"
    done = resdet("train-det", "--cfg", tiny_config, "--out", run)
    expect_error(done, 2, str(run / "weights" / "last.pt"), "No space left", "train again")
    assert done.out.count("training continues without it") >= 8
    assert not list((run / "weights").glob("*.pt"))


def test_training_on_a_disk_that_fills_up_is_resumed_from_the_last_checkpoint(
    resdet: Command, tiny_config: Path, tiny_run: Path, mount: Mount
) -> None:
    run = mount("disk", "size=40m") / "run"
    settings = ("train.ema_decay=0.9", "train.iterations=4")
    assert resdet("train-det", "--cfg", tiny_config, "--out", run, *settings).code == 0
    other = run.parent / "other"
    with pytest.raises(OSError), other.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    again = ("train-det", "--resume", run, "train.iterations=8")
    expect_error(resdet(*again), 2, f"{run}: cannot be written: No space left")
    os.truncate(other, other.stat().st_size - 400_000)  # for all but a checkpoint
    last = f"{run / 'weights' / 'last.pt'}: step 8 could not be saved: "
    then = "make room, then --resume continues from the previous checkpoint"
    expect_error(resdet(*again), 2, last, "No space left", then)
    assert load_checkpoint(run / "weights" / "last.pt")["step"] == 4
    other.unlink()
    done = resdet(*again)
    assert done.code == 0, done.err
    assert weights_equal(run / "weights" / "last.pt", tiny_run / "weights" / "last.pt")


def test_infer_on_a_full_disk_is_resumed_after_freeing_space(
    resdet: Command, tiny_run: Path, many: Path, tmp_path: Path, mount: Mount
) -> None:
    words = ("infer", "--weights", tiny_run / "weights" / "best.pt", many, "--conf", "0.1")
    assert resdet(*words, "--out", tmp_path / "whole").code == 0
    out = mount("disk", "size=100k") / "out"
    expect_error(resdet(*words, "--out", out), 2, "No space left", "resumed")
    records = out / "detections.jsonl"
    assert records.read_bytes().endswith(b"\n")
    kept = lines_of(records)
    assert 0 < kept < 36
    mount("disk", "size=20m")
    done = resdet(*words, "--out", out, "--resume")
    assert done.code == 0 and f"({kept} earlier)" in done.out, done.err
    for path in (tmp_path / "whole").rglob("*.*"):
        assert (out / path.relative_to(tmp_path / "whole")).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("command", ["train-det", "eval", "infer"])
def test_a_read_only_output_folder(
    resdet: Command,
    tiny_config: Path,
    tiny_run: Path,
    scenes: Path,
    mount: Mount,
    command: str,
) -> None:
    out = mount("disk", "ro") / "out"
    weights = ("--weights", tiny_run / "weights" / "best.pt")
    words: dict[str, tuple[object, ...]] = {
        "train-det": ("--cfg", tiny_config),
        "eval": weights,
        "infer": (*weights, scenes / "JPEGImages"),
    }
    done = resdet(command, *words[command], "--out", out)
    expect_error(done, 2, str(out), "Read-only file system")


# ------------------------------------------------------------------- what vanishes on the way


def test_an_image_deleted_during_training(
    resdet: Command, tiny_run: Path, copied: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ("train.ema_decay=0.9", "train.checkpoint_every=1000", "train.log_every=1")
    words = ("train-det", "--cfg", copied / "tiny.yaml", "--out", run, *settings)
    running = resdet.start(*words, "train.eval_every=1000")
    assert running.until_lines(2, run / "metrics.jsonl")
    (copied / "scenes" / "JPEGImages").rename(copied / "elsewhere")
    done = running.wait()
    expect_error(done, 3, "JPEGImages", "no such file")
    last = run / "weights" / "last.pt"
    step = load_checkpoint(last)["step"]
    assert f"saved at step {step} before an error ends the run" in done.out and 2 <= step < 8
    (copied / "elsewhere").rename(copied / "scenes" / "JPEGImages")
    again = resdet("train-det", "--resume", run)
    assert again.code == 0, again.err
    assert weights_equal(last, tiny_run / "weights" / "last.pt")


def test_images_deleted_during_infer_are_recorded(
    resdet: Command, tiny_run: Path, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("infer", "--weights", tiny_run / "weights" / "best.pt", many, "--out", out)
    running = resdet.start(*words, "--no-draw", "--workers", "1")
    assert running.until_lines(2, out / "detections.jsonl")
    shutil.rmtree(many / "1")
    done = running.wait()
    assert done.code == 0, done.err
    records = [json.loads(line) for line in (out / "detections.jsonl").open()]
    assert len(records) == 36
    reasons = {record["file"]: record["error"] for record in records if "error" in record}
    assert "1/val_00005.jpg" in reasons and set(reasons.values()) == {"no such file"}
    assert all(name.startswith("1/") for name in reasons)


def test_a_deleted_run_folder_is_created_again(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ("train.ema_decay=0.9", "train.log_every=1")
    running = resdet.start("train-det", "--cfg", tiny_config, "--out", run, *settings)
    assert running.until_lines(2, run / "metrics.jsonl")
    run.rename(tmp_path / "trash")
    done = running.wait()
    assert done.code == 0, done.err
    assert weights_equal(run / "weights" / "last.pt", tiny_run / "weights" / "last.pt")


# --------------------------------------------------------------- workers and shared memory


def test_a_killed_data_worker(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    settings = ("train.ema_decay=0.9", "train.log_every=1", "data.workers=2")
    words = ("train-det", "--cfg", tiny_config, "--out", run, *settings)
    running = resdet.start(*words, "train.checkpoint_every=1000", "train.eval_every=1000")
    assert running.until_lines(1, run / "metrics.jsonl")
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    os.kill(running.pid, signal.SIGSTOP)  # lest it be done before
    os.kill(int(children[0]), signal.SIGKILL)
    os.kill(running.pid, signal.SIGCONT)
    done = running.wait()
    expect_error(done, 3, "a data worker died", "data.workers=0")
    again = resdet("train-det", "--resume", run)
    assert again.code == 0, again.err
    assert weights_equal(run / "weights" / "last.pt", tiny_run / "weights" / "last.pt")


def in_small_shared_memory(*words: object) -> Finished:
    """The command in a mount namespace whose /dev/shm holds 64 kB; half a batch is 37."""
    from resdet.tests.conftest import Finished

    script = 'mount -t tmpfs -o size=64k small /dev/shm && exec "$@"'
    command = [sys.executable, "-m", "resdet.tools.cli", *map(str, words)]
    done = subprocess.run(
        ["/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, "sh", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
    )
    if done.stderr.startswith(("unshare:", "mount:")):
        pytest.skip(f"no right to mount: {done.stderr.strip()}")
    return Finished(done.returncode, done.stdout, done.stderr)


def test_too_little_shared_memory(tiny_config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("train-det", "--cfg", tiny_config, "--out", run, "data.workers=2")
    done = in_small_shared_memory(*words)
    expect_error(done, 3, "shared memory", "--shm-size", "data.workers=0")


# ------------------------------------------------------------------- two runs in one folder


def test_two_trainings_in_one_folder(
    resdet: Command, tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train-det", "--cfg", tiny_config, "--out", run)
    running = resdet.start(*words, "train.ema_decay=0.9", "train.log_every=1")
    assert running.until((run / "weights" / "last.pt").exists)
    os.kill(running.pid, signal.SIGSTOP)
    try:
        owner = f"another run (process {running.pid})"
        expect_error(resdet(*words), 2, str(run), owner)
        expect_error(resdet("train-det", "--resume", run), 2, str(run), owner)
    finally:
        os.kill(running.pid, signal.SIGCONT)
    done = running.wait()
    assert done.code == 0, done.err
    assert weights_equal(run / "weights" / "last.pt", tiny_run / "weights" / "last.pt")
    assert not (run / LOCK).exists()


def test_two_infers_in_one_folder_and_the_release_of_the_lock(
    resdet: Command, tiny_run: Path, many: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = ("infer", "--weights", tiny_run / "weights" / "best.pt", many, "--out", out)
    running = resdet.start(*words, "--no-draw")
    assert running.until_lines(2, out / "detections.jsonl")
    os.kill(running.pid, signal.SIGSTOP)
    before = (out / "meta.json").read_bytes()
    for more in ((), ("--resume",)):
        done = resdet(*words, "--conf", "0.9", "--no-draw", *more)
        expect_error(done, 2, str(out), f"another run (process {running.pid})")
    assert (out / "meta.json").read_bytes() == before
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait().code == -signal.SIGKILL
    assert (out / LOCK).exists()
    done = resdet(*words, "--no-draw", "--resume")
    assert done.code == 0, done.err
    assert lines_of(out / "detections.jsonl") == 36 and not (out / LOCK).exists()


# --------------------------------------------------------------------------- checkpoints


@pytest.fixture
def cut_run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of eight steps whose last.pt is truncated."""
    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    last = run / "weights" / "last.pt"
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    return run


def test_a_truncated_checkpoint_names_the_previous_one(resdet: Command, cut_run: Path) -> None:
    last, before = cut_run / "weights" / "last.pt", cut_run / "weights" / "last-1.pt"
    damaged = last.read_bytes()
    expect_error(resdet("train-det", "--resume", cut_run), 3, str(last), str(before))
    assert last.read_bytes() == damaged
    done = resdet("train-det", "--resume", before)
    assert done.code == 0 and "done: 8 steps" in done.out, done.err
    assert load_checkpoint(last)["step"] == 8


@pytest.mark.parametrize("command", ["train-det", "eval", "infer", "ablate", "export"])
def test_truncated_weights(
    resdet: Command,
    tiny_config: Path,
    cut_run: Path,
    scenes: Path,
    tmp_path: Path,
    command: str,
) -> None:
    last, out = cut_run / "weights" / "last.pt", tmp_path / "out"
    more: dict[str, tuple[object, ...]] = {
        "train-det": ("--cfg", tiny_config),
        "infer": (scenes / "JPEGImages",),
    }
    done = resdet(command, "--weights", last, "--out", out, *more.get(command, ()))
    expect_error(done, 3, f"{last}: damaged, ")
    assert not out.exists()


def test_a_checkpoint_with_other_classes(
    resdet: Command, copied: Path, tiny_run: Path, tmp_path: Path
) -> None:
    """In the data, circles are called discs."""
    for path in (copied / "scenes" / "Annotations").iterdir():
        path.write_text(path.read_text().replace(">circle<", ">disc<"))
    config = copied / "tiny.yaml"
    config.write_text(config.read_text().replace("[circle,", "[disc,"))
    weights = ("--weights", tiny_run / "weights" / "best.pt", "--cfg", config)
    both = ("lacking ['disc'], too many ['circle']", "'square'")
    told = resdet("train-det", *weights, "--dry-run")
    assert told.code == 0, told.err
    assert "class 'disc' is new: its rows are initialised" in told.out
    assert "classes of the weights left out: 1 (circle)" in told.out
    expect_error(resdet("eval", *weights, "--out", tmp_path / "eval"), 3, *both)
    run = tmp_path / "resumed"
    shutil.copytree(tiny_run, run)
    resumed = resdet("train-det", "--resume", run, "data.classes=[disc]")
    expect_error(resumed, 2, "data.classes=['disc']", "was ['circle', ")
    moved = ("data.train.0.root", "data.val.0.root")
    resumed = resdet("train-det", "--resume", run, *(f"{key}={copied / 'scenes'}" for key in moved))
    expect_error(resumed, 3, "'disc'")

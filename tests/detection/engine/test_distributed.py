"""Two processes do what one does: the same weights, the same numbers.

Commands are started as documented:
``torchrun --standalone --nproc-per-node 2 --no-python resdet train-det ...``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from resdet.detection.engine.distributed import process_group
from resdet.detection.errors import ConfigError
from resdet.tests.detection.engine.conftest import SETTINGS, expect_close

if TYPE_CHECKING:
    from resdet.tests.conftest import Command


def test_accumulation_does_not_change_the_result(
    resdet: Command, tiny_config: Path, single: Path, tmp_path: Path
) -> None:
    words = ("train-det", "--cfg", tiny_config, "--out", tmp_path / "run", *SETTINGS)
    done = resdet(*words, "train.accumulate=2")
    assert done.code == 0, done.err
    expect_close(single, tmp_path / "run")


def test_two_processes_train_and_evaluate_as_one(
    resdet: Command, tiny_config: Path, single: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    done = resdet.torchrun("resdet", "train-det", "--cfg", tiny_config, "--out", run, *SETTINGS)
    assert done.returncode == 0, done.stderr
    expect_close(single, run)
    assert done.stdout.count("run folder") == 1  # one process talks
    assert "FutureWarning" not in done.stderr
    for mine, theirs in zip(_numbers(run), _numbers(single), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-3, abs=1e-4, nan_ok=True)


def _numbers(run: Path) -> list[dict[str, float]]:
    machine = ("time", "eta", "images_per_s", "data_wait", "mem_gb", "kind")
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in entry.items() if k not in machine and v is not None} for entry in entries
    ]


def test_sharded_evaluation_gives_the_same_numbers(
    resdet: Command, learned_run: Path, tmp_path: Path
) -> None:
    weights = learned_run / "weights" / "best.pt"
    assert resdet("eval", "--weights", weights, "--out", tmp_path / "one").code == 0
    done = resdet.torchrun("resdet", "eval", "--weights", weights, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    one, two = (
        json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two")
    )
    assert one.pop("seconds_per_image") > 0
    assert two.pop("seconds_per_image") > 0
    assert one == two


TRAINING = """
import os, sys
from pathlib import Path
import torch
from resdet.detection.tasks.detector import DetectionTask
from resdet.tools.cli import main

predict = DetectionTask.predict_split

def seen(task, pipeline, *given, **named):
    with torch.no_grad():
        features = pipeline.networks[0].extract(torch.ones(1, 3, 64, 64), [(64, 64)])
    Path(sys.argv[1], os.environ["RANK"]).write_text(str(features.sum().item()))
    return predict(task, pipeline, *given, **named)

DetectionTask.predict_split = seen
sys.exit(main(["train-det", *sys.argv[2:]]))
"""


def test_all_processes_evaluate_the_weights_of_the_checkpoint(
    resdet: Command, tiny_config: Path, tmp_path: Path
) -> None:
    """With batch norm each has running statistics of its own images, until the evaluation."""
    words = ("--cfg", tiny_config, "--out", tmp_path / "run", "train.iterations=1")
    done = resdet.torchrun("python", "-c", TRAINING, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").read_text() == (tmp_path / "1").read_text()


WORKER = """
import json, os, sys, time
import torch
from torch import nn
from resdet.detection.engine.distributed import process_group
from resdet.detection.evaluation.coco import coco_scores
from resdet.detection.evaluation.columns import gather
from resdet.tests.detection.evaluation.test_coco import K, random_set

def square(number):
    time.sleep(0.1)
    return int(os.environ["RANK"]), number**2

def fail_on_the_other(number):
    time.sleep(0.1)
    if os.environ["RANK"] == "1":
        raise ValueError(f"item {number}")

with process_group("cpu") as group:
    squares, same, failed = [], True, ""
    with group.assisted():
        if group.is_main:
            squares = [group.spread(square, range(n)) for n in (6, 0, 1)]
            records, detections = random_set(0, images=30)
            columns = gather(detections, records, K)
            shared, alone = (coco_scores(columns, spread=each) for each in (group.spread, map))
            same = repr(shared) == repr(alone)
            try:
                group.spread(fail_on_the_other, range(1000))
            except ValueError as error:
                failed = str(error)
            squares.append(group.spread(square, range(2)))
    received = group.broadcast("a", {"mean": 0.5} if group.is_main else None)
    gathered = group.gather({f"of{group.rank}": group.rank, f"also{group.rank}": torch.ones(1)})
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(group.rank + 3.0)
    group.broadcast_buffers(norm)
    line = json.dumps({
        "received": received,
        "mean": group.all_reduce_mean(torch.tensor([1.0, 3.0]) * (group.rank + 1)).tolist(),
        "largest": group.all_reduce_max(torch.tensor([1.0, -1.0]) * group.rank)(),
        "gathered": sorted(gathered) if gathered is not None else None,
        "buffer": norm.running_mean.item(),
        "squares": squares,
        "same": same,
        "failed": failed,
    })
open(f"{sys.argv[1]}/{group.rank}", "w").write(line)
"""


def test_collectives_of_several_processes(resdet: Command, tmp_path: Path) -> None:
    done = resdet.torchrun("python", "-c", WORKER, tmp_path)
    assert done.returncode == 0, done.stderr
    main, other = (json.loads((tmp_path / name).read_text()) for name in ("0", "1"))
    assert main["gathered"] == ["also0", "also1", "of0", "of1"] and other["gathered"] is None
    for results in (main, other):
        assert results["received"] == {"mean": 0.5}
        assert results["mean"] == [1.5, 4.5]
        assert results["largest"] == [1.0, 0.0]
        assert results["buffer"] == 3.0
    six, none, one, after = main["squares"]
    assert main["failed"].startswith("item ") and [square for _, square in after] == [0, 1]
    assert [square for _, square in six] == [0, 1, 4, 9, 16, 25] and none == []
    assert {rank for rank, _ in six} == {0, 1}  # both have worked
    assert [square for _, square in one] == [0]
    assert main["same"] and other["squares"] == []


WAITING = """
import sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
from resdet.detection.engine.distributed import process_group

with process_group("cpu") as group:
    group.all_reduce_mean(torch.ones(1))  # the processes are connected
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=4))  # long for a busy machine
    time.sleep(5 * group.rank)  # the main process has its images earlier
    gathered = group.gather({group.rank: group.rank})
    if group.is_main:
        time.sleep(5)  # the others wait for its numbers
    metric = group.broadcast("metric", 0.5 if group.is_main else None)
    mean = group.all_reduce_mean(torch.tensor(float(group.rank))).item()
open(f"{sys.argv[1]}/{group.rank}", "w").write(f"{gathered} {metric} {mean}")
"""


def test_long_waits_do_not_run_into_the_limit_of_collectives(
    resdet: Command, tmp_path: Path
) -> None:
    done = resdet.torchrun("python", "-c", WAITING, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "0").read_text() == "{0: 0, 1: 1} 0.5 0.5"
    assert (tmp_path / "1").read_text() == "None 0.5 0.5"


def test_alone_everything_is_the_identity() -> None:
    with process_group("cpu") as group:
        assert group.is_main and group.world == 1
        assert group.broadcast("key", 3) == 3
        assert group.gather({"a": 1}) == {"a": 1}
        with group.assisted():
            assert group.spread(abs, [-1, 2]) == [1, 2]
        assert group.all_reduce_max(torch.tensor([1.0, -2.0]))() == [1.0, -2.0]
        assert group.all_reduce_mean(torch.tensor(4.0)).item() == 4.0


@pytest.mark.parametrize("device", ["tpu-x", "meta", "cuda:99"])
def test_no_such_device(device: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {device}"), process_group(device):
        pass

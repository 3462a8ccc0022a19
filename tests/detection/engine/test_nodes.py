"""Two nodes train what one does, one of them killed, with other data or with a bad image.

Nodes are agents of ``torchrun`` with loopback addresses of their own, that meet at the first one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.files import LOCK
from resdet.tests.detection.engine.conftest import SETTINGS, expect_close

if TYPE_CHECKING:
    from resdet.tests.conftest import Command, Finished, Running

pytestmark = pytest.mark.timeout(180)  # nodes may wait for each other

SIX_STEPS = (*SETTINGS, "train.iterations=6", "train.eval_every=6")

#: ``resdet train-det``, whose second node stops in a step, until it is killed, or loses its images
#: or a data worker.
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from resdet.detection.engine import train
from resdet.tools.cli import main

update, parts_of_step = train.update, train._parts_of_step
marker, what, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

def stopped(state, *given):
    if what == "stop" and state.step == step and os.environ["NODE"] == "1" and not marker.exists():
        marker.touch()
        time.sleep(600)
    return update(state, *given)

def without_data(stream, state, *given):
    if state.step == step and os.environ["NODE"] == "1":
        if what == "lose":
            for path in marker.glob("**/*.jpg"):
                path.unlink()
        if what == "end":
            worker, _ = Path("/proc/thread-self/children").read_text().split()
            os.kill(int(worker), signal.SIGKILL)
    return parts_of_step(stream, state, *given)

train.update, train._parts_of_step = stopped, without_data
sys.exit(main(["train-det", *sys.argv[4:]]))
"""


class Nodes:
    """Two nodes that run the same words; ``nodes`` are those that torchrun may have."""

    def __init__(self, resdet: Command, nodes: str, *words: object, restarts: int = 3) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._resdet, self._nodes, self._restarts = resdet, nodes, restarts
        self._words = words
        self.running = [self.start(node) for node in (0, 1)]

    def start(self, node: int, *words: object) -> Running:
        options = {
            "nnodes": self._nodes,
            "nproc-per-node": 1,
            "max-restarts": self._restarts,
            "monitor-interval": 0.1,
            "rdzv-backend": "c10d",
            "rdzv-endpoint": f"127.0.0.1:{self._port}",
            "rdzv-id": "run",
            # Both addresses are of this machine: else either may hold the list of nodes.
            "rdzv-conf": f"is_host={node == 0},last_call_timeout=1,"
            "keep_alive_interval=1,keep_alive_max_attempt=3",
            "local-addr": f"127.0.0.{node + 1}",
        }
        given = [word for name, value in options.items() for word in (f"--{name}", value)]
        return self._resdet.start(
            *("-m", "torch.distributed.run", *given, "--no-python"),
            *(str(word).replace("%NODE%", str(node)) for word in self._words),
            env={
                "NODE": str(node),
                "GLOO_SOCKET_IFNAME": "lo",
                # torch 2.14 tells a node that returns no address without it.
                "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            },
            program="python",
        )

    def kill(self, node: int) -> None:
        """SIGKILL to the agent and its workers."""
        agent = self.running[node]
        workers = [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if _parent(path) == agent.pid
        ]
        for pid in (agent.pid, *workers):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert agent.wait().code == -signal.SIGKILL

    def wait(self) -> list[Finished]:
        return [agent.wait() for agent in self.running]


def _parent(stat: Path) -> int:
    with suppress(OSError):
        return int(stat.read_text().rpartition(")")[2].split()[1])
    return 0


def wait_for(path: Path, nodes: Nodes) -> None:
    while not path.exists():
        assert all(each.alive for each in nodes.running), nodes.wait()
        time.sleep(0.02)


def words(config: Path, run: Path, *settings: str) -> tuple[object, ...]:
    return ("--cfg", config, "--out", run, "--start-or-resume", *settings)


def codes_in(errors: str) -> set[int]:
    """The exit codes of processes that torchrun tells of."""
    return {int(code) for code in re.findall(r"exitcode *: (\d+)", errors)}


def test_two_nodes_train_as_one(
    resdet: Command, tiny_config: Path, single: Path, tmp_path: Path
) -> None:
    given = words(tiny_config, tmp_path / "two", *SETTINGS)
    nodes = Nodes(resdet, "2", "resdet", "train-det", *given)
    assert [done.code for done in nodes.wait()] == [0, 0]
    expect_close(single, tmp_path / "two")


def test_a_node_that_dies_and_returns(resdet: Command, tiny_config: Path, tmp_path: Path) -> None:
    """The other one's worker ends with it and waits; both go on from the last checkpoint."""
    marker = tmp_path / "stopped"
    plain = words(tiny_config, tmp_path / "plain", *SIX_STEPS)
    undisturbed = Nodes(resdet, "2", "resdet", "train-det", *plain)
    given = words(tiny_config, tmp_path / "run", *SIX_STEPS)
    nodes = Nodes(resdet, "2", "python", "-c", PROGRAM, marker, "stop", 4, *given)
    wait_for(marker, nodes)
    nodes.kill(1)
    nodes.running[1] = nodes.start(1)
    done = nodes.wait()
    assert [each.code for each in done] == [0, 0], done
    assert "resuming from" in done[0].out + done[1].out
    assert [each.code for each in undisturbed.wait()] == [0, 0]
    one, other = (
        load_checkpoint(tmp_path / name / "weights" / "last.pt") for name in ("plain", "run")
    )
    assert one["step"] == other["step"] == 6
    for part in ("model", "average"):
        assert all(torch.equal(other[part][name], each) for name, each in one[part].items())


def test_a_node_that_dies_and_does_not_return(
    resdet: Command, tiny_config: Path, single: Path, tmp_path: Path
) -> None:
    """With ``--nnodes 1:2`` the other one goes on alone, with the same global batch."""
    marker, given = tmp_path / "stopped", words(tiny_config, tmp_path / "run", *SETTINGS)
    nodes = Nodes(resdet, "1:2", "python", "-c", PROGRAM, marker, "stop", 2, *given)
    wait_for(marker, nodes)
    nodes.kill(1)
    left = nodes.running[0].wait()
    assert left.code == 0, left
    assert "device: cpu x 1" in left.out and "resuming from" in left.out
    expect_close(single, tmp_path / "run")


@pytest.fixture
def configs(tiny_config: Path, tmp_path: Path) -> Path:
    """A folder with the config and the data of each node, ``0`` and ``1``."""
    for node in ("0", "1"):
        shutil.copytree(tiny_config.parent / "scenes", tmp_path / "nodes" / node / "scenes")
        shutil.copy(tiny_config, tmp_path / "nodes" / node)
    return tmp_path / "nodes"


@pytest.mark.parametrize(
    ("what", "reason", "workers"), [("lose", "no such file", 0), ("end", "a data worker died", 2)]
)
def test_a_bad_image_or_a_dead_worker_of_one_node_ends_all(
    resdet: Command, configs: Path, tmp_path: Path, what: str, reason: str, workers: int
) -> None:
    run = tmp_path / "run"
    settings = (*SETTINGS, "train.iterations=30", f"data.workers={workers}")
    given = words(configs / "%NODE%" / "tiny.yaml", run, *settings)
    begin = ("python", "-c", PROGRAM, configs / "1", what, 3)
    nodes = Nodes(resdet, "2", *begin, *given, restarts=0)
    done = nodes.wait()
    assert [each.code for each in done] == [1, 1], done  # of torchrun
    errors = "".join(each.err for each in done)
    assert errors.count(reason) == 2 and "another process ended: " in errors, errors
    assert codes_in(errors) == {3}
    step = load_checkpoint(run / "weights" / "last.pt")["step"]
    assert step == 3 or (workers and 3 < step < 30)  # a worker has read ahead
    assert f"saved at step {step} before an error ends the run" in (run / "train.log").read_text()


def test_nodes_with_other_data_are_refused(resdet: Command, configs: Path, tmp_path: Path) -> None:
    names = configs / "1" / "scenes" / "ImageSets" / "Main" / "train.txt"
    names.write_text("".join(names.read_text().splitlines(keepends=True)[1:]))
    given = words(configs / "%NODE%" / "tiny.yaml", tmp_path / "run", *SETTINGS)
    done = Nodes(resdet, "2", "resdet", "train-det", *given, restarts=0).wait()
    assert [each.code for each in done] == [1, 1]
    for each in done:
        assert codes_in(each.err) == {2}
        assert "differs from process 0 in data.train: 1" in each.err
        assert "all nodes need the same data, settings and run folder" in each.err


#: ``resdet train-det`` in a folder that each process has for itself.
IN_ITS_FOLDER = """
import os, sys
from resdet.tools.cli import main

os.chdir(os.path.join(sys.argv[1], os.environ["RANK"]))
sys.exit(main(["train-det", *sys.argv[2:]]))
"""


def test_a_checkpoint_that_only_one_process_sees(
    resdet: Command, tiny_config: Path, single: Path, tmp_path: Path
) -> None:
    """As when a disk is mounted on one node: the one would resume, the other one start."""
    shutil.copytree(single, tmp_path / "0" / "run")
    (tmp_path / "1").mkdir()
    given = words(tiny_config, Path("run"), *SETTINGS)
    done = resdet.torchrun("python", "-c", IN_ITS_FOLDER, tmp_path, *given)
    assert done.returncode == 1 and codes_in(done.stderr) == {2}
    told = "process 1 differs from process 0 in start: it resumes run/weights/last.pt in process 0"
    assert f"{told}, it starts a new run in process 1" in done.stderr
    assert not any((tmp_path / "1").iterdir())


def test_a_kill_or_a_full_disk_at_the_first_checkpoint(
    resdet: Command, tiny_config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    (run / "config.yaml").write_text(tiny_config.read_text())
    (run / "weights" / ".last.pt.resdet-part").write_bytes(b"PK")
    (run / LOCK).touch()
    given = ("train-det", "--cfg", tiny_config, "--out", run, "train.iterations=1")
    done = resdet(*given, "--start-or-resume")
    assert done.code == 0, done.err
    names = {path.name for path in (run / "weights").iterdir()}
    assert names == {"last.pt", "last-1.pt", "best.pt"}
    (run / "weights" / "last.pt").unlink()  # by a user, as it was damaged: not a new run
    refused = resdet(*given, "--start-or-resume")
    assert refused.code == 2 and "not empty" in refused.err


def test_a_run_that_ended_before_its_first_checkpoint(
    resdet: Command, tiny_config: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    first = resdet("train-det", "--cfg", tiny_config, "--out", run, "train.iterations=2")
    assert first.code == 0, first.err
    shutil.rmtree(run / "weights")
    again = ("train-det", "--cfg", tiny_config, "--out", run, "train.iterations=2")
    assert resdet(*again).code == 2
    assert resdet(*again, "--start-or-resume").code == 0
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").open()]
    assert steps == sorted(steps) and steps.count(2) == 2  # a step and its evaluation
    done = resdet(*again, "--start-or-resume")  # nothing is left to do
    assert done.code == 0 and "resuming from" in done.out
    refused = resdet("train-det", "--cfg", tiny_config, "--start-or-resume")
    assert refused.code == 2 and "--start-or-resume goes with --cfg and --out" in refused.err

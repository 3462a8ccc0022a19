"""The recipes of docs/cluster.md: shell lines are run, Kubernetes files are read."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from resdet.tests.detection.cluster.conftest import by_name

pytest.importorskip("pyarrow", reason="pyarrow is not installed")

DOCUMENT = (Path(__file__).resolve().parents[3] / "docs" / "cluster.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)


def block(word: str) -> str:
    found = [text for _, text in BLOCKS if word in text]
    assert len(found) == 1
    return found[0]


def test_processes_without_an_engine(job, model, plain, tmp_path):
    """Slurm's script for the first of two tasks, then the second under xargs."""
    job()
    command = tmp_path / "bin" / "resdet"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m resdet.tools.cli "$@" --conf 0.1\n')
    command.chmod(0o755)
    (tmp_path / "best.pt").write_bytes(model.weights[0].read_bytes())
    environment = os.environ | {
        "PATH": f"{command.parent}:{os.environ['PATH']}",
        "SLURM_ARRAY_TASK_ID": "1",
        "SLURM_ARRAY_TASK_COUNT": "2",
        "SLURM_CPUS_PER_TASK": "1",
    }

    def shell(script: str) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "3 of 3 shards done, 36 images" in shell(block("#SBATCH --array"))
    out = shell(block("xargs -P").replace("seq 50", "seq 2 2").replace("50", "2"))
    assert "2 of 2 shards done, 24 images" in out and "all 5 shards of the manifest" in out
    parts = sorted((tmp_path / "found").glob("part-*"))
    assert by_name(b"".join(path.read_bytes() for path in parts)) == plain


def test_training_on_nodes():
    """The options of the commands are those of the tests in test_nodes.py, and torchrun's."""
    from torch.distributed.run import get_args_parser

    service, job = yaml.safe_load_all(block("kind: Service"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    (slurm,) = re.findall(r"srun torchrun(.*?)$", joined("scontrol"), re.MULTILINE)
    (plain,) = re.findall(r"^torchrun(.*?)$", joined("HOST:29500"), re.MULTILINE)
    for words in (
        shlex.split(slurm),
        shlex.split(plain),
        [*container["command"][1:], *container["args"]],
    ):
        given = get_args_parser().parse_args(words)
        assert given.training_script == "resdet" and given.no_python
        assert {"train-det", "--start-or-resume"} <= set(given.training_script_args)
        assert given.rdzv_endpoint.endswith(":29500") and given.max_restarts == 3


def joined(word: str) -> str:
    """A block with its continued lines in one."""
    return block(word).replace("\\\n", "")


def test_an_indexed_job_has_a_shard_for_each_index():
    spec = yaml.safe_load(block("name: detect}\nspec:\n  completions"))["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    (line,) = container["args"]
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace("exec resdet", "echo")],
        env={"JOB_COMPLETION_INDEX": str(spec["completions"] - 1)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[-1] == f"{spec['completions']}/{spec['completions']}"


def test_a_ray_job_names_the_command():
    spec = yaml.safe_load(block("kind: RayJob"))["spec"]
    assert spec["entrypoint"].startswith("resdet infer ") and "--engine ray" in spec["entrypoint"]

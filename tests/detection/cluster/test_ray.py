"""The engine ray and `resdet.ray.Detect` on a cluster of this machine, with workers killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import resdet
from resdet.datasets.manifests.manifest import write_manifest
from resdet.datasets.manifests.storage import Store
from resdet.detection.cluster.run import Hooks, run_manifest
from resdet.detection.errors import WeightsError
from resdet.detection.extras import EXTRAS
from resdet.tests.detection.cluster.conftest import by_name

ray = pytest.importorskip("ray", reason="ray is not installed")
pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def joined(out: object) -> dict[str, bytes]:
    store = Store(str(out))
    names = [name for name in store.names() if name.startswith("part-")]
    return by_name(b"".join(map(store.read, names)))


def test_a_killed_worker_loses_nothing(job, predictor, plain, tmp_path):
    settings = job()
    said: list[str] = []
    killed: list[int] = []

    def kill() -> None:
        """The first worker that begins a shard."""
        attempts = tmp_path / "out" / "attempts"
        while not killed:
            for mark in attempts.glob("0*") if attempts.is_dir() else ():
                killed.append(int(mark.name.rpartition("-")[0].rpartition("-")[2]))
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.002)

    thread = threading.Thread(target=kill)
    thread.start()
    summary = run_manifest(settings, predictor, engine="ray", hooks=Hooks(say=said.append))
    thread.join()
    assert joined(tmp_path / "out") == plain
    assert summary.totals["images"] == 60 and summary.failed == 2
    assert said[0] == "2 actors on a local Ray cluster"
    assert any("its process died" in line for line in said)
    assert list((tmp_path / "out" / "attempts").iterdir()) == []


def test_a_stop_leaves_no_marks(job, predictor, images, tmp_path):
    """Else the next run would take them for deaths."""
    write_manifest([str(images)] * 20, str(tmp_path / "long"), per_shard=1200)
    attempts = tmp_path / "out" / "attempts"
    begun = threading.Event()

    def watch() -> None:
        while not list(attempts.glob("0*")):
            time.sleep(0.01)
        begun.set()

    threading.Thread(target=watch, daemon=True).start()
    settings = replace(job(), manifest=str(tmp_path / "long"))
    summary = run_manifest(settings, predictor, engine="ray", hooks=Hooks(stop=begun.is_set))
    assert summary.interrupted and summary.done == 0
    assert list(attempts.iterdir()) == []


def test_a_shard_that_ends_early_is_not_run_for_ever():
    from resdet.detection.cluster.ray import _result

    said: list[str] = []
    assert _result(ray.put(None), 3, 1, said.append) is None
    assert said == ["shard 3: it ended before its last image; it is run again"]
    with pytest.raises(resdet.ConfigError, match="shard 3: failed 20 times; at last it ended"):
        _result(ray.put(None), 3, 20, said.append)


def test_errors_of_a_shard_end_the_run(job, predictor, model, tmp_path):
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"no weights")
    settings = replace(job(), model=replace(model, weights=(broken,)))
    with pytest.raises(WeightsError, match=r"broken\.pt"):
        run_manifest(settings, predictor, engine="ray")


def test_the_watch_says_that_no_actor_starts(job, predictor, monkeypatch):
    """Another program has all CPUs."""
    monkeypatch.setattr("resdet.detection.cluster.ray.SILENCE", 1.0)

    @ray.remote(num_cpus=2)
    class Other:
        def ready(self) -> bool:
            return True

    other = Other.remote()
    assert ray.get(other.ready.remote())
    said: list[str] = []
    stop = threading.Event()
    hooks = Hooks(
        say=lambda line: (said.append(line), len(said) > 1 and stop.set()), stop=stop.is_set
    )
    summary = run_manifest(job(), predictor, engine="ray", actors=1, hooks=hooks)
    ray.kill(other)
    assert summary.interrupted
    assert "1 actors do not answer, or have not started; 0 CPUs are free" in said[1]


def test_sigterm_ends_the_command_as_one_in_this_process(job, model, images, tmp_path):
    """Ray's handler would abort it, and leave marks of deaths."""
    write_manifest([str(images)] * 20, str(tmp_path / "long"), per_shard=1200)
    attempts, words = tmp_path / "out" / "attempts", ["infer", "--weights", str(model.weights[0])]
    words += ["--manifest", str(tmp_path / "long"), "--out", str(tmp_path / "out")]
    child = subprocess.Popen(
        [sys.executable, "-m", "resdet.tools.cli", *words, "--engine", "ray", "--device", "cpu"],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not list(attempts.glob("0*")):
        assert child.poll() is None
        time.sleep(0.05)
    child.terminate()
    out, _ = child.communicate()
    assert child.returncode == 143 and "interrupted; the same command continues" in out
    assert list(attempts.iterdir()) == []


#: A cluster of its own: the module's was started by its fixture.
NICENESS = """
import os, ray
from resdet.detection.cluster.ray import _cluster

with _cluster(None):
    print(ray.get(ray.remote(lambda: os.nice(0)).remote()), os.nice(0))
"""


def test_actors_have_the_priority_of_the_command():
    """Ray's own default is that they give way to all other programs."""
    environment = {name: value for name, value in os.environ.items() if "RAY_" not in name}
    done = subprocess.run(
        [sys.executable, "-c", NICENESS], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    actors, command = done.stdout.split()
    assert actors == command


@pytest.mark.parametrize("column", ["path", "bytes"])
def test_detect_in_a_data_set(model, images, plain, column):
    import ray.data

    names = [f"day0/{number:03}.{'png' if number % 3 else 'jpg'}" for number in range(0, 20, 5)]
    rows = [
        {"path": str(images / name)}
        if column == "path"
        else {"path": name, "bytes": (images / name).read_bytes()}
        for name in names
    ]
    found = ray.data.from_items(rows).map_batches(
        resdet.ray.Detect,
        fn_constructor_args=(model.weights[0], "cpu"),
        fn_constructor_kwargs={"score_threshold": 0.1},
        batch_format="pyarrow",
        concurrency=1,
        num_cpus=1,
    )
    records = {}
    for row in found.take_all():
        name = row["file"].removeprefix(f"{images}/")
        record = {key: value for key, value in row.items() if value is not None}
        records[name] = record | {"file": name}
    expected = {name: json.loads(plain[name]) for name in names}
    if column == "bytes":  # without a file there is no time of its change
        for record in expected.values():
            del record["bytes"], record["modified"]
    assert records == expected


def test_the_missing_package_is_named(job, predictor, monkeypatch):
    monkeypatch.setitem(EXTRAS, "ray", ("no_such_package",))
    with pytest.raises(resdet.ConfigError, match=r"pip install 'resdet\[ray\]'"):
        run_manifest(job(), predictor, engine="ray")

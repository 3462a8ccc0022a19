"""Runs over manifests: equal to a plain run, resuming, sharing work, images that fail or kill."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from dataclasses import replace
from functools import reduce
from operator import is_

import pytest
import resdet
from resdet.datasets.manifests import storage
from resdet.datasets.manifests.entries import Entry
from resdet.datasets.manifests.storage import Store
from resdet.detection.cluster import careful
from resdet.detection.cluster import job as cluster_job
from resdet.detection.cluster.results import ShardResults
from resdet.detection.cluster.run import Hooks, run_manifest
from resdet.detection.cluster.watch import Watch
from resdet.detection.errors import ConfigError, DataError, ImageError
from resdet.detection.inference.records import record_line
from resdet.tests.detection.cluster.conftest import by_name
from resdet.tools import infer

pytest.importorskip("pyarrow", reason="pyarrow is not installed")


def joined(out: object) -> dict[str, bytes]:
    store = Store(str(out))
    names = [name for name in store.names() if name.startswith("part-")]
    return by_name(b"".join(map(store.read, names)))


def unstamped(lines: dict[str, bytes]) -> dict[str, bytes]:
    """The lines of images that are no local files, whose size and time are recorded."""
    records = {name: json.loads(line) for name, line in lines.items()}
    stamps = ("bytes", "modified")
    return {
        name: record_line({key: value for key, value in record.items() if key not in stamps})
        for name, record in records.items()
    }


def test_a_run_equals_a_plain_run(job, predictor, plain, tmp_path):
    summary = run_manifest(job(), predictor)
    assert joined(tmp_path / "out") == plain
    assert b'"score"' in b"".join(plain.values())
    errors = [name for name, line in plain.items() if b'"error"' in line]
    assert (summary.shards, summary.done, summary.images, summary.new) == (5, 5, 60, 60)
    assert summary.failed == len(errors) == 2 and not summary.interrupted
    totals = {"shards": 5, "images": 60, "failed": 2, "found": summary.found, "warned": 1}
    assert summary.totals == json.loads((tmp_path / "out" / "summary.json").read_text()) == totals
    failures = map(json.loads, (tmp_path / "out" / "failures.jsonl").read_text().splitlines())
    assert {each["file"]: each["error"] for each in failures} == {
        name: json.loads(plain[name])["error"] for name in errors
    }
    assert list((tmp_path / "out" / "attempts").iterdir()) == []


def test_the_local_engine_has_no_actors(job, predictor, tmp_path):
    with pytest.raises(ConfigError, match="--actors: processes of --engine ray"):
        run_manifest(job(), predictor, actors=2)
    assert not (tmp_path / "out").exists()


def test_what_is_done_is_kept(job, predictor, plain, tmp_path):
    """A stop in the middle of a shard, then the same run again, then once more."""
    seen = []
    hooks = Hooks(stop=lambda: len(seen) >= 30, report=lambda *counts: seen.append(counts))
    summary = run_manifest(job(), predictor, hooks=hooks)
    assert summary.interrupted and summary.done == 2 and summary.images == 24
    assert summary.totals is None and not (tmp_path / "out" / "summary.json").exists()
    assert seen[29] == (30, 60, 2)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    again = run_manifest(job(), predictor)
    assert (again.done, again.images, again.new) == (5, 60, 36)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert joined(tmp_path / "out") == plain
    assert run_manifest(job(), predictor).new == 0


def test_shards_of_a_manifest(job, predictor, plain, tmp_path):
    """As arrays of Slurm and indexed jobs of Kubernetes run it; the last one writes the totals."""
    first = run_manifest(job(), predictor, shard=(1, 2))
    assert (first.shards, first.done, first.totals) == (3, 3, None)
    second = run_manifest(job(), predictor, shard=(2, 2))
    assert (second.shards, second.images, second.totals["images"]) == (2, 24, 60)
    assert joined(tmp_path / "out") == plain


def test_two_drivers_at_once(job, predictor, plain, tmp_path):
    """They share the work without knowing of each other."""
    settings = job()
    counts = []
    first, second = (
        threading.Thread(target=lambda: counts.append(run_manifest(settings, predictor).new))
        for _ in range(2)
    )
    first.start()
    while first.is_alive() and not list((tmp_path / "out").glob("part-*")):
        time.sleep(0.001)
    second.start()
    for driver in (first, second):
        driver.join()
    assert joined(tmp_path / "out") == plain
    assert 60 <= sum(counts) < 2 * 60  # both may do some shards, but not the one done before


def test_parquet(job, predictor, plain, tmp_path):
    import pyarrow.parquet as pq

    run_manifest(replace(job(), parts="parquet"), predictor)
    rows = pq.read_table(sorted((tmp_path / "out").glob("part-*.parquet"))).to_pylist()
    assert len(rows) == 60
    for row in rows:
        record = {name: value for name, value in row.items() if value is not None}
        assert record == json.loads(plain[row["file"]])


def test_other_settings_and_folders_are_refused(job, predictor, tmp_path):
    run_manifest(job(), predictor, shard=(5, 5))
    with pytest.raises(ConfigError, match=r"score_threshold was 0\.1, is 0\.3"):
        run_manifest(job(score_threshold=0.3), predictor)
    with pytest.raises(ConfigError, match=r"holds .* and no meta\.json"):
        run_manifest(job(out=tmp_path), predictor)
    (tmp_path / "m" / "shard-00000.parquet").write_bytes(b"cut")
    with pytest.raises(DataError, match=r"shard-00000\.parquet: cannot be read as Parquet"):
        run_manifest(job(), predictor)


def test_tiles_and_tar_files(job, predictor, plain, images, tmp_path):
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(images, ".")
    run_manifest(job(tmp_path / "a.tar"), predictor)
    assert joined(tmp_path / "out") == unstamped(plain)


# ------------------------------------------------------------------------------- object storage


@pytest.fixture(scope="module")
def bucket(object_store, images) -> str:
    return object_store.upload(images, "cluster-images")


def test_from_s3_to_s3_with_faults(job, predictor, plain, object_store, bucket, monkeypatch):
    """What fails for a passing reason is tried again; what lasts stays with its image."""
    monkeypatch.setattr(storage, "DELAYS", (0.01, 0.01))
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    lasting = {"day0/010.png": 403, "day4/004.png": 500}
    always = object_store.ALWAYS
    object_store.faults = {
        **{name: (status, always) for name, status in lasting.items()},
        "day1/001.png": (503, 503),
        "day1/006.jpg": (0.3,),
        "day2/002.png": (500,),
    }
    out = f"{bucket}/found"
    settings = job(bucket, out=out)
    object_store.client.delete_object(Bucket="cluster-images", Key="day3/003.jpg")
    summary = run_manifest(settings, predictor)
    assert object_store.reads["/cluster-images/day1/001.png"] == 3
    assert object_store.reads["/cluster-images/day0/010.png"] == 1
    found = joined(out)
    reasons = {name: json.loads(found.pop(name))["error"] for name in (*lasting, "day3/003.jpg")}
    assert reasons["day0/010.png"] == "access denied"
    assert reasons["day3/003.jpg"] == "no such file"
    assert "cannot be read (" in reasons["day4/004.png"] and "injected" in reasons["day4/004.png"]
    assert found == unstamped({name: plain[name] for name in plain if name not in reasons})
    assert summary.failed == 5 and summary.totals["failed"] == 5
    assert Store(out).names("attempts") == []
    assert run_manifest(settings, predictor).new == 0


def test_an_address_leads_to_more_than_the_manifest_says(monkeypatch):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    fsspec.filesystem("memory").pipe_file("/limits/a.png", b"x" * 3000)
    monkeypatch.setattr(cluster_job, "MAX_FILE", 2000)
    for size in (None, 10, 3000):
        file = cluster_job.input_file(Entry("memory://limits/a.png", size, "", "a.png"))
        with pytest.raises(ImageError, match=r"memory://limits/a\.png: larger than"):
            file.fetch()
    monkeypatch.setattr(cluster_job, "MAX_FILE", 3000)
    assert len(file.fetch()[0].read()) == 3000
    none = cluster_job.input_file(Entry("memory://limits/a.png", 0, "", "a.png"))
    with pytest.raises(ImageError, match="the file is empty"):
        none.fetch()


def test_a_part_in_storage_that_is_too_large(monkeypatch):
    fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed")
    fsspec.filesystem("memory").pipe_file("/limits/summary.json", b"x" * 3000)
    assert Store("memory://limits").read("summary.json") == b"x" * 3000
    monkeypatch.setattr(storage, "_LARGEST", 2000)
    with pytest.raises(OSError, match="larger than"):
        Store("memory://limits").read("summary.json")


# ---------------------------------------------------------------------------- images that kill

#: Reading an image that holds the word kills the process, in every interpreter of the test.
KILLER = """
import os
import cv2
real = cv2.imdecode
cv2.imdecode = lambda data, *flags: (
    os.kill(os.getpid(), 9) if b"DEADLY" in data.tobytes() else real(data, *flags)
)
"""


def test_an_image_that_kills_is_recorded(job, predictor, images, tmp_path, monkeypatch):
    """All others have the records of a run in which this image is damaged, batches and all."""
    (tmp_path / "sitecustomize.py").write_text(KILLER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    # A server of forks may run since an earlier test, without the file above.
    monkeypatch.setattr(careful, "_context", lambda: multiprocessing.get_context("spawn"))
    (tmp_path / "in").mkdir()
    for path in (images / "day0").iterdir():
        (tmp_path / "in" / path.name).write_bytes(path.read_bytes())
    deadly = tmp_path / "in" / "015.jpg"
    content = deadly.read_bytes()
    deadly.write_text("damaged")
    settings = job(tmp_path / "in", batch_size=3)
    run_manifest(settings, predictor)
    expected = joined(tmp_path / "out")
    deadly.write_bytes(content + b"DEADLY")
    settings = replace(settings, out=str(tmp_path / "again"))
    run_manifest(settings, predictor, shard=(2, 2))
    results = ShardResults(Store(settings.out))
    for number in range(2):  # as two processes of another host leave it that died
        results.store.write(f"attempts/00000.host-{number}-a", b"")
        os.utime(tmp_path / "again" / "attempts" / f"00000.host-{number}-a", (0, 0))
    run_manifest(settings, predictor)
    found = joined(tmp_path / "again")
    assert json.loads(found["015.jpg"]) == {
        "file": "015.jpg",
        "error": "ends the process that reads it (signal 9)",
    }
    assert expected.pop("015.jpg") != found.pop("015.jpg")
    assert found == expected
    assert results.attempted() == {}


def test_a_child_that_hangs_is_ended(monkeypatch):
    monkeypatch.setattr(careful, "PATIENCE", 1.0)
    assert careful._run(reduce, (is_, range(10**15)), lambda: False) == "it takes more than 1 s"


def test_errors_of_a_child_are_raised(job, predictor, tmp_path):
    settings = job()
    (tmp_path / "m" / "shard-00000.parquet").unlink()
    with pytest.raises(DataError, match=r"shard-00000\.parquet: no such file"):
        list(careful.careful_records(settings, 0, tmp_path / "records", lambda: False))


def test_the_watch_says_why_nothing_finishes():
    said: list[str] = []
    waiting = threading.Event()
    thread = threading.Thread(target=lambda: storage.patiently(waiting.wait, "s3://b/slow.jpg"))
    with Watch().tell(said.append, silence=0.2):
        thread.start()
        time.sleep(0.5)
        waiting.set()
        thread.join()
    assert said and said[0].startswith("no image finished for 0 s: waiting for s3://b/slow.jpg")


# ------------------------------------------------------------------------------------- command


def test_the_command(resdet, model, images, plain, tmp_path):
    assert resdet("manifest", images, "--out", tmp_path / "m", "--per-shard", 12).code == 0
    out = tmp_path / "out"
    words = ("infer", "--weights", model.weights[0], "--manifest", tmp_path / "m", "--out", out)
    done = resdet(*words, "--conf", 0.1, "--strict")
    assert done.code == 5 and "5 of 5 shards done, 60 images" in done.out
    assert "all 5 shards of the manifest are done: summary.json" in done.out
    assert joined(out) == plain


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.jpg",), "takes no inputs"),
        (("--save-crop",), "takes no --save-crop"),
        (("--conf", "0.3"), r"was 0\.1, is 0\.3"),
        (("--shard", "3/2"), "expected I/N"),
        (("--batch-size", "0"), "batch size and workers must be at least 1"),
    ],
)
def test_refused_options(job, predictor, words, message):
    settings = job()
    run_manifest(settings, predictor, shard=(5, 5))
    weights = str(settings.model.weights[0])
    given = ["--weights", weights, "--manifest", settings.manifest, "--out", settings.out, *words]
    parser = argparse.ArgumentParser()
    infer.add_arguments(parser)
    with pytest.raises(ConfigError, match=message):
        infer.run(parser.parse_intermixed_args([*given, "--device", "cpu"]))


def test_a_run_that_lacks_shards_did_not_succeed(job, monkeypatch):
    """As where someone removes parts meanwhile."""
    settings = job()
    monkeypatch.setattr("resdet.detection.cluster.run._run_here", lambda *arguments: None)
    with pytest.raises(ConfigError, match="5 of 5 shards have no part, though nothing stopped"):
        resdet.infer(settings.model.weights[0], manifest=settings.manifest, out=settings.out)


def test_results_of_images_go_to_folders(images):
    with pytest.raises(ConfigError, match="only the results of a --manifest"):
        resdet.infer("best.pt", images, out="s3://bucket/a")


def test_the_function(job):
    settings = job()
    summary = resdet.infer(
        settings.model.weights[0], manifest=settings.manifest, out=settings.out, conf=0.1
    )
    assert (summary.done, summary.new, len(summary.failures)) == (60, 60, 2)

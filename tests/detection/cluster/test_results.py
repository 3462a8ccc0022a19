"""The files of a run over a manifest: what is done, attempts that live and died, damage."""

from __future__ import annotations

import os
import socket
import time

import pytest
from resdet.datasets.manifests.storage import Store
from resdet.detection.cluster.results import ShardResults, ShardSummary
from resdet.detection.errors import ConfigError, DataError


def test_a_process_that_dies_leaves_a_mark(tmp_path):
    results = ShardResults(Store(str(tmp_path)))
    pid = os.fork()
    if pid == 0:
        with results.attempt(7):
            os._exit(9)
    os.waitpid(pid, 0)
    assert len(results.attempted()[7]) == 1
    with pytest.raises(ZeroDivisionError), results.attempt(7) as before:
        assert before == 1
        raise ZeroDivisionError
    assert len(results.attempted()[7]) == 1


def test_attempts_that_live_are_no_deaths(tmp_path):
    results = ShardResults(Store(str(tmp_path)))
    results.store.write("attempts/00007.other-1-a", b"")
    with results.attempt(7), results.attempt(7), results.attempt(7) as dead:
        assert dead == 0
        results.store.write("part-00007.jsonl", b"")
    assert results.attempted() == {7: ["attempts/00007.other-1-a"]}
    host = "".join(filter(str.isalnum, socket.gethostname()))
    results.store.write(f"attempts/00007.{host}-{os.getpid()}-a", b"")  # of a restarted container
    with results.attempt(7) as dead:
        assert dead == 1


def test_a_mark_is_refreshed(tmp_path, monkeypatch):
    monkeypatch.setattr("resdet.detection.cluster.results.REFRESH", 0.01)
    results = ShardResults(Store(str(tmp_path)))
    with results.attempt(7):
        mark = tmp_path / results.attempted()[7][0]
        os.utime(mark, (0, 0))
        deadline = time.monotonic() + 10
        while mark.stat().st_mtime == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert results.attempted() == {}


def test_files_of_other_programs_are_left_alone(tmp_path):
    results = ShardResults(Store(str(tmp_path)))
    for name in ("part-all.jsonl", "part-1.jsonl", "part-00003.jsonl", "attempts/.DS_Store"):
        results.store.write(name, b"")
    assert results.done() == {3} and results.attempted() == {}


def test_two_that_begin_at_once(tmp_path):
    """One begins between the looks of the other."""
    results = ShardResults(Store(str(tmp_path)))

    class Late(Store):
        def exists(self, name: str) -> bool:
            found = super().exists(name)
            results.begin({"a": 1})
            return found

    ShardResults(Late(str(tmp_path))).begin({"a": 1})
    (tmp_path / "meta.json").unlink()
    with pytest.raises(ConfigError, match=r"a was 1, is 2"):
        ShardResults(Late(str(tmp_path))).begin({"a": 2})


def test_the_slower_of_two_at_the_last_shard(tmp_path):
    """The faster one ends the run meanwhile; what died before is cleared."""
    results = ShardResults(Store(str(tmp_path)))
    summary = ShardSummary(0, 1, 0, 0, (), 1.0)
    pid = os.fork()
    if pid == 0:
        with results.attempt(0), results.scratch():
            os._exit(9)
    os.waitpid(pid, 0)
    left = list(tmp_path.glob(".run-*"))
    with results.attempt(0), results.scratch() as folder:
        slow = folder / "part"
        slow.write_text("slow")
        with results.attempt(0), results.scratch() as other:
            (other / "part").write_text("fast")
            results.publish(other / "part", summary)
            results.finish(1)
        assert len(left) == 1 and not left[0].exists()
        assert len(results.attempted()[0]) == 1
        results.publish(slow, summary)
    assert (tmp_path / "part-00000.jsonl").read_text() == "fast"
    assert results.attempted() == {} and list(tmp_path.glob(".run-*")) == []


def test_a_damaged_summary_says_how_to_go_on(tmp_path):
    results = ShardResults(Store(str(tmp_path)))
    for content in (b"", b"[]", b"{}"):
        results.store.write("summaries/00003.json", content)
        with pytest.raises(DataError, match=r"00003\.json: .*; delete part-00003\.jsonl and run"):
            results.summary(3)
    with pytest.raises(DataError, match=r"00004\.json: no such file; delete part-00004\.jsonl"):
        results.summary(4)

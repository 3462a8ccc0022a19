"""Work on several cores gives every result, and survives the death of a worker.

Workers start from a clean process, so the functions here are the standard library's.
"""

from __future__ import annotations

import math
import operator
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
from resdet.datasets.parallel import CHUNK, Died, Worker, map_items


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("count", [0, 1, CHUNK, 3 * CHUNK + 5])
def test_every_item_has_its_result_once(workers: int, count: int) -> None:
    results = list(map_items(math.factorial, range(count), workers=workers))
    assert sorted(results) == [(index, math.factorial(index)) for index in range(count)]


def test_a_killed_worker_loses_only_its_item() -> None:
    deadly = {3: signal.SIGKILL, 20: signal.SIGSEGV, 21: signal.SIGKILL}
    items = [int(deadly.get(index, 0)) for index in range(45)]  # 0 does nothing
    results = dict(map_items(signal.raise_signal, items, workers=2))
    assert len(results) == 45
    died = {index: result for index, result in results.items() if result is not None}
    assert set(died) == set(deadly)
    for index, result in died.items():
        assert isinstance(result, Died)
        assert deadly[index].name in result.reason


def test_an_exception_of_the_function_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_items(partial(operator.floordiv, 1), [1, 0, 1], workers=2))


def test_stopping_early_does_not_wait_for_the_rest() -> None:
    results = map_items(time.sleep, [0.0] * CHUNK + [60.0] * CHUNK, workers=2)
    start = time.monotonic()
    next(results)
    results.close()
    assert time.monotonic() - start < 30


UNGUARDED = """
import math
from resdet.datasets.parallel import map_items
print(sorted(map_items(math.factorial, [3, 4], workers=1)))
"""


def test_workers_do_not_run_the_script_again(tmp_path: Path) -> None:
    """Which may lack ``if __name__ == "__main__"``."""
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[(0, 6), (1, 24)]\n", "")


def test_threads_that_start_workers_at_once_leave_the_script(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    script = sys.modules["__main__"]
    monkeypatch.setitem(sys.modules, "__main__", script)  # restored also where this fails
    barrier, started = threading.Barrier(2), []

    def start() -> None:
        for _ in range(2):
            barrier.wait()
            started.append(Worker(math.factorial))

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for worker in started:
        worker.stop()
    assert len(started) == 4 and sys.modules["__main__"] is script

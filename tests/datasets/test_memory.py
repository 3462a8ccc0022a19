"""The budget of bytes: who waits for whom."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Timeout

import pytest
from resdet.datasets.memory import BUDGET, DECODING, Closed, MemoryBudget

SHORT, LONG = 0.05, 10.0


def test_shares_that_fit_are_taken_at_once_and_others_wait() -> None:
    budget = MemoryBudget(10)
    with ThreadPoolExecutor(1) as pool:
        budget.take(4)
        budget.take(6)
        waiting = pool.submit(budget.take, 1)
        with pytest.raises(Timeout):
            waiting.result(SHORT)
        budget.give_back(4)
        waiting.result(LONG)


def test_a_share_above_the_total_waits_until_nobody_else_has_one() -> None:
    budget = MemoryBudget(10)
    with ThreadPoolExecutor(1) as pool:
        budget.take(1)
        large = pool.submit(budget.take, 100)
        with pytest.raises(Timeout):
            large.result(SHORT)
        budget.give_back(1)
        large.result(LONG)


def test_turns_are_kept_and_a_batch_does_not_wait_for_itself() -> None:
    budget, order = MemoryBudget(10), []

    def take(turn: int) -> None:
        budget.take(8, turn=turn, beside=1)
        order.append(turn)

    with ThreadPoolExecutor(3) as pool:
        later = [pool.submit(take, turn) for turn in (2, 1)]
        take(0)
        later[1].result(LONG)  # a batch of two
        with pytest.raises(Timeout):
            later[0].result(SHORT)
        budget.give_back(8)
        later[0].result(LONG)
    assert order == [0, 1, 2]


def test_closing_ends_all_waiting_and_an_error_gives_the_share_back() -> None:
    budget = MemoryBudget(10)
    with pytest.raises(ZeroDivisionError), budget.share(10):
        raise ZeroDivisionError
    with ThreadPoolExecutor(1) as pool, budget.share(10):
        waiting = pool.submit(budget.take, 1)
        budget.close()
        with pytest.raises(Closed):
            waiting.result(LONG)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_fork_has_the_whole_decoding_budget() -> None:
    taken, release = threading.Event(), threading.Event()

    def hold() -> None:
        with DECODING.share(BUDGET):
            taken.set()
            release.wait(LONG)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(hold)
        assert taken.wait(LONG)
        if (child := os.fork()) == 0:
            with DECODING.share(BUDGET):
                os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        release.set()

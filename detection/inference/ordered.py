"""Work in threads, with results in order and a bounded number of them in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def in_order(
    pool: ThreadPoolExecutor,
    task: Callable[[In], Out],
    items: Iterable[In],
    ahead: int,
    *,
    wait: bool,
) -> Iterator[Out]:
    """Results of ``task`` in the order of ``items``, with at most ``ahead`` of them in progress.

    With ``wait`` this number is always in progress; else finished results are yielded at once.
    """
    pending: deque[Future[Out]] = deque()
    for item in items:
        pending.append(pool.submit(task, item))
        del item  # which may be large, and is done with before the next one comes
        while len(pending) > ahead or (not wait and pending and pending[0].done()):
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()

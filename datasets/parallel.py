"""A parallel map that survives the death of a worker process.

Each worker has one end of a pipe. When a worker dies (a decoder crashes, the system is out of
memory), only the item that it was working on is lost; workers whose parent dies see their pipe end
and stop.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import TYPE_CHECKING, Generic, TypeVar

import cv2

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Items sent at once: a pipe's round trip (0.1 ms) is spread over them.
CHUNK = 16
#: Images from which on several processes are started for what takes less than a millisecond of
#: each: their start takes a second.
WORTH_SHARING = 1000
#: Held while a process starts: ``__main__`` is that of all threads.
_STARTING = threading.Lock()


@dataclass(frozen=True)
class Died:
    """The result of an item that ended its worker."""

    reason: str


def map_items(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Iterator[tuple[int, Result | Died]]:
    """(index, result) of each item, in the order of completion.

    ``workers`` 0 calls the function in this process, without protection. Otherwise function, items
    and results must pickle. An exception of the function is raised here.
    """
    if workers <= 0 or not items:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    chunks = deque(
        list(range(start, min(start + CHUNK, len(items)))) for start in range(0, len(items), CHUNK)
    )
    pool = [Worker(function) for _ in range(min(workers, len(chunks)))]
    try:
        yield from _work(pool, chunks, items, function)
    finally:
        for worker in pool:
            worker.stop()


def _work(
    pool: list[Worker[Item, Result]],
    chunks: deque[list[int]],
    items: Sequence[Item],
    function: Callable[[Item], Result],
) -> Iterator[tuple[int, Result | Died]]:
    for worker in pool:
        worker.give(chunks, items)
    while busy := {worker.connection: worker for worker in pool if worker.indices}:
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]  # wait returns what it was given
            indices, answer = worker.indices, worker.receive()
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, Died):
                pool[pool.index(worker)] = replacement = Worker(function)
                worker.stop()
                worker = replacement
                # One item of the chunk is the cause: each is sent alone next time.
                if len(indices) == 1:
                    yield indices[0], answer
                else:
                    chunks.extendleft([index] for index in reversed(indices))
            else:
                yield from zip(indices, answer, strict=True)
            worker.give(chunks, items)


class Worker(Generic[Item, Result]):
    """A process, this end of its pipe, and the items it is working on."""

    def __init__(self, function: Callable[[Item], Result]) -> None:
        context = _context()
        self.connection, theirs = context.Pipe()
        self.indices: list[int] = []
        self._process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        with _without_script():
            self._process.start()
        theirs.close()  # so that this end sees the end of the pipe when the worker dies

    def give(self, chunks: deque[list[int]], items: Sequence[Item]) -> None:
        """Send the items of the next chunk, if there is one."""
        self.indices = chunks.popleft() if chunks else []
        if self.indices:
            with suppress(OSError):  # it died while idle, which receive() reports
                self.connection.send([items[index] for index in self.indices])

    def receive(self) -> list[Result] | Exception | Died:
        """The results of the items, the exception of one, or how the process ended."""
        try:
            answer: list[Result] | Exception = self.connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return Died(_exit_reason(self._process.exitcode or 0))
        return answer

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.connection.close()
        self._process.kill()
        self._process.join()


@contextmanager
def _without_script() -> Iterator[None]:
    """A process that is started within it does not import the script that runs, which may do its
    work without asking for ``__name__ == "__main__"``, and would do it again."""
    with _STARTING:
        script = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = script


def _context() -> SpawnContext | ForkServerContext:
    """Workers start from a clean process: a fork would copy locks that other threads hold (torch,
    the progress bar) and the other workers' pipe ends."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _serve(connection: Connection, function: Callable[[Item], Result]) -> None:
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"):  # the parent decides what they mean
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    cv2.setNumThreads(1)
    # Decoders write messages about damaged files there, through the progress bar.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    while True:
        try:
            items: list[Item] = connection.recv()
        except EOFError:
            return
        try:
            answer: list[Result] | Exception = [function(item) for item in items]
        except Exception as error:
            answer = error
        connection.send(answer)


def _exit_reason(code: int) -> str:
    if code >= 0:
        return f"the process ended with code {code}"
    try:
        return f"the process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"the process was ended by signal {-code}"

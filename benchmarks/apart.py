"""A peer's detector in a process of its own, which gives freed memory back as a new one does.

The benchmarks keep freed memory, as resdet's commands do, for both of their sides. A program around
another toolkit does not, unless its author arranges it: there every large block that is freed goes
back to the system, which has to clear its pages again in the next pass.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import torch
from measuring import Spent
from sides import make_side

#: Makes a side of the command's arguments; it has ``detect`` and ``step``.
Make = Callable[[argparse.Namespace], Any]
TORCHVISION: Make = partial(make_side, "torchvision")


class Apart:
    """The side that ``make`` makes of ``args``; its calls return what they took in its process."""

    def __init__(
        self,
        args: argparse.Namespace,
        toolkit: str = "torchvision",
        make: Make = TORCHVISION,
    ) -> None:
        self.name = f"{toolkit}, memory returned"
        self._connection, other = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(other, args, make), daemon=True
        )
        self._process.start()
        other.close()

    def detect(self) -> Spent:
        return self._call("detect")

    def step(self) -> Spent:
        return self._call("step")

    def _call(self, name: str) -> Spent:
        """`EOFError` if the process has ended."""
        self._connection.send(name)
        return Spent(*self._connection.recv())

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()
        self._process.join()


def _serve(connection: Connection, args: argparse.Namespace, make: Make) -> None:
    torch.set_num_threads(args.threads)
    side = make(args)
    while True:
        try:
            call = getattr(side, connection.recv())
        except EOFError:
            return
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        connection.send((time.perf_counter() - wall, time.process_time() - cpu))

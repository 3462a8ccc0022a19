"""The processes of a distributed run and their collectives.

In a single process every collective is the identity.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Time limit of waits for work that takes each process another time, such as an evaluation; the
#: collectives' own is ten minutes on GPUs.
PATIENCE = timedelta(hours=2)


class Group:
    """This process of ``world``; the one with ``rank`` 0 writes files and logs."""

    def __init__(self, rank: int, world: int, device: torch.device) -> None:
        self.rank, self.world, self.device = rank, world, device
        #: Meetings and shared works so far, the same number in all processes.
        self._turns = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce_mean(self, value: Tensor) -> Tensor:
        """The mean of ``value`` over all processes."""
        if self.world > 1:
            dist.all_reduce(value)
            value = value / self.world
        return value

    def all_reduce_max(self, values: Tensor) -> Callable[[], list[float]]:
        """Begin the elementwise maximum over all processes, in ``values``.

        The function returns it. It waits until the device has computed the maximum, but not for
        what was queued on it since.
        """
        if self.world > 1:
            dist.all_reduce(values, op=dist.ReduceOp.MAX)
        if values.device.type != "cuda":
            return values.tolist
        copy = torch.empty_like(values, device="cpu", pin_memory=True)
        copy.copy_(values, non_blocking=True)
        arrived = torch.cuda.Event()
        arrived.record()

        def wait() -> list[float]:
            arrived.synchronize()
            return list(copy.tolist())

        return wait

    def failure(self, reason: str) -> str:
        """The ``reason`` of the first process that has one, on all processes; "" if none has."""
        if self.world == 1:
            return reason
        # On the CPU: it does not wait for what is queued on a GPU.
        if not any(self.all_reduce_max(torch.tensor([float(bool(reason))]))()):
            return ""
        return next(each for each in self.all_gather(reason) if each)

    def all_gather(self, value: Any) -> list[Any]:
        """The ``value`` of every process, by rank, on all processes."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def gather(self, part: Mapping[str, Any]) -> dict[str, Any] | None:
        """The union of all processes' mappings on the main process, None on the others; those that
        have theirs earlier wait."""
        if self.world == 1:
            return dict(part)
        self.meet()
        parts: list[Any] | None = [None] * self.world if self.is_main else None
        dist.gather_object(dict(part), parts)
        return {key: value for each in parts for key, value in each.items()} if parts else None

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the main process's buffers, which a checkpoint contains, to all processes: running
        statistics differ, since each process has its own images."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def meet(self) -> None:
        """Wait until every process is here, before a collective after work of unequal length: in
        the collective itself they would wait no longer than its own time limit."""
        if self.world == 1:
            return
        self._turns += 1
        for rank in range(self.world):
            self.broadcast(f"meeting/{self._turns}/{rank}", True, source=rank)

    @contextmanager
    def assisted(self) -> Iterator[None]:
        """Within it the main process may `spread` work; the others do their part of it before they
        enter the block, until the main one has left it."""
        if self.world > 1 and not self.is_main:
            while self._announced():
                self._shared(None, ())
        try:
            yield
        finally:
            if self.world > 1 and self.is_main:
                self._announced(False)

    def spread(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """``function`` of each of ``items``, in order, on the main process within `assisted`.

        Each process that is free takes the next item, so those that take longest should come
        first. Function, items, results and errors must pickle. An error of any process is raised
        here, once all have ended their items.
        """
        if self.world == 1:
            return list(map(function, items))
        self._announced(True)
        done = self._shared(function, items) or {}
        for result in done.values():
            if isinstance(result, Exception):
                raise result
        return [done[str(number)] for number in range(len(items))]

    def _announced(self, more: bool | None = None) -> bool:
        """Whether the main process has ``more`` work, on all processes."""
        self._turns += 1
        return bool(self.broadcast(f"work/{self._turns}", more))

    def _shared(self, function: Any, items: Sequence[Any]) -> dict[str, Any] | None:
        """{number: result} on the main process, whose function and items all work on."""
        work = [function, items]
        dist.broadcast_object_list(work)
        function, items = work
        store, counter = dist.distributed_c10d._get_default_store(), f"items/{self._turns}"
        done = {}
        while (number := store.add(counter, 1) - 1) < len(items):
            try:
                done[str(number)] = function(items[number])
            except Exception as error:  # of any kind: `spread` raises it on the main process
                done[str(number)] = error
                store.add(counter, len(items))  # there is nothing left to take
        return self.gather(done)

    def broadcast(self, key: str, value: Any = None, *, source: int = 0) -> Any:
        """The ``value`` (JSON) of the process ``source``, on all processes.

        Uses the key-value store instead of a collective, so that the others can wait for a long
        evaluation without a collective's timeout. ``key`` must be new.
        """
        if self.world == 1:
            return value
        store = dist.distributed_c10d._get_default_store()
        if self.rank == source:
            store.set(key, json.dumps(value))
            return value
        store.wait([key], PATIENCE)
        return json.loads(store.get(key))


@contextmanager
def process_group(device: str | None) -> Iterator[Group]:
    """Join the group that ``torchrun`` describes in the environment, if any.

    ``device`` None is a GPU if there is one; with several processes each has its own.

    Raises:
        ConfigError: there is no such device.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _choose_device(device, local)
    if world == 1:
        yield Group(0, 1, chosen)
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Group(rank, world, chosen)
    finally:
        dist.destroy_process_group()


def _choose_device(device: str | None, local: int) -> torch.device:
    """The device of the process that is number ``local`` on its machine."""
    try:
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"--device {device}: expected cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: expected cpu, cuda or cuda:N")
    if chosen.type == "cpu":
        return chosen
    index = local if chosen.index is None else chosen.index
    count = torch.cuda.device_count()
    if index >= count:
        raise ConfigError(f"--device cuda:{index}: this machine has {count} usable GPU(s)")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)

"""Mean losses, speed, data wait and memory since the last line of the log."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .distributed import Group


def is_loss(name: str) -> bool:
    """Whether the value of this name is part of the loss; others are only logged."""
    return name.startswith("loss")


class Meter:
    """Means of the losses, speed and waiting time since the last `read`."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.resume()

    def resume(self) -> None:
        """Restart the timing, as after a pause of unknown length; the sums are kept."""
        self.images = 0
        self.waiting = 0.0
        self.started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent inside, on an evaluation."""
        since = time.perf_counter()
        yield
        self.started += time.perf_counter() - since

    def waited(self, seconds: float) -> None:
        self.waiting += seconds

    def add(self, losses: Mapping[str, Tensor], *, images: int) -> None:
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value)) + value
        self.steps += 1
        self.images += images

    def read(self, group: Group) -> dict[str, float]:
        """The values since the last call, means over steps and processes. The names of values that
        are no losses, such as an error, get the prefix ``train_``."""
        seconds = time.perf_counter() - self.started
        self.all_reduce(group)
        means = (torch.stack(list(self.sums.values())) / self.steps).tolist()
        named = dict(zip(self.sums, means, strict=True))
        values = {name if is_loss(name) else f"train_{name}": named[name] for name in named}
        values |= {
            "loss": sum(value for name, value in named.items() if is_loss(name)),
            "images_per_s": self.images / seconds,
            "data_wait": self.waiting / seconds,
            "mem_gb": peak_memory(group.device) / 2**30,
        }
        self.restart()
        return values

    def all_reduce(self, group: Group) -> None:
        """Replace the sums of each process by the mean over all, for the checkpoint."""
        if self.sums:
            means = group.all_reduce_mean(torch.stack(list(self.sums.values())))
            self.sums = dict(zip(self.sums, means.unbind(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        return {"sums": dict(self.sums), "steps": self.steps}

    def load(self, state: Mapping[str, Any]) -> None:
        self.sums, self.steps = dict(state["sums"]), state["steps"]


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

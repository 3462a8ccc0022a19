"""Command-line options, timing, peak memory and reports of the benchmarks."""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from resdet.detection.environment import describe_environment

_OPTIONS: dict[str, dict[str, Any]] = {
    "device": {"choices": ("cpu", "cuda")},
    "depth": {"type": int, "choices": (18, 34, 50, 101, 152)},
    "size": {"type": int, "nargs": 2, "metavar": ("H", "W")},
}


def make_parser(doc: str | None, **defaults: object) -> argparse.ArgumentParser:
    """A parser with ``--json`` and one option, by default an integer, for each of ``defaults``."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default, **_OPTIONS.get(name, {"type": int}))
    parser.add_argument("--json", type=Path, help="also write all results to this file")
    return parser


def describe_machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    cpu = ", ".join(sorted(names)) or platform.processor()
    return {"cpu": cpu, **describe_environment()}


def write_json(report: Mapping[str, object], args: argparse.Namespace) -> None:
    """Write ``report`` with the machine and the settings to ``--json``, if it is given."""
    if args.json:
        content = {"machine": describe_machine(), "settings": vars(args), **report}
        args.json.write_text(json.dumps(content, default=str, indent=1) + "\n")


#: What seconds are of: the wall's clock, or this process's time on all cores, which other load on
#: the machine changes less.
CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


class Spent(NamedTuple):
    """Seconds by each of `CLOCKS`, returned by a call whose work is done in another process."""

    wall: float
    cpu: float


def timed(call: Callable[[], object], device: str = "cpu", clock: str = "wall") -> float:
    """Seconds of one call, by one of `CLOCKS`; those of the other process if it returns `Spent`."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = CLOCKS[clock]()
    elsewhere = call()
    if device == "cuda":
        torch.cuda.synchronize()
    own = CLOCKS[clock]() - start
    return getattr(elsewhere, clock) if isinstance(elsewhere, Spent) else own


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int,
    device: str = "cpu",
    clock: str = "wall",
) -> dict[str, list[float]]:
    """Seconds of each call, measured in turns (A B A B ...) after ``warmup`` unmeasured turns.

    Other load on the machine then affects all calls, and ratios within a turn are meaningful.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-warmup, repeats):
        for name, call in calls.items():
            spent = timed(call, device, clock)
            if turn >= 0:
                seconds[name].append(spent)
    return seconds


def ratios(numerators: Sequence[float], denominators: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(numerators, denominators, strict=True)]


def spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "all": list(values),
    }


def in_own_process(*words: str) -> Any:
    """Run this script in a new process with additional ``words`` and parse its last output line."""
    command = [sys.executable, *sys.argv, *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  itself
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb(device: str) -> float:
    """Peak memory in MB: allocated on the GPU, or resident in this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

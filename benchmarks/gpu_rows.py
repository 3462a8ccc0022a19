"""Rows of the GPU report: named numbers with their limits, printed and written as they come."""

from __future__ import annotations

import argparse
import gc
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from measuring import describe_machine


@dataclass(frozen=True)
class Setup:
    """What the parts run on: ``small`` networks and images are for a CPU."""

    device: str
    small: bool
    golden: Path | None
    scratch: Path

    def pick(self, full: int, small: int) -> int:
        return small if self.small else full


@dataclass
class Row:
    """One line of the table; with ``limits`` {name: largest value} it is a check."""

    name: str
    values: dict[str, float]
    limits: dict[str, float] = field(default_factory=dict)
    note: str = ""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        if "failed" in self.note:
            return "FAILED"
        if not self.limits:
            return "skipped" if not self.values else "measured"
        within = (self.values[name] <= limit for name, limit in self.limits.items())  # NaN is not
        return "ok" if all(within) else "FAILED"

    def text(self) -> str:
        numbers = [
            f"{name} {value:.4g}" + (f" (<= {self.limits[name]:g})" if name in self.limits else "")
            for name, value in self.values.items()
        ]
        words = ", ".join([*numbers, *([self.note] if self.note else [])])
        return f"{self.verdict:8s} {self.seconds:6.1f} s  {self.name:28s} {words}"


Part = Callable[[Setup], Iterator[Row]]


class Report:
    """The rows so far; every new one is printed and the whole file replaced."""

    def __init__(self, path: Path, settings: argparse.Namespace) -> None:
        self.path, self.settings, self.rows = path, vars(settings), list[Row]()
        self.machine = describe_machine()

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(row.text(), flush=True)
        content = {
            "machine": self.machine,
            "settings": self.settings,
            "rows": [{**asdict(row), "verdict": row.verdict} for row in self.rows],
        }
        partial = self.path.with_name(f"{self.path.name}.partial")
        partial.write_text(json.dumps(content, default=str, indent=1) + "\n")
        partial.replace(self.path)

    def run(self, parts: Mapping[str, Part], setup: Setup, seconds: float = math.inf) -> bool:
        """Run all parts, also after one that fails; whether all checks are within their limits.
        After so many ``seconds`` a part ends with its current row, and the others are left out."""
        end = time.perf_counter() + seconds
        for name, part in parts.items():
            start = time.perf_counter()
            try:
                for row in () if start > end else part(setup):
                    row.seconds = time.perf_counter() - start
                    self.add(row)
                    start = time.perf_counter()
                    if start > end:
                        break
                if start > end:
                    self.add(Row(name, {}, note="the time is over"))
            except Exception as error:  # the other parts say more than a traceback
                reason = " ".join(f"failed: {type(error).__name__}: {error}".split())[:300]
                self.add(Row(name, {}, note=reason, seconds=time.perf_counter() - start))
            _free(setup.device)
        return all(row.verdict != "FAILED" for row in self.rows)


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

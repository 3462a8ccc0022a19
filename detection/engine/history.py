"""The history of a run: ``metrics.jsonl`` and ``results.csv``, consistent after a resume.

``metrics.jsonl`` has an object per line, ``{"kind": "train" | "eval", "step": ..., "time": ...,
<name>: <number or null>}``; a number that is not finite is null, as JSON has none. ``results.csv``
has a row for each of its evaluations and is rewritten every time.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ..files import append_file, csv_cell, read_limited, write_file

METRICS_FILE = "metrics.jsonl"
RESULTS_FILE = "results.csv"
Kind = Literal["train", "eval"]
_RESERVED = ("kind", "step", "time")
#: {former name in files of earlier versions: name}.
FORMER_NAMES = {
    "val_oracle_error": "val_true_class_error",  # former name
    "val_mean_oracle_iou": "val_mean_true_class_iou",  # former name
}


@dataclass(frozen=True)
class LogEntry:
    """A line of the history: the ``values`` at ``step``; ``time`` is ISO 8601, UTC."""

    kind: Kind
    step: int
    values: Mapping[str, float]
    time: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def __post_init__(self) -> None:
        taken = [name for name in _RESERVED if name in self.values]
        if taken:
            raise ValueError(f"a measured value cannot be called {taken[0]!r}")

    def to_line(self) -> str:
        values = {
            name: value if math.isfinite(value) else None for name, value in self.values.items()
        }
        head = {"kind": self.kind, "step": self.step, "time": self.time}
        return json.dumps(head | values, allow_nan=False) + "\n"

    @staticmethod
    def from_line(line: str) -> LogEntry | None:
        """The entry, with NaN for null; None if the line is incomplete or no entry."""
        try:
            raw = json.loads(line)
            values = {
                FORMER_NAMES.get(name, name): _number(raw[name])
                for name in raw
                if name not in _RESERVED
            }
            kind, step, time = raw["kind"], raw["step"], raw.get("time", "")
        except (ValueError, TypeError, LookupError, OverflowError, RecursionError, AttributeError):
            return None
        known = kind in ("train", "eval") and type(step) is int and isinstance(time, str)
        return LogEntry(kind, step, values, time) if known else None


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"not a number: {value!r}")
    return float(value)


@dataclass(frozen=True)
class History:
    """The readable ``entries`` of a file in order, and the 1-based numbers of the other lines."""

    entries: tuple[LogEntry, ...] = ()
    damaged: tuple[int, ...] = ()

    def of(self, kind: Kind) -> tuple[LogEntry, ...]:
        return tuple(entry for entry in self.entries if entry.kind == kind)


def read_history(folder: Path) -> History:
    """The history of a run folder; empty if nothing was logged yet."""
    try:
        text = read_limited(folder / METRICS_FILE).decode("utf-8", "replace")
    except FileNotFoundError:
        return History()
    # Only "\n" ends a line here; str.splitlines would also cut at the likes of U+2028.
    lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line]
    parsed = [(number, LogEntry.from_line(line)) for number, line in lines]
    return History(
        tuple(entry for _, entry in parsed if entry is not None),
        tuple(number for number, entry in parsed if entry is None),
    )


def cut_history(folder: Path, *, last_step: int, evaluated: bool = True) -> History:
    """Remove all entries after ``last_step``, its evaluation unless it is ``evaluated``, and
    damaged lines; returns the others.

    A killed run may have logged steps after its last checkpoint, and an incomplete line; the
    resumed run logs those steps again. ``last_step`` 0 is a new run and keeps nothing. Raises
    ``OSError``.
    """
    old = read_history(folder)
    kept = tuple(
        entry
        for entry in old.entries
        if last_step > 0 and entry.step <= last_step
        if evaluated or (entry.kind, entry.step) != ("eval", last_step)
    )
    if kept != old.entries or old.damaged:
        write_file(folder / METRICS_FILE, "".join(entry.to_line() for entry in kept))
    return History(kept, old.damaged)


def results_table(evaluations: Sequence[LogEntry]) -> str:
    """CSV: ``step`` and the metrics in order of first appearance; empty where NaN or absent."""
    names = list(dict.fromkeys(name for entry in evaluations for name in entry.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["step", *map(csv_cell, names)])
    for entry in evaluations:
        numbers = (entry.values.get(name, math.nan) for name in names)
        writer.writerow([entry.step, *("" if math.isnan(n) else repr(n) for n in numbers)])
    return text.getvalue()


class LineFile:
    """A file that grows by whole lines.

    Lines that could not be written (a full disk) are kept in memory and written by the next call.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pending: list[str] = []
        with suppress(OSError):
            if path.read_bytes()[-1:] not in (b"", b"\n"):
                self._pending.append("\n")  # the last line is incomplete

    def append(self, lines: Iterable[str]) -> None:
        """Raises ``OSError``; the lines are kept for the next call then."""
        self._pending.extend(lines)
        text = "".join(self._pending)
        append_file(self._path, text.encode("utf-8", errors="backslashreplace"))
        self._pending.clear()

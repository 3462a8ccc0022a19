"""Progress of the commands, alike in all. It goes to stderr: stdout holds only results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

from resdet.detection.printing import ProgressLines, on_terminal, progress_of

if TYPE_CHECKING:
    from rich.progress import TaskID


@contextmanager
def count_progress(name: str, total: int, unit: str = "images") -> Iterator[Callable[..., None]]:
    """Yield ``advance()``, to be called once per item, whatever its arguments."""
    with progress_of(name, unit) as report:
        done = count(1)
        yield lambda *ignored: report(next(done), total)


@contextmanager
def inference_progress() -> Iterator[Callable[[int, int, int], None]]:
    """Yield ``report(done, total, failed)``."""
    with progress_of("detecting") as report:
        yield lambda done, total, failed: report(done, total, f"{failed} failed" if failed else "")


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield ``report(what, done, total)`` in bytes, with one bar for each ``what``."""
    from rich import progress as rich
    from rich.console import Console

    console = Console(stderr=True)
    if not on_terminal(console):
        lines: dict[str, ProgressLines] = {}

        def report_line(what: str, done: int, total: int) -> None:
            each = lines.setdefault(what, ProgressLines(what, "MB", sys.stderr))
            each.report(round(done / 1e6, 1), round(total / 1e6, 1))

        yield report_line
        return
    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=20),
        rich.TaskProgressColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    tasks: dict[str, TaskID] = {}
    with rich.Progress(*columns, console=console) as bars:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield report

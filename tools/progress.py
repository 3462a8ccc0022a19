"""Progress bars of the commands. They write to stderr: stdout holds only results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resdet.detection.printing import progress_bars, say

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

#: Seconds between two lines of `inference_progress` without a terminal.
_LINE_EVERY = 10.0


def _bars(unit: str = "images") -> Progress:
    from rich.console import Console

    return progress_bars(Console(stderr=True), unit)


@contextmanager
def count_progress(name: str, total: int, unit: str = "images") -> Iterator[Callable[..., None]]:
    """Yield ``advance(line="")``, to be called once per item.

    Without a terminal, ``line`` is printed in place of the bar if it is not empty.
    """
    terminal = sys.stderr.isatty()
    with _bars(unit) as bars:
        task = bars.add_task(name, total=total)

        def advance(line: str = "") -> None:
            bars.advance(task)
            if line and not terminal:
                say(line, file=sys.stderr, flush=True)

        yield advance


@contextmanager
def decoding_progress() -> Iterator[Callable[[int, int], None]]:
    """Yield ``report(done, total)``. Without a terminal it prints a line per 10 %."""
    if not sys.stderr.isatty():
        yield _print_every_tenth
        return
    with _bars() as bars:
        task = bars.add_task("decoding", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _print_every_tenth(done: int, total: int) -> None:
    if done * 10 // total > (done - 1) * 10 // total:
        say(f"decoded {done} of {total} images", file=sys.stderr)


@contextmanager
def download_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield ``report(what, done, total)`` in bytes, with one bar for each ``what``."""
    from rich import progress as rich
    from rich.console import Console

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=20),
        rich.TaskProgressColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    tasks: dict[str, TaskID] = {}
    with rich.Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done)

        yield report


@contextmanager
def inference_progress() -> Iterator[Callable[[int, int, int], None]]:
    """Yield ``report(done, total, failed)``. Without a terminal it prints a line every 10 s."""
    if not sys.stderr.isatty():
        yield _print_every_ten_seconds()
        return
    with _bars() as bars:
        task = bars.add_task("", total=None)

        def report(done: int, total: int, failed: int) -> None:
            what = f"detecting, {failed} failed" if failed else "detecting"
            bars.update(task, completed=done, total=total, description=what)

        yield report


def _print_every_ten_seconds() -> Callable[[int, int, int], None]:
    start = last = time.monotonic()
    first: int | None = None  # what earlier runs did

    def report(done: int, total: int, failed: int) -> None:
        nonlocal last, first
        first = done - 1 if first is None else first
        now = time.monotonic()
        if now - last >= _LINE_EVERY:
            last = now
            rate = (done - first) / (now - start)
            say(f"{done}/{total}, {rate:.2f} images/s, {failed} failed", file=sys.stderr)

    return report

"""Output of commands: streams that outlast their reader, and names from files made printable."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, Task
    from rich.text import Text

Item = TypeVar("Item")

#: Seconds between two lines of progress where there is no terminal.
LINE_EVERY = 10.0
#: Characters of a line there, so that tables break none.
_FILE_WIDTH = 240


class LastingStream:
    """A text stream that goes on silently once its reader is gone: a closed pipe or terminal, or a
    full disk, ends the output and not the work. What its encoding lacks is escaped. A reader of
    a file or pipe gets each line as it is printed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        with suppress(AttributeError, ValueError):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        return str(getattr(self._stream, "encoding", None) or "utf-8")

    def write(self, text: str) -> int:
        self._try("write", text)
        return len(text)

    def flush(self) -> None:
        self._try("flush")

    def isatty(self) -> bool:
        return bool(self._stream is not None and self._stream.isatty())

    def fileno(self) -> int:
        return int(self._stream.fileno())

    def _try(self, method: str, *arguments: str) -> None:
        if self._stream is None:  # started with a closed descriptor
            return
        try:
            getattr(self._stream, method)(*arguments)
        except (OSError, ValueError):  # ValueError: closed by the program itself
            with suppress(OSError, ValueError):
                # Else what is buffered fails again when the process ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())


@contextmanager
def lasting_outputs() -> Iterator[None]:
    """Within the context, `LastingStream` takes the place of stdout and stderr.

    That of stderr has a descriptor of its own: 2 is redirected while images are decoded.
    """
    before = sys.stdout, sys.stderr
    own = _on_own_descriptor(before[1])
    sys.stdout, sys.stderr = LastingStream(before[0]), LastingStream(own or before[1])
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before
        if own is not None:
            with suppress(OSError, ValueError):
                own.close()


def _on_own_descriptor(stream: Any) -> Any:
    """A stream with a copy of the descriptor of stderr; None if ``stream`` is not stderr itself."""
    try:
        if stream.fileno() != 2:
            return None
        stream.flush()
        return open(  # noqa: PTH123 (a descriptor)
            os.dup(2), "w", encoding=stream.encoding, errors=stream.errors, buffering=1
        )
    except (AttributeError, OSError, ValueError):  # closed, or replaced by the caller
        return None


def printable(text: object) -> str:
    """``text`` on one line, with control characters and marks that change the direction of what
    follows as escapes: names come from other people's files."""
    return _UNPRINTABLE.sub(lambda match: _escape(match[0]), str(text))


def say(*values: object, file: Any = None, flush: bool = False) -> None:
    """Print ``values`` on one line, each `printable`."""
    print(*map(printable, values), file=file, flush=flush)


def say_next(*words: object) -> None:
    """Print the command to run next, as the last line of a command."""
    say(f"next: {shlex.join(map(str, words))}")


def cell(value: object, style: str = "") -> Text:
    """``value`` `printable` for rich, which would read markup and emoji codes in plain text."""
    from rich.text import Text  # takes a tenth of a second, which `resdet --help` does not spend

    return Text(printable(value), style)


def on_terminal(console: Console) -> bool:
    """Whether somebody watches; ``FORCE_COLOR`` makes a terminal of files and pipes for rich."""
    return console.is_terminal and bool(console.file.isatty())


def progress_bars(console: Console, unit: str = "images", **options: Any) -> Progress:
    """Bars alike in all commands: what, share, count, rate in ``unit`` a second and time left. They
    go when they are done, and there are none off a terminal."""
    from rich import progress as rich
    from rich.text import Text

    class Rate(rich.ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:.3g} {unit}/s" if speed else "")

    columns = (
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(bar_width=20),
        rich.TaskProgressColumn(),
        rich.MofNCompleteColumn(),
        Rate(),
        rich.TimeRemainingColumn(),
    )
    options = {"transient": True, "disable": not on_terminal(console), **options}
    return rich.Progress(*columns, console=console, **options)


def table_console() -> Console:
    """Standard output for tables: off a terminal wide enough to break no line."""
    from rich.console import Console

    console = Console()
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(width=_FILE_WIDTH)


@contextmanager
def progress_of(
    what: str, unit: str = "images", console: Console | None = None
) -> Iterator[Callable[..., None]]:
    """Yield ``report(done, total, note="")`` of one long step: a bar of `progress_bars` on
    a terminal, elsewhere a line of `ProgressLines`; by default on stderr."""
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)
    if not on_terminal(console):
        yield ProgressLines(what, unit, console.file).report
        return
    with progress_bars(console, unit) as bars:
        task = bars.add_task(what, total=None)

        def report(done: float, total: float, note: str = "") -> None:
            text = f"{what}, {note}" if note else what
            bars.update(task, completed=done, total=total, description=text)

        yield report


class ProgressLines:
    """A line every `LINE_EVERY` seconds: what, share, count, rate, time left and a note."""

    def __init__(self, what: str, unit: str, file: Any) -> None:
        self._what, self._unit, self._file = what, unit, file
        self._last = time.monotonic()
        self._first: tuple[float, float] | None = None  # the first report, which a start may delay

    def report(self, done: float, total: float, note: str = "") -> None:
        """Of ``total`` units ``done`` are done; the rate is that since the first report."""
        now = time.monotonic()
        self._first = self._first or (done, now)
        if now - self._last < LINE_EVERY:
            return
        self._last = now
        before, start = self._first
        rate = (done - before) / (now - start) if now > start else 0.0
        words = [f"{self._what}: {done / total:.0%}"] if total else [self._what]
        words.append(f"{done:.10g}/{total:.10g}")
        if rate > 0:
            left = timedelta(seconds=round((total - done) / rate))
            words += [f"{rate:.3g} {self._unit}/s", f"{left} left"]
        say(", ".join([*words, note] if note else words), file=self._file, flush=True)


def tracked(
    items: Iterable[Item],
    what: str,
    total: float,
    console: Console | None = None,
    unit: str = "images",
) -> Iterator[Item]:
    """The items, with the progress of `progress_of`."""
    with progress_of(what, unit, console) as report:
        for done, item in enumerate(items, 1):
            yield item
            report(done, total)


#: Control characters, line and paragraph separators, marks of direction, lone surrogates.
_UNPRINTABLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]"
)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")

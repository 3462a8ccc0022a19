"""The log of a training run: terminal, ``train.log``, ``metrics.jsonl``, CSV and trackers.

``RunLog`` sends each message, step and evaluation to several sinks. Logging never stops training:
the first failure of a sink (a full disk, a closed pipe) is logged, and the run continues.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from ..errors import ConfigError
from ..files import write_file
from ..printing import on_terminal, printable
from ..trackers import TRACKERS, TrackedRun, Tracker
from .history import METRICS_FILE, RESULTS_FILE, LineFile, LogEntry, cut_history, results_table
from .log_words import Clock, Epochs, words_of

LOG_FILE = "train.log"
#: The values in the progress bar.
_SHOWN = ("loss", "lr", "images_per_s", "eta")


class RunLog:
    """The log of one training run, in ``folder``; a context manager.

    Writes ``metrics.jsonl`` and ``results.csv`` (see ``history.py``), ``train.log`` (all lines,
    with times), and sends the values to ``trackers``, names of `TRACKERS`, which get ``config``
    too. A terminal has a progress bar below the messages; elsewhere (a pipe, CI, NO_COLOR) every
    step is one plain line.

    ``start_step`` is the step of the checkpoint a run resumes from: entries after it, logged by
    the killed run, are removed, so that the history equals that of an uninterrupted run; so is the
    evaluation at this step unless it is ``evaluated``. For that the training loop saves the
    checkpoint of a step after logging it. With ``steps_per_epoch`` the
    lines of steps say the epoch too. Without a ``folder`` (all processes but the first) nothing is
    logged. Raises ConfigError if the folder cannot be created.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        total_steps: int = 0,
        start_step: int = 0,
        evaluated: bool = True,
        steps_per_epoch: int | None = None,
        trackers: Sequence[str] = (),
        config: Mapping[str, Any] | None = None,
        console: Console | None = None,
    ) -> None:
        self._total_steps = total_steps
        self._epochs = Epochs(total_steps, steps_per_epoch)
        self._clock = Clock(start_step, total_steps)
        self._failed: set[str] = set()
        self._sinks: list[_Sink] = []
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be a run folder: {error.strerror}") from error
        self._open(
            "terminal",
            lambda: _terminal(console or Console(), start_step, total_steps, self._epochs),
        )
        self._open(LOG_FILE, lambda: _TextFile(folder / LOG_FILE))
        self._open(METRICS_FILE, lambda: _History(folder, start_step, evaluated, self.message))
        run = TrackedRun(folder, start_step, config or {})
        for name in dict.fromkeys(trackers):
            self._open(name, partial(_Tracked, name, run))

    def message(self, text: str) -> None:
        """Lines of text; control characters are escaped."""
        text = "\n".join(map(printable, text.split("\n")))
        self._send(lambda sink: sink.message(text))

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """The values of a training step, every ``train.log_every`` steps.

        The loop passes loss, loss_rpn_cls, loss_rpn_box, loss_cls, loss_box, lr, images_per_s,
        data_wait (fraction of the time spent waiting for data) and mem_gb; ``eta`` (seconds) is
        added here.
        """
        eta = self._clock.eta(step)
        entry = LogEntry(
            "train", step, {name: float(v) for name, v in values.items()} | {"eta": eta}
        )
        width = len(str(self._total_steps))
        epochs = self._epochs.words(step)
        line = f"step {step:>{width}}/{self._total_steps}  {epochs}{words_of(entry.values)}"
        self._send(lambda sink: sink.entry(entry, line))

    def evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """The metrics after ``step`` training steps."""
        entry = LogEntry("eval", step, {name: float(v) for name, v in metrics.items()})
        self._send(
            lambda sink: sink.entry(entry, f"evaluation at step {step}  {words_of(entry.values)}")
        )

    def draw(self, plot: Callable[..., object], *content: Any) -> None:
        """Call ``plot``; an error is logged and does not stop training."""
        try:
            plot(*content)
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.message(
                f"warning: an image of the run was not drawn, training continues: {reason}"
            )

    def close(self) -> None:
        """Remove the progress bar and finish the files; nothing is logged afterwards."""
        self._send(lambda sink: sink.close())
        self._sinks = []

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self, name: str, make: Callable[[], _Sink]) -> None:
        try:
            self._sinks.append(make())
        except Exception as error:
            self._warn(name, error)

    def _send(self, call: Callable[[_Sink], None]) -> None:
        for sink in list(self._sinks):
            try:
                call(sink)
            except Exception as error:
                self._warn(sink.name, error)

    def _warn(self, name: str, error: Exception) -> None:
        if name in self._failed:
            return
        self._failed.add(name)
        self.message(f"warning: {name} cannot be written, training continues: {error}")


class _Sink:
    """A destination of the log; by default an entry is its ``line``, as a message."""

    name: str

    def message(self, text: str) -> None:
        return

    def entry(self, entry: LogEntry, line: str) -> None:
        self.message(line)

    def close(self) -> None:
        return


class _Lines(_Sink):
    """A pipe or a dumb terminal: plain lines, never wrapped."""

    def __init__(self, console: Console) -> None:
        self.name = "terminal"
        self._console = console

    def message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


class _Bar(_Lines):
    """A terminal: a progress bar for the steps, everything else above it."""

    def __init__(self, console: Console, start_step: int, total_steps: int, epochs: Epochs) -> None:
        super().__init__(console)
        self._epochs = epochs
        self._progress = Progress(
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
        )
        self._task = self._progress.add_task("", total=total_steps, completed=start_step)
        self._progress.start()

    def entry(self, entry: LogEntry, line: str) -> None:
        if entry.kind == "eval":
            self.message(line)
            return
        shown = {name: entry.values[name] for name in _SHOWN if name in entry.values}
        words = self._epochs.words(entry.step) + words_of(shown)
        self._progress.update(self._task, completed=entry.step, description=words)

    def close(self) -> None:
        self._progress.stop()


class _TextFile(_Sink):
    """``train.log``: every line with the local time; a resumed run appends."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = LineFile(path)

    def message(self, text: str) -> None:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        self._file.append(f"{now}  {line}\n" for line in text.split("\n"))


class _History(_Sink):
    """``metrics.jsonl`` and ``results.csv``."""

    def __init__(
        self, folder: Path, start_step: int, evaluated: bool, message: Callable[[str], None]
    ) -> None:
        self.name = METRICS_FILE
        kept = cut_history(folder, last_step=start_step, evaluated=evaluated)
        for number in kept.damaged:
            message(f"{folder / METRICS_FILE}:{number}: incomplete line, left out")
        self._file = LineFile(folder / METRICS_FILE)
        self._table = folder / RESULTS_FILE
        self._evaluations = list(kept.of("eval"))
        self._write_table()

    def entry(self, entry: LogEntry, line: str) -> None:
        if entry.kind == "eval":
            self._evaluations.append(entry)
        try:
            self._file.append([entry.to_line()])
        finally:
            if entry.kind == "eval":
                self._write_table()

    def close(self) -> None:
        self._file.append([])

    def _write_table(self) -> None:
        if self._evaluations:
            write_file(self._table, results_table(self._evaluations))
        else:
            self._table.unlink(missing_ok=True)


class _Tracked(_Sink):
    """The values for a tracker, which is left alone after its first failure."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self.name = name
        self._tracker: Tracker | None = TRACKERS[name](run)

    def entry(self, entry: LogEntry, line: str) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.scalars(entry.kind, entry.step, entry.values)
            self._tracker = tracker

    def close(self) -> None:
        tracker, self._tracker = self._tracker, None
        if tracker is not None:
            tracker.close()


def _terminal(console: Console, start_step: int, total_steps: int, epochs: Epochs) -> _Sink:
    plain = _is_plain(console)
    return _Lines(console) if plain else _Bar(console, start_step, total_steps, epochs)


def _is_plain(console: Console) -> bool:
    unset = ("", "0", "false")
    wanted = any(os.environ.get(name, "").lower() not in unset for name in ("CI", "NO_COLOR"))
    return wanted or not on_terminal(console) or console.is_dumb_terminal

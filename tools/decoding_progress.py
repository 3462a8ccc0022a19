"""How do commands that decode a whole data set show how far they are?"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[int, int], None]


@contextmanager
def decoding_progress() -> Iterator[Progress]:
    """A bar on a terminal, else a line for every tenth; on stderr, so that stdout is the report."""
    if not sys.stderr.isatty():
        yield _line_for_every_tenth
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    with Bars(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("decoding", total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _line_for_every_tenth(done: int, total: int) -> None:
    if done * 10 // total > (done - 1) * 10 // total:
        print(f"decoded {done} of {total} images", file=sys.stderr)

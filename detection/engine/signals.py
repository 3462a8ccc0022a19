"""Ctrl-C and SIGTERM as a request to finish the step, save and stop."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any


class StopRequest:
    """A context manager that records the first signal; a second one has its usual effect."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, 0 without a signal."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> StopRequest:
        self._before = {number: signal.signal(number, self._record) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 as a request to finish the step, save and stop."""

from __future__ import annotations

import signal
from threading import current_thread, main_thread
from types import FrameType
from typing import Any


class StopRequest:
    """A context manager that records the first signal; a second one has its usual effect.

    Signals that the process was started to ignore (``nohup``, ``&`` in a script) stay ignored.
    SIGHUP is a closed terminal, SIGUSR1 the warning of batch systems; Windows has neither.
    Only the main thread may handle signals: in any other, nothing is recorded.
    """

    SIGNALS = tuple(
        getattr(signal, name)
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
        if hasattr(signal, name)
    )

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal, 130 after Ctrl-C and 143 after SIGTERM; 0 without one."""
        return 0 if self.signal is None else 128 + self.signal

    def __enter__(self) -> StopRequest:
        if current_thread() is not main_thread():
            return self
        self._before = {
            number: signal.signal(number, self._record)
            for number in self.SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(self, *error: object) -> None:
        self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

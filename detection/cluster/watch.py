"""The progress of a run over a manifest, and the reason why nothing finishes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...datasets.manifests.storage import waited_for
from .marks import repeated

#: Seconds without a finished image before `Watch` says why.
SILENCE = 60.0


class Watch:
    """Counts images that finish, from any thread."""

    def __init__(self, report: Callable[[int, int], None] = lambda images, failed: None) -> None:
        """``report(images, failed)`` is called after each image."""
        self._report = report
        self.images = self.failed = 0
        self.last = time.monotonic()

    def finished(self, *, failed: bool = False) -> None:
        self.add(1, int(failed))

    def add(self, images: int, failed: int) -> None:
        """As many images finished, in another process."""
        self.images, self.failed = self.images + images, self.failed + failed
        self.last = time.monotonic()
        self._report(self.images, self.failed)

    def reason(self) -> str:
        """What this process waits for."""
        waits = waited_for()
        if waits:
            return f"waiting for {waits[0]}" + (f", and {len(waits) - 1} more" * (len(waits) > 1))
        return "reading from a disk, decoding, or in the network"

    @contextmanager
    def tell(self, say: Callable[[str], None], silence: float = SILENCE) -> Iterator[None]:
        """Within the context, call ``say`` with the reason each time that no image finished for
        ``silence`` seconds."""
        told = self.last = time.monotonic()

        def observe() -> None:
            nonlocal told
            now = time.monotonic()
            if now - max(self.last, told) >= silence:
                told = now
                say(f"no image finished for {now - self.last:.0f} s: {self.reason()}")

        with repeated(observe, min(1.0, silence / 4)):
            yield

"""The memory that images under way may take: a budget of bytes that threads share."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile

#: Most bytes of an image file.
MAX_FILE = 512 * 2**20
#: Bytes of images that are decoded at once in all threads of a process.
BUDGET = 2**30
#: The most bytes for a pixel while an image is decoded, drawn and encoded, measured by
#: `benchmarks/image_memory.py`, by format.
_BYTES = {"JPEG2000": 20, "AVIF": 16}
_OTHERS = 10


class Closed(Exception):
    """The budget was closed while a thread waited for its share."""


class MemoryBudget:
    """``total`` bytes shared by threads. A share that is larger is given while nobody else has one,
    so that it waits, but is not refused."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.reset()

    def reset(self) -> None:
        """Nobody has a share, as in a forked process."""
        self._changed = threading.Condition()
        self._held: list[int] = []
        self._turn = 0
        self._is_closed = False

    @contextmanager
    def share(self, size: int) -> Iterator[None]:
        """Within the context, ``size`` bytes are taken."""
        self.take(size)
        try:
            yield
        finally:
            self.give_back(size)

    def take(self, size: int, *, turn: int | None = None, beside: int = 0) -> None:
        """Wait until ``size`` bytes are free, or no more than ``beside`` shares are taken.

        Calls with a ``turn`` (0, 1, 2, …) are served in its order. Raises `Closed`.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._is_closed or (turn in (None, self._turn) and self._is_free(size, beside))
                )
            )
            if self._is_closed:
                raise Closed
            self._held.append(size)
            self._turn += turn is not None
            self._changed.notify_all()

    def give_back(self, size: int) -> None:
        with self._changed:
            self._held.remove(size)
            self._changed.notify_all()

    def close(self) -> None:
        """End all waiting."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _is_free(self, size: int, beside: int) -> bool:
        return len(self._held) <= beside or sum(self._held) + size <= self.total


def bytes_of(image: ImageFile.ImageFile, file_size: int) -> int:
    """The most bytes that an opened image takes while it is decoded, drawn and encoded."""
    width, height = image.size
    return file_size + width * height * _BYTES.get(image.format or "", _OTHERS)


#: What `decode_image` takes its shares of.
DECODING = MemoryBudget(BUDGET)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DECODING.reset)

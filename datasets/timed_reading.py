"""Reading of images in processes that are ended when one takes too long."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from queue import Empty, SimpleQueue

from ..detection.errors import ImageError
from .image import ImageRules, LoadedImage, read_image
from .parallel import Died, Worker

_Job = tuple[Path, ImageRules] | None


class TimedReader:
    """Reads images, each within ``seconds``, for any number of threads; a context manager.

    Each thread that reads has a process, which takes a second to start. One that is ended is
    replaced, as is one that a decoder crashes.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._idle: SimpleQueue[Worker[_Job, LoadedImage | None]] = SimpleQueue()

    def read(self, path: Path, rules: ImageRules) -> LoadedImage:
        """As `read_image`; raises ImageError too where reading takes longer or ends the process."""
        worker = self._worker()
        worker.give(deque([[0]]), [(path, rules)])
        if not worker.connection.poll(self.seconds):
            worker.stop()
            raise rules.error(f"{path}: not read within {self.seconds:g} s")
        answer = worker.receive()
        if isinstance(answer, Died):
            worker.stop()
            raise rules.error(f"{path}: cannot be read ({answer.reason})")
        self._idle.put(worker)
        if isinstance(answer, Exception):
            raise answer
        (loaded,) = answer
        if loaded is None:
            raise ImageError(f"{path}: cannot be read")
        return loaded

    def _worker(self) -> Worker[_Job, LoadedImage | None]:
        try:
            return self._idle.get_nowait()
        except Empty:
            worker = Worker(_read)
            worker.give(deque([[0]]), [None])  # until it has started
            worker.receive()
            return worker

    def __enter__(self) -> TimedReader:
        return self

    def __exit__(self, *error: object) -> None:
        while not self._idle.empty():
            self._idle.get().stop()


def _read(job: _Job) -> LoadedImage | None:
    return None if job is None else read_image(*job)

"""A model behind a bounded queue: threads that decode, and one thread that runs the networks.

An image waits encoded until a decoder has room for it; decoders keep one batch ahead. The model
thread takes the oldest prepared image and those of its network size. An image whose future was
cancelled is dropped at the next step. After an unexpected error of a thread the queue is dead.
"""

from __future__ import annotations

import io
import math
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Condition, Thread
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ...datasets.image_file import open_image
from ..errors import ImageError, ResdetError, one_line
from ..inference.pipeline import Prepared, network_shapes
from ..inference.predictor import Predictor
from .metrics import Metrics
from .options import LargeImageError, RequestError, ServeOptions

#: Seconds that an incomplete batch waits for images that are being decoded.
BATCH_WAIT = 0.01
#: The newest image counts so much in the mean time of an image.
_NEWEST = 0.1


@dataclass(eq=False)
class QueuedImage:
    """An encoded image on its way: its ``name``, the minimum scores (K,) of the classes, and the
    ``future`` of its record."""

    name: str
    data: bytes
    thresholds: Tensor
    future: Future[dict[str, Any]] = field(default_factory=Future)

    def fail(self, error: BaseException) -> None:
        with suppress(InvalidStateError):  # cancelled or answered
            self.future.set_exception(error)


class ModelQueue:
    """Records of encoded images, as `resdet infer` writes them.

    ``on_death`` is called from the thread that died.
    """

    def __init__(self, predictor: Predictor[Any], options: ServeOptions, metrics: Metrics) -> None:
        self.predictor, self.options, self.metrics = predictor, options, metrics
        self.failure: BaseException | None = None
        self.on_death: Callable[[], None] = lambda: None
        self._changed = Condition()
        self._waiting: deque[QueuedImage] = deque()
        self._decoding: list[QueuedImage] = []
        self._ready: deque[tuple[QueuedImage, Prepared]] = deque()
        self._running: list[QueuedImage] = []
        self._closing = False
        self._seconds = 0.0
        self._threads = [
            Thread(target=self._guarded, args=(step,), name=name, daemon=True)
            for step, name in (
                *[(self._decode_next, "decode")] * options.decoders,
                (self._run_next, "model"),
            )
        ]

    # ---------------------------------------------------------------------------- the callers

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        """Whether images are still answered."""
        return self.failure is None and all(thread.is_alive() for thread in self._threads)

    @property
    def pending(self) -> int:
        """The number of images that are accepted and unanswered."""
        with self._changed:
            return self._pending()

    def expect_room(self, images: int = 1) -> None:
        """Raise RequestError, 503, where so many images find no place."""
        with self._changed:
            self._expect_room(images)

    def submit(self, images: Sequence[QueuedImage]) -> None:
        """Accept all of the images, or raise RequestError, 503, for all; their futures give records
        or raise ImageError or RequestError."""
        with self._changed:
            self._expect_room(len(images))
            self._waiting.extend(images)
            self._changed.notify_all()

    def drop_cancelled(self) -> None:
        """Forget waiting images that nobody waits for any more, and their bytes."""
        with self._changed:
            self._waiting = deque(each for each in self._waiting if not each.future.cancelled())
            self._changed.notify_all()  # who closes waits for the last one

    def close(self) -> None:
        """Finish what is accepted, and end the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _pending(self) -> int:
        ready = [image for image, _ in self._ready]
        every = (*self._waiting, *self._decoding, *ready, *self._running)
        return sum(not image.future.cancelled() for image in every)

    def _expect_room(self, images: int) -> None:
        if self.failure is not None:
            raise stopped(self.failure)
        if (pending := self._pending()) + images > self.options.queue:
            retry = max(1, min(math.ceil(self._seconds * pending), 60))
            raise RequestError(503, f"busy: {pending} images wait", retry_after=retry)

    # ---------------------------------------------------------------------------- the threads

    def _guarded(self, step: Callable[[], bool]) -> None:
        """Repeat ``step`` until it says that there is nothing left."""
        try:
            while step():
                pass
        except BaseException as error:
            traceback.print_exc()
            with self._changed:
                self.failure = error
                lost = (*self._waiting, *self._decoding, *(image for image, _ in self._ready))
                for image in (*lost, *self._running):
                    image.fail(stopped(error))
                self._waiting.clear()
                self._ready.clear()
                self._changed.notify_all()
            self.on_death()

    def _decode_next(self) -> bool:
        with self._changed:
            while not (self._waiting and self._has_space()):
                if self.failure or (self._closing and not self._waiting):
                    return False
                self._changed.wait()
            image = self._waiting.popleft()
            if image.future.cancelled():
                self._changed.notify_all()
                return True
            self._decoding.append(image)
        try:
            prepared = self._prepared(image)
        except (ImageError, LargeImageError) as error:
            image.fail(error)
            prepared = None
        with self._changed:
            self._decoding.remove(image)
            if prepared is not None:
                self._ready.append((image, prepared))
            self._changed.notify_all()
        return True

    def _has_space(self) -> bool:
        """Whether the prepared images are less than a batch more than the model can take now."""
        return len(self._ready) + len(self._decoding) < 2 * self.options.batch_size

    def _prepared(self, image: QueuedImage) -> Prepared:
        with self.metrics.decoding.time():
            self._expect_pixels(image)
            try:
                prepared = self.predictor.prepare(image.data)
            except ImageError as error:
                raise ImageError(str(error).removeprefix("bytes: ")) from error
            except Exception as error:  # whatever an odd image makes the resizing raise
                raise ImageError(f"cannot be prepared ({one_line(error)})") from error
        image.data = b""
        return prepared

    def _expect_pixels(self, image: QueuedImage) -> None:
        """Raise LargeImageError for too many pixels, by the header alone."""
        limit = min(self.options.max_pixels, self.predictor.rules.max_pixels)
        try:
            with open_image(io.BytesIO(image.data), "") as opened:
                width, height = opened.size
        except Image.DecompressionBombError as error:
            raise LargeImageError(f"over {limit} pixels") from error
        except Exception:  # told, with its reason, when it is read
            return
        if width * height > limit:
            raise LargeImageError(f"{width}x{height} is over {limit} pixels")

    def _run_next(self) -> bool:
        with self._changed:
            while not self._ready:
                if self.failure or (self._closing and not (self._waiting or self._decoding)):
                    return False
                self._changed.wait()
            batch = self._next_batch()
            self._running = [image for image, _ in batch]
            self._changed.notify_all()  # there is space for decoders
        if batch:
            started = time.perf_counter()
            with self.metrics.model.time():
                self._answer(batch)
            self.metrics.batch.observe(len(batch))
            each = (time.perf_counter() - started) / len(batch)
            self._seconds += (each - self._seconds) * (_NEWEST if self._seconds else 1)
        self._running = []
        return True

    def _next_batch(self) -> list[tuple[QueuedImage, Prepared]]:
        """The oldest image and those of its network size, after a short wait for more of them."""
        deadline = time.monotonic() + BATCH_WAIT
        shapes = network_shapes(self._ready[0][1])

        def like_first() -> list[tuple[QueuedImage, Prepared]]:
            return [each for each in self._ready if network_shapes(each[1]) == shapes]

        while len(like_first()) < self.options.batch_size and (
            self._decoding or (self._waiting and self._has_space())
        ):
            if not self._changed.wait(deadline - time.monotonic()):
                break
        batch = like_first()[: self.options.batch_size]
        taken = {image for image, _ in batch}
        self._ready = deque(each for each in self._ready if each[0] not in taken)
        return [each for each in batch if each[0].future.set_running_or_notify_cancel()]

    def _answer(self, batch: Sequence[tuple[QueuedImage, Prepared]]) -> None:
        """Give each image its record; where a batch fails, each of its images is run alone."""
        try:
            found = self.predictor.detect([prepared for _, prepared in batch])
        except (ResdetError, torch.OutOfMemoryError) as error:
            if len(batch) > 1:
                for each in batch:
                    self._answer([each])
                return
            batch[0][0].fail(
                ImageError(one_line(error))
                if isinstance(error, ResdetError)
                else RequestError(503, "not enough memory for this image now", retry_after=5)
            )
            return
        output = self.predictor.output
        for (image, prepared), one in zip(batch, found, strict=True):
            if not output.is_finite(one):
                image.fail(ImageError(f"the network gave {output.numbers} that are NaN"))
                continue
            chosen = output.selected(one, image.thresholds)
            record = output.record(image.name, prepared.loaded, chosen, self.predictor.classes)
            image.future.set_result(record)


def stopped(failure: BaseException) -> RequestError:
    """The answer of a queue that is dead."""
    return RequestError(503, f"the model has stopped: {one_line(failure)}")

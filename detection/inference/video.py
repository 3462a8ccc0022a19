"""Frames of video files, webcams and streams, decoded ahead in a thread, and an annotated video."""

from __future__ import annotations

import os
import queue
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, ImageError

_LOGGING = cv2.utils.logging
#: FFmpeg in OpenCV writes nothing to stderr about sources that are damaged or cannot be opened,
#: which `Video` tells, unless its user asks for it.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

#: Containers of video that OpenCV's FFmpeg reads.
VIDEO_SUFFIXES = frozenset(
    {".avi", ".flv", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts"}
    | {".webm", ".wmv"}
)
_STREAM = re.compile(r"(rtsps?|rtmps?|rtp|udp|tcp|srt)://", re.IGNORECASE)
_WEB_VIDEO = re.compile(r"https?://[^?#]*\.(\w+)([?#]|$)", re.IGNORECASE)

#: Frames that are decoded ahead.
_AHEAD = 8
#: Share of the frames, and of the seconds, that a file may end before what it says of itself:
#: containers estimate.
_SLACK = 0.02
#: Seconds that the annotated video shows one frame for, at most: time stamps may jump.
_LONGEST = 60.0


def is_video(text: str) -> bool:
    """Whether an input is a video: a file by its extension, the number of a webcam, or a URL that
    streams. A file with the name of a webcam is a file."""
    if _STREAM.match(text):
        return True
    if web := _WEB_VIDEO.match(text):
        return f".{web[1].lower()}" in VIDEO_SUFFIXES | {".m3u8"}
    if text.isdecimal() and not Path(text).exists():
        return True
    return Path(text).suffix.lower() in VIDEO_SUFFIXES and not Path(text).is_dir()


def expect_step(every: int) -> None:
    """Raises ConfigError unless every ``every``-th frame can be taken."""
    if every < 1:
        raise ConfigError(f"every {every}-th frame: it must be at least 1")


@dataclass(frozen=True)
class Frame:
    """One frame: its ``number`` from 0 among all frames of the source, ``time`` in seconds from
    the start, ``pixels`` (h, w, 3) uint8 RGB, upright."""

    number: int
    time: float
    pixels: NDArray[np.uint8]


class Video:
    """The frames of a source, in order; every ``every``-th one.

    A thread decodes a few frames ahead. A live source (webcam, stream) does not wait: where the
    reader is slower, the oldest waiting frame is dropped and counted in ``dropped``, so that
    results never fall behind. Rotation that a file asks for is applied.

    After the last frame, ``shortfall`` says if a file ended before what it says of itself: it was
    cut or is damaged there. ``fps`` is the mean rate, 0 if unknown, and ``count`` the number of
    frames that the file says it has, 0 for a live source.

    Raises ImageError for a source that cannot be opened.
    """

    def __init__(self, source: str, *, every: int = 1) -> None:
        expect_step(every)
        self.source, self.every = source, every
        self._capture = _opened(source)
        self.fps = _sane(self._capture.get(cv2.CAP_PROP_FPS))
        self.count = int(_sane(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        self.live = self.count == 0
        self.dropped = 0
        self.read = 0
        self._last_time = 0.0
        self._queue: queue.Queue[Frame | BaseException | None] = queue.Queue(_AHEAD)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._decode, name="decode", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._capture.release()

    def __iter__(self) -> Iterator[Frame]:
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    @property
    def shortfall(self) -> str | None:
        """What is missing at the end of a file, once its frames are read."""
        if self.live or self.read >= self.count * (1 - _SLACK) - 1:
            return None
        if self.fps and self._last_time >= self.count / self.fps * (1 - _SLACK) - 1 / self.fps:
            return None  # the number of frames was an estimate
        return f"ends after {self.read} of {self.count} frames: it was cut or is damaged there"

    def _decode(self) -> None:
        try:
            for frame in self._frames():
                self._put(frame)
                if self._stopped.is_set():
                    return
        except BaseException as error:  # raised where the frames are read
            self._put(error)
        self._put(None)

    def _frames(self) -> Iterator[Frame]:
        start = time.monotonic()
        while self._capture.grab():
            number, self.read = self.read, self.read + 1
            self._last_time = self._time(number, start)
            if number % self.every:
                continue
            done, pixels = self._capture.retrieve()
            if not done:
                return
            yield Frame(number, self._last_time, _swapped(pixels))

    def _time(self, number: int, start: float) -> float:
        if self.live:
            return time.monotonic() - start
        # Of the frame that was read last, also where the rate varies.
        seconds = self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        if number and seconds <= 0 and self.fps:
            return number / self.fps  # a container without time stamps
        return max(float(seconds), 0.0)

    def _put(self, item: Frame | BaseException | None) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=0.1)
            except queue.Full:
                if self.live and item is not None and _drop_oldest(self._queue):
                    self.dropped += 1
            else:
                return


def _drop_oldest(waiting: queue.Queue[Frame | BaseException | None]) -> bool:
    try:
        waiting.get_nowait()
    except queue.Empty:
        return False
    return True


def _opened(source: str) -> cv2.VideoCapture:
    level = _LOGGING.setLogLevel(_LOGGING.LOG_LEVEL_SILENT)  # the reasons below say it all
    try:
        return _open(source)
    finally:
        _LOGGING.setLogLevel(level)


def _open(source: str) -> cv2.VideoCapture:
    if source.isdecimal() and not Path(source).exists():
        capture = cv2.VideoCapture(int(source))
        reason = "no such webcam, or it is in use or not permitted"
    elif "://" in source:
        capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG)
        reason = "the stream cannot be opened: check address, network and password"
    else:
        path = Path(source)
        if not path.is_file():
            raise ImageError("no such file")
        # Absolute: a name such as concat:x is not to be taken for a protocol.
        capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        reason = "cannot be opened as a video: it is damaged, or its end with the index is missing"
    if not capture.isOpened():
        capture.release()
        raise ImageError(reason)
    return capture


def _swapped(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """RGB to BGR, and BGR to RGB."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _sane(number: float) -> float:
    """A property of a source; 0 for the nonsense of sources that do not know it."""
    return float(number) if 0 < number < 1e9 else 0.0


class VideoWriter:
    """An annotated video (``.mp4``, MPEG-4 part 2) at a constant rate of ``fps``.

    A frame is repeated until the time of the next one, so that the video runs as fast as its
    source even where the rate varies. Sides that are odd are padded by one pixel, which the codec
    needs. Raises OSError where the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.fps = path, fps
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)
        self._shown: NDArray[np.uint8] | None = None
        self._written = 0
        self._start: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()

    def write(self, pixels: NDArray[np.uint8], seconds: float) -> None:
        """Show (h, w, 3) uint8 RGB from ``seconds`` on."""
        height, width = pixels.shape[:2]
        even = cv2.copyMakeBorder(pixels, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        if self._writer is None:
            self._open(even.shape[1], even.shape[0], seconds)
        assert self._writer is not None and self._start is not None  # noqa: S101  opened above
        until = round((seconds - self._start) * self.fps)
        if self._shown is not None and until - self._written <= _LONGEST * self.fps:
            for _ in range(self._written, until):
                self._add(self._shown)
        if even.shape[1::-1] != self._size:  # a stream may change its size
            even = cv2.resize(even, self._size)
        self._shown = shown = _swapped(even)
        self._add(shown)

    def _open(self, width: int, height: int, seconds: float) -> None:
        code = cv2.VideoWriter.fourcc(*"mp4v")
        self._writer = cv2.VideoWriter(
            str(self.path), cv2.CAP_FFMPEG, code, self.fps, (width, height)
        )
        if not self._writer.isOpened():
            raise OSError(0, f"no video of {width}x{height} can be written", str(self.path))
        self._size, self._start = (width, height), seconds

    def _add(self, pixels: NDArray[np.uint8]) -> None:
        assert self._writer is not None  # noqa: S101  write() opens it
        self._writer.write(pixels)
        self._written += 1

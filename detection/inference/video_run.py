"""Prediction in videos: one JSON line per frame with its time, annotated videos, a summary."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePath
from typing import IO, Any
from urllib.parse import urlsplit

from ...datasets.image import LoadedImage
from ..errors import ConfigError, ImageError
from ..files import folder_lock
from .folder import FolderSummary, open_results
from .options import FolderOptions
from .outputs import DRAWN
from .predictor import Predictor
from .records import append_record, keep_records, scan
from .result_names import safe_name
from .video import Frame, Video, VideoWriter

#: The file with a line for each video, and the folder with a file of frames for each.
VIDEOS, FRAMES = "videos.jsonl", "frames"
#: The rate of the annotated video of a source that does not know its own.
_RATE = 25.0


@dataclass(frozen=True)
class VideoSource:
    """A source as given, and the name of its files."""

    text: str
    name: str


def run_videos(
    predictor: Predictor[Any],
    sources: Sequence[str],
    out: Path,
    options: FolderOptions,
    *,
    every: int = 1,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> FolderSummary:
    """Predict for every ``every``-th frame of the ``sources`` (files, numbers of webcams, URLs of
    streams) and write ``out``:

    - ``frames/NAME.jsonl``: a line ``{"frame", "time", "detections"}`` for each frame, or
      ``"classes"`` of a classifier; the number counts all frames from 0, the time is in seconds.
    - ``drawn/NAME.mp4`` with boxes, if ``options.draw``.
    - ``videos.jsonl``: a line ``{"file", "width", "height", "fps", "frames", "seconds", "warnings",
      "drawn"}`` for each finished video; with ``"error"`` for one that could not be read to its end
      (its frames up to there stay).

    Frames are written as they are found, ``options.batch_size`` of them share a batch, and memory
    does not grow with their number. With ``options.resume`` finished videos are skipped, and an
    unfinished one is done again from its first frame. Once ``stop`` returns True, the video under
    way ends there: a file is unfinished, a live source finished. ``report(done, total, 0)`` is
    called after each batch with the numbers of frames, ``total`` being at least ``done``.

    Raises ConfigError as `run_folder` does.
    """
    options.check(predictor)
    if options.sort_by_class or options.save_crops or options.coco_ids is not None:
        raise ConfigError("--sort-by-class, --save-crop and --coco-ids are for images, not videos")
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out}: is a file, not a folder")
        with folder_lock(out):
            open_results(predictor, out, options)
            return _run(_Run(predictor, out, options, every, stop, report), named_sources(sources))
    except OSError as error:
        raise ConfigError(
            f"{error.filename or out}: cannot write results: {error.strerror or error}; "
            f"finished videos in {out} stay valid and can be resumed"
        ) from error


@dataclass(frozen=True)
class _Run:
    predictor: Predictor[Any]
    out: Path
    options: FolderOptions
    every: int
    stop: Callable[[], bool]
    report: Callable[[int, int, int], None]


def named_sources(sources: Sequence[str]) -> list[VideoSource]:
    """The sources with the unique names of their files."""
    named: list[VideoSource] = []
    taken: set[str] = set()
    for text in dict.fromkeys(sources):
        name, number = _name(text), 1
        free = name
        while _drawn(free).lower() in taken:
            number += 1
            free = f"{number}-{name}"
        taken.add(_drawn(free).lower())
        named.append(VideoSource(text, free))
    return named


def _name(text: str) -> str:
    """A legal file name for a source; of a URL without user and password."""
    if text.isdecimal() and not Path(text).exists():
        return f"webcam{text}"
    if "://" in text:
        url = urlsplit(text)
        return safe_name(PurePath(url.path).name or url.hostname or "stream")
    return safe_name(Path(text).name)


def _drawn(name: str) -> str:
    return f"{DRAWN}/{name}" if name.lower().endswith(".mp4") else f"{DRAWN}/{name}.mp4"


def _run(run: _Run, sources: Sequence[VideoSource]) -> FolderSummary:
    path = run.out / VIDEOS
    entries = scan(path)
    keep_records(path, entries[-1].end if entries else 0)
    recorded = {entry.file for entry in entries}
    failures = [(entry.file, entry.error) for entry in entries if entry.error is not None]
    start, done, found, frames = time.perf_counter(), len(entries), 0, 0
    for source in sources:
        if source.name in recorded:
            continue
        if run.stop():
            break
        record, count, number = _predict_video(run, source)
        found, frames = found + count, frames + number
        if record is None:
            break
        append_record(path, record)
        done += 1
        if "error" in record:
            failures.append((source.name, record["error"]))
    seconds = time.perf_counter() - start
    total = len(recorded | {source.name for source in sources})
    return FolderSummary(
        run.out,
        total,
        done,
        done - len(entries),
        found,
        tuple(failures),
        seconds,
        done < total,
        frames=frames,
    )


def _predict_video(run: _Run, source: VideoSource) -> tuple[dict[str, Any] | None, int, int]:
    """The record of a video, None if it was interrupted, and the numbers of detections and frames
    in it."""
    frames = run.out / FRAMES / f"{source.name}.jsonl"
    frames.parent.mkdir(parents=True, exist_ok=True)
    found = 0
    try:
        video = Video(source.text, every=run.every)
    except ImageError as error:
        return {"file": source.name, "error": str(error)}, 0, 0
    size, last, written = (0, 0), 0.0, 0
    drawn = _drawn(source.name)
    with contextlib.ExitStack() as stack:
        stack.enter_context(video)
        lines = stack.enter_context(frames.open("w", encoding="utf-8"))
        rate = (video.fps or _RATE) / run.every
        writer = stack.enter_context(VideoWriter(run.out / drawn, rate))
        for frame, image, result in _detected(run, video):
            line = _line(run.predictor, frame, image, result)
            _write(lines, line)
            found += len(line.get("detections", line.get("classes", ())))
            if run.options.draw and "error" not in line:
                pixels = run.predictor.output.drawing(frame.pixels, result, run.predictor.classes)
                writer.write(pixels, frame.time)
            size, last, written = frame.pixels.shape[:2], frame.time, written + 1
            if written % run.options.batch_size == 0:
                run.report(written, max(written, video.count // run.every), 0)
    if run.stop() and not video.live:
        return None, found, written
    record = {
        "file": source.name,
        "width": size[1],
        "height": size[0],
        "fps": round(video.fps, 3),
        "frames": written,
        "seconds": round(last, 3),
        "warnings": _warnings(video),
    }
    if run.options.draw and written:
        record["drawn"] = drawn
    if not written:
        return {"file": source.name, "error": "has no frame that can be decoded"}, 0, 0
    return record | ({"error": video.shortfall} if video.shortfall else {}), found, written


def _warnings(video: Video) -> list[str]:
    dropped = f"{video.dropped} frames dropped: the source was faster than the network"
    return [dropped] if video.dropped else []


def _detected(run: _Run, video: Video) -> Iterator[tuple[Frame, LoadedImage, Any]]:
    """The frames with their results, batch after batch, until ``stop``."""
    predictor, options = run.predictor, run.options
    thresholds = options.thresholds(predictor.classes)
    frames = iter(video)
    while not run.stop() and (chunk := list(islice(frames, options.batch_size))):
        prepared = [predictor.prepare(frame.pixels) for frame in chunk]
        results = predictor.detect(prepared, score_threshold=options.least)
        for frame, one, result in zip(chunk, prepared, results, strict=True):
            yield frame, one.loaded, predictor.output.selected(result, thresholds)


def _line(
    predictor: Predictor[Any], frame: Frame, image: LoadedImage, result: Any
) -> dict[str, Any]:
    head = {"frame": frame.number, "time": round(frame.time, 6)}
    output = predictor.output
    if not output.is_finite(result):
        return {**head, "error": f"the network gave {output.numbers} that are NaN"}
    record = output.record("", image, result, predictor.classes)
    key = "detections" if "detections" in record else "classes"
    return {**head, key: record[key]}


def _write(lines: IO[str], line: dict[str, Any]) -> None:
    lines.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
    lines.flush()  # who follows the file sees whole lines

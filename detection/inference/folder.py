"""How do 100,000 images become results, through bad files, full disks and restarts?

Images are read and resized by threads ahead of the network, drawn and encoded by threads behind
it (OpenCV and Pillow release the interpreter lock for that), and recorded in input order by the
caller's thread. All queues are short, so that memory does not grow with the number of images.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import ConfigError, ImageError
from ..files import LOCK, folder_lock, part_of, write_file
from ..structures import Detections
from .draw import draw_detections
from .inputs import InputFile, drawn_name, find_inputs
from .predictor import Predictor, Prepared
from .records import META, RECORDS, Entry, RecordWriter, check_same_run, scan, write_meta
from .results import export_results

__all__ = ["DRAWN", "FolderOptions", "InputFile", "Summary", "find_inputs", "run_folder"]

DRAWN = "drawn"
#: The largest side that libjpeg writes.
JPEG_SIDE = 65_500

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class FolderOptions:
    """What `run_folder` keeps and writes.

    ``only_classes`` are names, empty for all. ``provenance`` says in ``meta.json`` what else the
    results depend on, such as the weights file; a resumed run must have the same.
    """

    score_threshold: float = 0.5
    only_classes: tuple[str, ...] = ()
    batch_size: int = 1
    draw: bool = True
    resume: bool = False
    workers: int = 2
    provenance: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a run did: ``new`` images in ``seconds``.

    ``done``, ``detections`` and ``failures`` (name, reason) include the records of earlier runs,
    ``total`` what is still to be done.
    """

    out: Path
    total: int
    done: int
    new: int
    detections: int
    failures: tuple[tuple[str, str], ...]
    seconds: float
    interrupted: bool


@dataclass(frozen=True)
class _Item:
    """An image on its way: prepared, or failed with a reason."""

    file: InputFile
    prepared: Prepared | None
    error: str = ""


def run_folder(
    predictor: Predictor,
    files: Sequence[InputFile],
    out: Path,
    options: FolderOptions,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> Summary:
    """Detect in ``files`` and write ``out``: ``meta.json``, ``detections.jsonl``, images with
    boxes under ``drawn/`` and, at the end, COCO JSON and CSV.

    A record is ``{"file", "width", "height", "orientation", "warnings", "detections": [{"label",
    "score", "box": [x1, y1, x2, y2]}]}`` in displayed pixels, or ``{"file", "error"}`` for an
    image that cannot be used; the run goes on. A record is written after its image is drawn.

    With ``options.resume`` recorded files are skipped and the result equals that of a run without
    interruption: batches are cut at the same places. ``stop`` is asked between batches; when it
    says yes, images under way are finished and recorded. ``report(done, total, failed)`` is
    called after each record.

    Raises ConfigError for wrong options, a folder that holds something else, that another run is
    writing to, or that cannot be written (records written before stay valid).
    """
    _check(options, predictor.classes)
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out}: is a file, not a folder")
        with folder_lock(out):
            return _run(predictor, files, out, options, stop, report)
    except OSError as error:  # what goes wrong in reading images is recorded, so this is output
        raise ConfigError(
            f"{error.filename or out}: cannot write results: {error.strerror or error}; "
            f"what is in {out} stays valid and can be resumed"
        ) from error


def _run(
    predictor: Predictor,
    files: Sequence[InputFile],
    out: Path,
    options: FolderOptions,
    stop: Callable[[], bool],
    report: Callable[[int, int, int], None],
) -> Summary:
    _open(out, _meta(predictor, options), resume=options.resume)
    with RecordWriter(out / RECORDS) as writer:
        entries = _resumable(scan(out / RECORDS), files, options.batch_size)
        writer.keep(entries[-1].end if entries else 0)
        recorded = {entry.file for entry in entries}
        waiting = [file for file in files if file.name not in recorded]
        total, done = len(entries) + len(waiting), len(entries)
        failures = [(entry.file, entry.error) for entry in entries if entry.error is not None]
        detections = sum(entry.detections for entry in entries)
        start = time.perf_counter()
        with contextlib.closing(_records(predictor, waiting, out, options, stop)) as records:
            for record in records:
                writer.write(record)
                done += 1
                detections += len(record.get("detections", ()))
                if "error" in record:
                    failures.append((record["file"], record["error"]))
                report(done, total, len(failures))
        seconds = time.perf_counter() - start
        writer.sync()
    if done == total:
        export_results(out)
    return Summary(
        out, total, done, done - len(entries), detections, tuple(failures), seconds, done < total
    )


def _check(options: FolderOptions, classes: Sequence[str]) -> None:
    if options.batch_size < 1 or options.workers < 1:
        raise ConfigError("batch size and workers must be at least 1")
    if not 0 <= options.score_threshold <= 1:
        raise ConfigError(f"score threshold {options.score_threshold} is not between 0 and 1")
    for name in options.only_classes:
        if name not in classes:
            near = get_close_matches(name, classes, n=1)
            hint = f"did you mean {near[0]}?" if near else f"classes are {', '.join(classes)}"
            raise ConfigError(f"class {name}: the model does not know it; {hint}")


def _meta(predictor: Predictor, options: FolderOptions) -> dict[str, Any]:
    return {
        "format": "resdet detections 1",
        "classes": list(predictor.classes),
        "score_threshold": options.score_threshold,
        "only_classes": list(options.only_classes),
        "drawn": options.draw,
        **options.provenance,
    }


def _open(out: Path, meta: Mapping[str, Any], *, resume: bool) -> None:
    """Make ``out`` the folder of this run, or make sure that it already is."""
    # A crash before the first record may have left the settings half written.
    if all(path.name in (part_of(out / META).name, LOCK) for path in out.iterdir()):
        write_meta(out, meta)
    elif resume:
        check_same_run(out, meta)
    else:
        raise ConfigError(f"{out}: is not empty; choose another folder or continue with --resume")


def _resumable(entries: list[Entry], files: Sequence[InputFile], batch_size: int) -> list[Entry]:
    """The records to keep: up to the end of a batch, so that batches are cut as before.

    A batch changes the last bits of its images' scores, by the order in which sums are made.
    """
    recorded = {entry.file for entry in entries}
    if all(file.name in recorded for file in files):
        return entries
    return entries[: len(entries) - len(entries) % batch_size]


def _records(
    predictor: Predictor,
    files: Sequence[InputFile],
    out: Path,
    options: FolderOptions,
    stop: Callable[[], bool],
) -> Generator[dict[str, Any], None, None]:
    def prepare(file: InputFile) -> _Item:
        return _prepare(predictor, file)

    def finish(result: tuple[_Item, Detections]) -> dict[str, Any]:
        return _finish(*result, predictor.classes, out if options.draw else None)

    ahead = options.batch_size + options.workers
    with (
        ThreadPoolExecutor(options.workers, "decode") as readers,
        ThreadPoolExecutor(options.workers, "draw") as writers,
    ):
        items = _in_order(readers, prepare, files, ahead, wait=True)
        detected = _detected(predictor, items, options, stop)
        yield from _in_order(writers, finish, detected, ahead, wait=False)


def _in_order(
    pool: ThreadPoolExecutor,
    task: Callable[[In], Out],
    items: Iterable[In],
    ahead: int,
    *,
    wait: bool,
) -> Iterator[Out]:
    """Results of ``task`` in the order of ``items``, at most ``ahead`` of them under way.

    With ``wait`` that many are kept under way, even if some are ready; else results come at once.
    """
    pending: deque[Future[Out]] = deque()
    for item in items:
        pending.append(pool.submit(task, item))
        while len(pending) > ahead or (not wait and pending and pending[0].done()):
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _prepare(predictor: Predictor, file: InputFile) -> _Item:
    try:
        return _Item(file, predictor.prepare(file.path))
    except ImageError as error:
        return _Item(file, None, str(error).removeprefix(f"{file.path}: "))


def _detected(
    predictor: Predictor,
    items: Iterator[_Item],
    options: FolderOptions,
    stop: Callable[[], bool],
) -> Iterator[tuple[_Item, Detections]]:
    wanted = torch.tensor(
        [not options.only_classes or name in options.only_classes for name in predictor.classes]
    )
    while not stop() and (chunk := list(islice(items, options.batch_size))):
        usable = [item.prepared for item in chunk if item.prepared is not None]
        try:
            results = iter(predictor.detect(usable, score_threshold=options.score_threshold))
        except torch.OutOfMemoryError as error:
            raise ConfigError(
                f"{chunk[0].file.path}: out of GPU memory with batch size {options.batch_size}; "
                f"resume with a smaller one"
            ) from error
        for item in chunk:
            found = Detections.empty() if item.prepared is None else next(results)
            yield item, found[wanted[found.labels]]


def _finish(
    item: _Item, found: Detections, classes: Sequence[str], out: Path | None
) -> dict[str, Any]:
    """The record of one image, after its drawing is in place."""
    if item.prepared is None:
        return {"file": item.file.name, "error": item.error}
    if not (found.boxes.isfinite().all() and found.scores.isfinite().all()):
        return {"file": item.file.name, "error": "the network gave boxes or scores that are NaN"}
    height, width = item.prepared.size
    record: dict[str, Any] = {
        "file": item.file.name,
        "width": width,
        "height": height,
        "orientation": item.prepared.loaded.orientation,
        "warnings": list(item.prepared.loaded.warnings),
        "detections": _listed(found, classes),
    }
    if out is not None and max(height, width) > JPEG_SIDE:
        record["warnings"].append(f"not drawn: a JPEG holds at most {JPEG_SIDE} pixels a side")
    elif out is not None:
        record["drawn"] = f"{DRAWN}/{drawn_name(item.file.name)}"
        _save(draw_detections(item.prepared.loaded.pixels, found, classes), out / record["drawn"])
    return record


def _listed(found: Detections, classes: Sequence[str]) -> list[dict[str, Any]]:
    columns = zip(found.labels.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True)
    return [
        {
            "label": classes[label],
            "score": round(score, 6),
            "box": [round(side, 3) for side in box],
        }
        for label, score, box in columns
    ]


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    """Write a JPEG at once or not at all."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(0, "the image cannot be encoded as JPEG", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, data.tobytes())

"""Prediction in folders of images: resumable, with records, drawings, COCO JSON and CSV.

Threads read and resize images ahead of the network, other threads draw and encode behind it (OpenCV
and Pillow release the interpreter lock), and the caller's thread writes records in input order.
All queues are short, so that memory does not grow with the number of images, and those under way
share a budget of bytes, so that large ones wait for each other.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import torch

from ...datasets.memory import BUDGET, MemoryBudget
from ...datasets.timed_reading import TimedReader
from ..errors import ConfigError, ImageError
from ..files import LOCK, folder_lock, part_of, sync_to_disk
from .inputs import InputFile
from .options import FolderOptions
from .ordered import in_order
from .pipeline import Prepared
from .predictor import Predictor
from .records import (
    INPUTS,
    META,
    ResultEntry,
    append_record,
    check_same_run,
    expect_unchanged,
    found_in,
    keep_records,
    recorded_inputs,
    scan,
    stamp,
    write_meta,
)

#: Records from one flush to disk to the next: what a power cut loses at most.
SYNCED = 100


@dataclass(frozen=True)
class Item:
    """An image that is prepared, or the reason why it cannot be used, and its share of memory."""

    file: InputFile
    prepared: Prepared | str
    share: int
    #: Of its file when it was read.
    stamp: dict[str, int | float]


@dataclass(frozen=True)
class FolderSummary:
    """The counts of a run, which processed ``new`` images in ``seconds``; of videos ``frames``.

    ``done``, ``found`` (detections or labels), ``failures`` (name, reason), ``warned`` and
    ``empty`` (images without a result) include the records of earlier runs, ``total`` the images
    that are not processed yet.
    """

    out: Path
    total: int
    done: int
    new: int
    found: int
    failures: tuple[tuple[str, str], ...]
    seconds: float
    interrupted: bool
    warned: int = 0
    frames: int = 0
    empty: int = 0

    @property
    def usable(self) -> int:
        """The inputs with a result."""
        return self.done - len(self.failures)


def run_folder(
    predictor: Predictor,
    files: Sequence[InputFile],
    out: Path,
    options: FolderOptions,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[int, int, int], None] = lambda done, total, failed: None,
) -> FolderSummary:
    """Predict for ``files`` and write ``out``: ``meta.json``, ``detections.jsonl``, images with
    boxes under ``drawn/`` and, at the end, COCO JSON and CSV. A classifier writes
    ``classes.jsonl``, images with their best class, a CSV and, if asked, images under ``sorted/``.

    A record is ``{"file", "bytes", "modified", "width", "height", "orientation", "warnings",
    "detections": [{"label", "score", "box": [x1, y1, x2, y2]}]}`` in displayed pixels, for
    classifiers with ``"classes": [{"label", "score"}]``, or ``{"file", "bytes", "modified",
    "error"}`` for an image that cannot be used; the run goes on. A record is written
    after its image is drawn.

    With ``options.resume`` recorded files are skipped and the result equals that of a run without
    interruption: batches are the same. ``stop`` is called between batches; once it returns True,
    images under way are finished and recorded. ``report(done, total, failed)`` is called after each
    record.

    Raises ConfigError for wrong options, for images that were replaced since their records, and for
    a folder that holds something else, that another run is writing to, or that cannot be written
    (earlier records stay valid).
    """
    options.check(predictor)
    if options.coco_ids is not None:
        wanted = options.only_classes or predictor.classes
        options.coco_ids.expect([file.name for file in files], wanted)
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out}: is a file, not a folder")
        with folder_lock(out):
            return _run(predictor, files, out, options, stop, report)
    except OSError as error:  # errors in reading images are recorded, so this is output
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
) -> FolderSummary:
    open_results(predictor, out, options)
    path = out / predictor.output.records
    entries = _resumable(scan(path), files, options.batch_size)
    expect_unchanged(entries, {file.name: file.path for file in files}, out)
    keep_records(path, entries[-1].end if entries else 0)
    recorded = {entry.file for entry in entries}
    waiting = [file for file in files if file.name not in recorded]
    total, done = len(entries) + len(waiting), len(entries)
    failures = [(entry.file, entry.error) for entry in entries if entry.error is not None]
    found = sum(entry.found for entry in entries)
    warned = sum(entry.warned for entry in entries)
    empty = sum(entry.error is None and not entry.found for entry in entries)
    start = time.perf_counter()
    with contextlib.closing(image_records(predictor, waiting, out, options, stop)) as records:
        for record in records:
            append_record(path, record)
            done += 1
            if (done - len(entries)) % SYNCED == 0:
                sync_to_disk(path)
            found += found_in(record)
            warned += bool(record.get("warnings"))
            if "error" in record:
                failures.append((record["file"], record["error"]))
            elif not found_in(record):
                empty += 1
            report(done, total, len(failures))
    seconds = time.perf_counter() - start
    sync_to_disk(path)
    if done == total:
        predictor.output.export(out, options.coco_ids)
    new, interrupted = done - len(entries), done < total
    return FolderSummary(
        out, total, done, new, found, tuple(failures), seconds, interrupted, warned, empty=empty
    )


def open_results(predictor: Predictor, out: Path, options: FolderOptions) -> None:
    """Write the settings of a run to an empty ``out``, or check those of the run to resume. Raises
    ConfigError where they differ and for a folder that holds something else."""
    meta = settings_of(predictor, options)
    inputs = {INPUTS: list(options.inputs)} if options.inputs else {}
    # A crash may have left the temporary file of the settings.
    if all(path.name in (part_of(out / META).name, LOCK) for path in out.iterdir()):
        write_meta(out, {**meta, **inputs})
    elif options.resume:
        check_same_run(out, meta)
        if inputs and recorded_inputs(out) != list(options.inputs):
            write_meta(out, {**meta, **inputs})
    else:
        raise ConfigError(f"{out}: is not empty; choose another folder or continue with --resume")


def settings_of(predictor: Predictor[Any], options: FolderOptions) -> dict[str, Any]:
    """What the results depend on: the content of ``meta.json``."""
    return {
        "format": predictor.output.format,
        "classes": list(predictor.classes),
        "score_threshold": options.score_threshold,
        **({"class_thresholds": per_class} if (per_class := options.class_thresholds) else {}),
        "only_classes": list(options.only_classes),
        "drawn": options.draw,
        **({"sorted": True} if options.sort_by_class else {}),
        **({"crops": True} if options.save_crops else {}),
        **options.provenance,
    }


def _resumable(
    entries: list[ResultEntry], files: Sequence[InputFile], batch_size: int
) -> list[ResultEntry]:
    """The records to keep: complete batches only, so that the resumed run has the same batches.

    The size of a batch changes the last bits of its scores.
    """
    recorded = {entry.file for entry in entries}
    if all(file.name in recorded for file in files):
        return entries
    return entries[: len(entries) - len(entries) % batch_size]


def image_records(
    predictor: Predictor[Any],
    files: Sequence[InputFile],
    out: Path,
    options: FolderOptions,
    stop: Callable[[], bool],
) -> Generator[dict[str, Any], None, None]:
    """The records of ``files``, in order (see `run_folder`), after what ``options`` asks for is
    written into ``out``: drawings, crops. Ends early once ``stop`` returns True."""
    memory = MemoryBudget(BUDGET)
    reader = TimedReader(options.seconds) if options.seconds else None

    def prepare(numbered: tuple[int, InputFile]) -> Item:
        number, file = numbered
        image, share = _fetched(file)
        found = stamp(image) if isinstance(image, Path) else {}
        # In input order: a batch waits for none of its own images.
        memory.take(share, turn=number, beside=options.batch_size - 1)
        try:
            if isinstance(image, ImageError):
                raise image
            if reader and isinstance(image, Path):
                loaded = reader.read(image, predictor.rules)
                return Item(file, predictor.prepare(image, loaded=loaded), share, found)
            return Item(file, predictor.prepare(image), share, found)
        except ImageError as error:
            return Item(file, str(error).removeprefix(f"{file.place}: "), share, found)

    def finish(result: tuple[Item, Any]) -> dict[str, Any]:
        item, found = result
        try:
            if isinstance(item.prepared, str):
                return {"file": item.file.name, **item.stamp, "error": item.prepared}
            loaded, classes = item.prepared.loaded, predictor.classes
            record = predictor.output.write(out, item.file, loaded, found, classes, options)
            return {"file": item.file.name, **item.stamp, **record}
        finally:
            memory.give_back(item.share)

    ahead = options.batch_size + options.workers
    with (
        reader or contextlib.nullcontext(),
        ThreadPoolExecutor(options.workers, "decode") as readers,
        ThreadPoolExecutor(options.workers, "draw") as writers,
        contextlib.closing(memory),
    ):
        items = in_order(readers, prepare, list(enumerate(files)), ahead, wait=True)
        detected = _detected(predictor, items, options, stop)
        yield from in_order(writers, finish, detected, ahead, wait=False)


def _fetched(file: InputFile) -> tuple[Path | IO[bytes] | ImageError, int]:
    try:
        return file.fetch()
    except ImageError as error:
        return error, 0


def _detected(
    predictor: Predictor,
    items: Iterator[Item],
    options: FolderOptions,
    stop: Callable[[], bool],
) -> Iterator[tuple[Item, Any]]:
    thresholds = options.thresholds(predictor.classes)
    while not stop() and (chunk := list(islice(items, options.batch_size))):
        usable = [item.prepared for item in chunk if not isinstance(item.prepared, str)]
        try:
            results = iter(predictor.detect(usable, score_threshold=options.least))
        except torch.OutOfMemoryError as error:
            half, place = options.batch_size // 2, f"{predictor.device} at {chunk[0].file.place}"
            less = f"--batch-size {half}, or with " if half else ""
            raise ConfigError(
                f"out of memory on {place}; continue with --resume {less}--device cpu"
            ) from error
        del usable
        while chunk:  # none is kept while the next ones are read
            failed = isinstance(chunk[0].prepared, str)
            found = None if failed else predictor.output.selected(next(results), thresholds)
            yield chunk.pop(0), found

"""Shards whose process died: run in child processes, which find the images that kill them.

A child runs the shard as usual. Where it dies, the images that it had under way are tried one by
one in another; the one that kills this too is recorded as failed, and the shard goes on without it,
in the batches that it would have had anyway.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..inference.folder import image_records
from ..inference.records import keep_records, read_records, record_line, scan
from .job import ShardJob, shard_records

#: Seconds in which a child must finish an image.
PATIENCE = 300.0


def careful_records(
    job: ShardJob, number: int, path: Path, stop: Callable[[], bool]
) -> Generator[dict[str, Any], None, None]:
    """The records of a shard, collected in ``path``; none if ``stop`` returned True.

    Raises ConfigError where a child dies while it loads the model, or later, but of no image alone,
    and what a child raises.
    """
    size, refused = job.options.batch_size, dict[int, str]()
    path.touch()
    while True:
        done = len(scan(path)) // size * size
        _keep(path, done)
        death = _run(_write_records, (job, number, refused, done, path), stop)
        if stop():
            return
        if death is None:
            yield from read_records(path)
            return
        done = len(scan(path))
        under_way = 2 * (size + job.options.workers) + size
        suspects = [
            index
            for index in range(done - done % size, min(done + under_way, len(job.files(number))))
            if index not in refused
        ]
        tried: list[int] = []
        death = _run(_try_images, (job, number, suspects), stop, tried.append)
        if stop():
            return
        if death is None:
            raise ConfigError(
                f"shard {number}: its process died, but no image kills it alone; less memory is "
                "taken with a smaller --batch-size and fewer --workers"
            )
        if not tried:
            raise ConfigError(
                f"shard {number}: its process died while loading the model ({death}); where memory "
                "ran out, run fewer processes at a time"
            )
        refused[tried[-1]] = f"ends the process that reads it ({death})"


def _run(
    target: Callable[..., None],
    arguments: tuple[Any, ...],
    stop: Callable[[], bool],
    told: Callable[[int], None] = lambda index: None,
) -> str | None:
    """Run ``target`` in a child, which tells its progress; how it died, None if it came to its end
    or ``stop`` returned True."""
    context = _context()
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, target, arguments), daemon=True)
    child.start()
    theirs.close()
    waited = 0.0
    try:
        while not stop():
            if not ours.poll(1.0):
                waited += 1.0
                if waited > PATIENCE:
                    return f"it takes more than {PATIENCE:.0f} s"
                continue
            waited = 0.0
            try:
                message = ours.recv()
            except EOFError:
                child.join()
                code = child.exitcode
                return f"signal {-code}" if code < 0 else f"exit code {code}"
            if message is None:  # its last
                return None
            if isinstance(message, Exception):
                raise message
            told(message)
        return None
    finally:
        child.kill()
        child.join()


def _context() -> Any:
    """Children of a server that has imported everything and started nothing, where there is one."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def _child(pipe: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        target(*arguments, pipe.send)
        pipe.send(None)
    except Exception as error:  # the parent's to raise
        pipe.send(error if _can_be_sent(error) else ConfigError(f"{type(error).__name__}: {error}"))


def _can_be_sent(error: Exception) -> bool:
    return type(error).__module__.startswith("resdet.")


def _write_records(
    job: ShardJob,
    number: int,
    refused: dict[int, str],
    first: int,
    path: Path,
    tell: Callable[[int], None],
) -> None:
    predictor = job.model.load()
    with path.open("ab", buffering=0) as file:
        records = shard_records(predictor, job, number, refused, lambda: False, first)
        for index, record in enumerate(records, first):
            file.write(record_line(record))
            tell(index)


def _try_images(
    job: ShardJob, number: int, suspects: list[int], tell: Callable[[int], None]
) -> None:
    predictor, files = job.model.load(), job.files(number)
    for index in suspects:
        tell(index)
        list(image_records(predictor, [files[index]], Path(job.out), job.options, lambda: False))


def _keep(path: Path, count: int) -> None:
    entries = scan(path)[:count]
    keep_records(path, entries[-1].end if entries else 0)

"""A run of a model over a manifest: which shards are left, an engine, and the last step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ...datasets.manifests.manifest import Manifest, read_manifest
from ...datasets.manifests.storage import Store
from ..errors import ConfigError
from ..inference.folder import settings_of
from ..inference.predictor import Predictor
from .job import ShardJob
from .results import ShardResults
from .shard import ShardRunner
from .watch import Watch

Engine = Literal["local", "ray"]
#: Failures that a summary has by name.
_NAMED = 20


@dataclass(frozen=True)
class ManifestSummary:
    """The counts of a run over some ``shards`` of a manifest, of which ``done`` have a part.

    ``new`` images were processed in ``seconds``; ``images``, ``found``, ``warned`` and ``failed``
    include earlier runs, ``failures`` (name, reason) are the first of them. ``totals`` are those of
    the whole manifest, once all of its shards are done.
    """

    out: str
    shards: int
    done: int
    images: int
    new: int
    found: int
    warned: int
    failed: int
    failures: tuple[tuple[str, str], ...]
    seconds: float
    interrupted: bool
    totals: dict[str, Any] | None = None


@dataclass(frozen=True)
class Hooks:
    """How a run is stopped and observed: ``stop()`` is asked between batches, ``report(done, total,
    failed)`` hears of images, ``say`` why nothing finishes."""

    stop: Callable[[], bool] = lambda: False
    report: Callable[[int, int, int], None] = lambda done, total, failed: None
    say: Callable[[str], None] = lambda line: None


def run_manifest(
    job: ShardJob,
    predictor: Predictor[Any],
    *,
    shard: tuple[int, int] = (1, 1),
    engine: Engine = "local",
    actors: int | None = None,
    hooks: Hooks | None = None,
) -> ManifestSummary:
    """Run the model over every ``shard[1]``-th shard of a manifest, from number ``shard[0]`` (from
    1) on, and write a part for each; parts that exist are kept.

    The engine ``local`` uses this process, ``ray`` the actors of a Ray cluster, by default as many
    as its CPUs or GPUs allow. Raises ConfigError for other settings than those of the results in
    ``out`` and where they cannot be written; DataError for a damaged manifest.
    """
    hooks = hooks or Hooks()
    if actors is not None and engine != "ray":
        raise ConfigError("--actors: processes of --engine ray; --engine local is one")
    job.options.check(predictor)
    manifest = read_manifest(job.manifest)
    results = ShardResults(Store(job.out), job.parts)
    results.begin(settings_of(predictor, job.options))
    numbers = range(shard[0] - 1, manifest.shards, shard[1])
    done = results.done()
    waiting = [number for number in numbers if number not in done]
    earlier = sum(_size(manifest, number) for number in numbers if number in done)
    total = earlier + sum(_size(manifest, number) for number in waiting)
    watch = Watch(lambda images, failed: hooks.report(earlier + images, total, failed))
    start = time.perf_counter()
    if engine == "ray" and waiting:
        from .ray import run_on_ray

        run_on_ray(job, waiting, watch, hooks.stop, hooks.say, actors)
    elif waiting:
        with watch.tell(hooks.say):
            _run_here(ShardRunner(job, predictor), waiting, hooks.stop, watch)
    seconds = time.perf_counter() - start
    return _summary(results, manifest, numbers, watch.images, seconds)


def _run_here(
    runner: ShardRunner, waiting: Sequence[int], stop: Callable[[], bool], watch: Watch
) -> None:
    for number in _in_turn(runner.results, waiting):
        if stop():
            return
        runner.run(number, stop, watch)


def _in_turn(results: ShardResults, waiting: Sequence[int]) -> Iterator[int]:
    """The shards that are not done when their turn comes; those that another process may be at, or
    died at, come last."""
    later = []
    for number in waiting:
        if number in results.attempted():
            later.append(number)
        elif not results.is_done(number):
            yield number
    for number in later:
        if not results.is_done(number):
            yield number


def _summary(
    results: ShardResults, manifest: Manifest, numbers: range, new: int, seconds: float
) -> ManifestSummary:
    every = results.done()
    done = [number for number in numbers if number in every]
    images = found = warned = failed = 0
    failures: list[tuple[str, str]] = []
    for summary in results.summaries(done):
        images += summary.images
        found += summary.found
        warned += summary.warned
        failed += len(summary.failures)
        failures += summary.failures[: _NAMED - len(failures)]
    complete = len(every) == manifest.shards
    return ManifestSummary(
        out=results.store.root,
        shards=len(numbers),
        done=len(done),
        images=images,
        new=new,
        found=found,
        warned=warned,
        failed=failed,
        failures=tuple(failures),
        seconds=seconds,
        interrupted=len(done) < len(numbers),
        totals=results.finish(manifest.shards) if complete else None,
    )


def _size(manifest: Manifest, number: int) -> int:
    last = manifest.images - manifest.per_shard * (manifest.shards - 1)
    return last if number == manifest.shards - 1 else manifest.per_shard

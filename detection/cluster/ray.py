"""Runs over manifests, and over Ray data sets, on the actors of a Ray cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ConfigError, ResdetError, one_line
from ..extras import require_extra
from ..inference.folder import image_records
from ..inference.inputs import InputFile
from ..inference.options import FolderOptions
from ..inference.outputs import ClassOutput
from .job import ContentFile, ModelArguments, ShardJob, address_file
from .parquet import to_table
from .results import ShardSummary
from .shard import ShardRunner
from .watch import SILENCE, Watch

__all__ = ["Detect"]  # of `resdet.ray`

#: Seconds between two looks at the actors, those in which they must stop, and the most attempts at
#: one shard.
_LOOK, _PATIENCE, _ATTEMPTS = 2.0, 20.0, 20


class ShardActor:
    """Holds a model, loaded for its first shard, and runs shards one at a time; `progress` may be
    called meanwhile."""

    def __init__(self, job: ShardJob) -> None:
        self._job = job
        self._watch = Watch()
        self._runner: ShardRunner | None = None
        self._doing = "waiting for a shard"
        self._stopped = False

    def run(self, number: int, died: int) -> ShardSummary | None:
        if self._runner is None:
            self._doing = "loading the model"
            self._runner = ShardRunner(self._job, self._job.model.load())
        self._doing = ""
        if self._runner.results.is_done(number):  # by another driver
            return self._runner.results.summary(number)
        return self._runner.run(number, lambda: self._stopped, self._watch, died)

    def stop(self) -> None:
        """End the shard after its batch, without a part."""
        self._stopped = True

    def progress(self) -> tuple[int, int, str]:
        """Images, how many of them failed, and what it is doing."""
        return self._watch.images, self._watch.failed, self._doing or self._watch.reason()


@dataclass
class _Crew:
    """The actors of a run: ``running`` are their shards by the reference to the result."""

    made: Any
    job: ShardJob
    count: int
    idle: deque[Any] = field(default_factory=deque)
    running: dict[Any, tuple[Any, int]] = field(default_factory=dict)
    seen: dict[Any, tuple[int, int, str]] = field(default_factory=dict)

    def take(self) -> Any:
        """An actor without work; a new one takes the place of one that died."""
        if self.idle:
            return self.idle.popleft()
        return self.made.remote(self.job) if len(self.running) < self.count else None

    def dismiss(self) -> None:
        """Stop those at work, which removes their marks, and end all."""
        import ray

        asked = {actor.stop.remote(): run for run, (actor, _) in self.running.items()}
        if asked:
            ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK)
            if ending := [asked[reference] for reference in ready]:
                ray.wait(ending, num_returns=len(ending), timeout=_PATIENCE)
        for actor in (*self.idle, *(actor for actor, _ in self.running.values())):
            ray.kill(actor)

    def look(self) -> str:
        """Ask all actors for their progress; what those at work are doing."""
        import ray

        asked = {actor.progress.remote(): actor for actor, _ in self.running.values()}
        ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=_LOOK)
        lines = [f"{len(late)} actors do not answer, or have not started"] * bool(late)
        for reference in ready:
            try:
                self.seen[asked[reference]] = ray.get(reference)
            except ray.exceptions.RayError as error:
                lines.append(f"an actor died ({type(error).__name__})")
        doing = {self.seen[actor][2] for actor, _ in self.running.values() if actor in self.seen}
        return "; ".join([*lines, *sorted(doing)])


def run_on_ray(
    job: ShardJob,
    waiting: Sequence[int],
    watch: Watch,
    stop: Callable[[], bool],
    say: Callable[[str], None],
    actors: int | None = None,
) -> None:
    """Run the shards ``waiting`` on ``actors`` actors (None: one for each CPU, or GPU, of the
    cluster). A shard whose actor dies is run again. ``say`` hears why nothing finishes.

    Raises ConfigError where the cluster has no room for an actor, and what a shard raises.
    """
    import ray

    with _cluster(job) as (resources, local):
        crew = _crew(job, min(actors or _room(resources, job), len(waiting)), resources)
        say(f"{crew.count} actors on a {'local' if local else 'running'} Ray cluster")
        left, attempts = deque(waiting), dict.fromkeys(waiting, 0)
        told = changed = time.monotonic()
        before: object = None
        while (left or crew.running) and not stop():
            while left and (actor := crew.take()) is not None:
                number = left.popleft()
                crew.running[actor.run.remote(number, attempts[number])] = actor, number
                attempts[number] += 1
            ready, _ = ray.wait(list(crew.running), timeout=_LOOK)
            for reference in ready:
                actor, number = crew.running.pop(reference)
                summary = _result(reference, number, attempts[number], say)
                if summary is None:
                    ray.kill(actor)  # it may only be out of reach
                    left.append(number)
                else:
                    crew.idle.append(actor)
                    watch.add(summary.images, len(summary.failures))
            if ready:  # idle actors first; what the others are doing is needed in silence only
                continue
            doing = crew.look() if crew.running else ""
            now, state = time.monotonic(), (watch.images, {a: s[0] for a, s in crew.seen.items()})
            if state != before:
                before, told, changed = state, now, now
            elif now - told >= SILENCE:
                told = now
                free = ray.available_resources().get("CPU", 0.0)
                say(f"no image finished for {now - changed:.0f} s: {doing}; {free:g} CPUs are free")
        crew.dismiss()


def _result(
    reference: Any, number: int, attempts: int, say: Callable[[str], None]
) -> ShardSummary | None:
    """The summary of a shard; None where its actor died, or ended early, so that it has to be run
    again."""
    import ray

    try:
        summary: ShardSummary | None = ray.get(reference)
        if summary is not None:
            return summary
        reason = "it ended before its last image"
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        if isinstance(cause, ResdetError):
            raise cause from error
        raise
    except ray.exceptions.RayError as error:
        reason = f"its process died ({type(error).__name__}: {one_line(error):.300})"
    if attempts >= _ATTEMPTS:
        raise ConfigError(f"shard {number}: failed {attempts} times; at last {reason}")
    say(f"shard {number}: {reason}; it is run again")
    return None


@contextmanager
def _cluster(job: ShardJob) -> Iterator[tuple[dict[str, float], bool]]:
    """Connect to the cluster of ``RAY_ADDRESS``, else start one on this machine: its resources, and
    whether it is this machine's."""
    require_extra("ray")
    import ray

    address = os.environ.get("RAY_ADDRESS")
    mine = not ray.is_initialized()
    if mine:
        # Else actors, but not the engine local, give way to all other programs of the machine.
        os.environ.setdefault("RAY_worker_niceness", "0")
        # The dashboard would run the code of whoever reaches its port.
        options = {"address": address} if address else {"include_dashboard": False}
        with _own_handlers():
            ray.init(log_to_driver=False, logging_level="ERROR", **options)
    try:
        yield ray.cluster_resources(), address is None
    finally:
        if mine:
            ray.shutdown()


@contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep the handlers of signals that Ray replaces by one that aborts."""
    if threading.current_thread() is not threading.main_thread():  # has no handlers
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _room(resources: dict[str, float], job: ShardJob) -> int:
    gpus = resources.get("GPU", 0)
    return max(1, int(gpus if gpus and job.model.device != "cpu" else resources.get("CPU", 1)))


def _crew(job: ShardJob, count: int, resources: dict[str, float]) -> _Crew:
    import ray

    cpus = max(1, int(resources.get("CPU", 1)) // count)
    on_gpu = bool(resources.get("GPU")) and job.model.device != "cpu"
    # Two calls at a time: a shard and its progress. Nothing is restarted by Ray: calls to an actor
    # that is about to be fail at once.
    made = ray.remote(ShardActor).options(
        num_cpus=cpus, num_gpus=int(on_gpu), max_restarts=0, max_task_retries=0, max_concurrency=2
    )
    return _Crew(made, job, count)


class Detect:
    """A model for the batches of a Ray data set, which have a column ``path`` (files or addresses)
    or ``bytes`` (encoded images, then ``path`` is their name, if it is there)::

        found = data.map_batches(
            resdet.ray.Detect,
            fn_constructor_args=("best.pt",),
            batch_format="pyarrow",
            concurrency=2,
        )

    Returns the columns of `resdet infer`'s records: file, width, height, orientation, warnings,
    detections (or classes) and error, one row an image, in order. Options are those of
    `FolderOptions`. Raises as `load`; an image that cannot be used is a row with an error.
    """

    def __init__(self, weights: str | Path, device: str | None = None, **options: Any) -> None:
        self.predictor = ModelArguments((Path(weights),), device).load()
        threshold = options.pop("score_threshold", self.predictor.output.threshold)
        self.options = FolderOptions(score_threshold=threshold, draw=False, **options)
        self.options.check(self.predictor)

    def __call__(self, batch: Any) -> Any:
        """A pyarrow table of records from one of images."""
        files = list(_files(batch))
        records = image_records(self.predictor, files, Path(), self.options, lambda: False)
        return to_table(list(records), isinstance(self.predictor.output, ClassOutput))


def _files(batch: Any) -> Iterator[InputFile]:
    columns = set(batch.column_names)
    if not columns & {"path", "bytes"}:
        raise ConfigError(f"a batch needs a column path or bytes, it has {', '.join(columns)}")
    names = batch.column("path").to_pylist() if "path" in columns else [""] * batch.num_rows
    if "bytes" not in columns:
        return map(address_file, names)
    contents = batch.column("bytes").to_pylist()
    return (
        ContentFile(Path(name), name, content=content)
        for name, content in zip(names, contents, strict=True)
    )

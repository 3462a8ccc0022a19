"""One shard of a manifest: the pipeline of folders over its images, and its part of the results."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ...datasets.manifests.storage import Store
from ..inference.outputs import ClassOutput
from ..inference.predictor import Predictor
from ..inference.records import found_in, record_line
from .careful import careful_records
from .job import ShardJob, shard_records
from .parquet import write_records
from .results import ShardResults, ShardSummary
from .watch import Watch

#: Processes that died at a shard before its images are tried one by one.
PATIENCE = 2


@dataclass(frozen=True)
class ShardRunner:
    """Runs shards of a job with a loaded model, in this process, or, where it died before, in
    child processes that find the image that kills it."""

    job: ShardJob
    predictor: Predictor[Any]

    @property
    def results(self) -> ShardResults:
        return ShardResults(Store(self.job.out), self.job.parts)

    def run(
        self,
        number: int,
        stop: Callable[[], bool] = lambda: False,
        watch: Watch | None = None,
        died: int = 0,
    ) -> ShardSummary | None:
        """Write the part of one shard, at which so many processes ``died``, as far as the caller
        knows; None if ``stop`` returned True before its end.

        Raises ConfigError where results cannot be written, DataError for a damaged manifest.
        """
        watch = watch or Watch()
        start = time.perf_counter()
        with self.results.attempt(number) as dead, self.results.scratch() as folder:
            path = folder / f".part-{number:05}.records"
            if max(dead, died) < PATIENCE:
                records = shard_records(self.predictor, self.job, number, {}, stop)
            else:
                records = careful_records(self.job, number, path.with_suffix(".careful"), stop)
            images = found = warned = 0
            failures = []
            with closing(records), path.open("wb") as file:
                for record in records:
                    file.write(record_line(record))
                    images += 1
                    found += found_in(record)
                    warned += bool(record.get("warnings"))
                    if "error" in record:
                        failures.append((record["file"], record["error"]))
                    watch.finished(failed="error" in record)
            if images < len(self.job.files(number)):
                return None
            seconds = time.perf_counter() - start
            summary = ShardSummary(number, images, found, warned, tuple(failures), seconds)
            if self.job.parts == "parquet":
                write_records(path, isinstance(self.predictor.output, ClassOutput))
            self.results.publish(path, summary)
            return summary

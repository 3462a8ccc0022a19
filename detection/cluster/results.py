"""The results of a run over a manifest: a file for each shard, what is done, and the totals.

``part-00042.jsonl`` has the records of a shard; ``summaries/00042.json``, written before it, its
counts and failures; ``attempts/00042.…`` marks each attempt that has not ended. A shard whose part
exists is done: nothing else is needed to resume, or for several processes to share the work.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ...datasets.manifests.storage import Store, is_remote, reason_of
from ..errors import ConfigError, DataError
from ..inference.records import META, expect_same, record_line
from .marks import has_ended, own_folder, own_name, remove_left, repeated

SUMMARY, FAILURES = "summary.json", "failures.jsonl"
SUMMARIES, ATTEMPTS = "summaries", "attempts"
#: The beginning of folders where parts grow.
SCRATCH = ".run-"
#: Seconds between the writings of a mark, and the age at which its process counts as dead.
REFRESH, STALE = 60.0, 300.0
#: Summaries that are read at once.
_READERS = 16


@dataclass(frozen=True)
class ShardSummary:
    """The counts of one shard; ``failures`` are (name, reason)."""

    shard: int
    images: int
    found: int
    warned: int
    failures: tuple[tuple[str, str], ...]
    seconds: float


@dataclass(frozen=True)
class ShardResults:
    """The results in ``store``, with parts of one kind: ``jsonl`` or ``parquet``."""

    store: Store
    parts: str = "jsonl"

    def part(self, number: int) -> str:
        return f"part-{number:05}.{self.parts}"

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Write ``meta.json``, or compare it with that of the run to continue.

        Raises ConfigError for other settings and for a folder that holds something else.
        """
        with _storage_errors(self.store):
            others: list[str] = []
            for _ in range(2):  # another process may begin in between
                if self.store.exists(META):
                    before = json.loads(self.store.read(META))
                    return expect_same(self.store.root, before, settings)
                others = [name for name in self.store.names() if not name.startswith(".")]
                if not others:
                    text = json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
                    return self.store.write(META, text.encode())
            raise ConfigError(
                f"{self.store.root}: holds {others[0]} and no {META}; choose another folder"
            )

    def done(self) -> set[int]:
        """The numbers of the shards that are done."""
        part = re.compile(rf"part-(\d{{5,}})\.{self.parts}")
        with _storage_errors(self.store):
            return {int(match[1]) for match in map(part.fullmatch, self.store.names()) if match}

    def is_done(self, number: int) -> bool:
        with _storage_errors(self.store):
            return self.store.exists(self.part(number))

    def attempted(self) -> dict[int, list[str]]:
        """The marks of attempts that have not ended, by shard."""
        marks: dict[int, list[str]] = {}
        with _storage_errors(self.store):
            for name in self.store.names(ATTEMPTS):
                if match := re.fullmatch(r"(\d+)\..+", name):
                    marks.setdefault(int(match[1]), []).append(f"{ATTEMPTS}/{name}")
        return marks

    @contextmanager
    def attempt(self, number: int) -> Iterator[int]:
        """Mark an attempt, and yield how many there were before whose process died: it has ended,
        or has not refreshed its mark for `STALE` seconds.

        The mark goes unless the process dies, and with a part go those of the dead.
        """
        with own_name(f"{ATTEMPTS}/{number:05}.") as mark:
            with _storage_errors(self.store):
                self.store.write(mark, b"")
                others = [each for each in self.attempted().get(number, []) if each != mark]
                dead = [each for each in others if has_ended(each) or self._is_stale(each, mark)]
            try:
                with repeated(lambda: self.store.write(mark, b""), REFRESH):
                    yield len(dead)
            finally:
                with _storage_errors(self.store):
                    for each in (mark, *dead) if self.is_done(number) else (mark,):
                        self.store.remove(each)

    def _is_stale(self, mark: str, fresh: str) -> bool:
        """By the clock of the storage, which made both."""
        try:
            return self.store.modified(fresh) - self.store.modified(mark) > STALE
        except FileNotFoundError:  # ended meanwhile
            return False

    def publish(self, records: Path, summary: ShardSummary) -> None:
        """Move the part of a shard here, after its summary, unless another process was faster: the
        results are the same."""
        if self.is_done(summary.shard):
            return
        text = json.dumps(asdict(summary), ensure_ascii=False) + "\n"
        with _storage_errors(self.store):
            self.store.write(f"{SUMMARIES}/{summary.shard:05}.json", text.encode())
            self.store.publish(records, self.part(summary.shard))

    def summary(self, number: int) -> ShardSummary:
        """Raises DataError for one that is missing or damaged."""
        name = f"{SUMMARIES}/{number:05}.json"
        with _storage_errors(self.store):
            try:
                content = json.loads(self.store.read(name))
                failures = tuple((str(file), str(why)) for file, why in content.pop("failures"))
                return ShardSummary(**content, failures=failures)
            except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{self.store.address(name)}: {reason_of(error)}; delete {self.part(number)} "
                    "and run the same command again"
                ) from error

    def summaries(self, numbers: Iterable[int]) -> Iterator[ShardSummary]:
        """In order, a few in memory."""
        waiting = list(numbers)
        with ThreadPoolExecutor(_READERS) as pool:
            for first in range(0, len(waiting), 4 * _READERS):
                yield from pool.map(self.summary, waiting[first : first + 4 * _READERS])

    def finish(self, shards: int) -> dict[str, Any]:
        """Join the failures and totals of all shards into ``failures.jsonl`` and ``summary.json``,
        which is returned."""
        totals = {"shards": shards, "images": 0, "failed": 0, "found": 0, "warned": 0}
        with tempfile.TemporaryDirectory(prefix="resdet-") as folder, _storage_errors(self.store):
            path = Path(folder, FAILURES)
            with path.open("wb") as file:
                for summary in self.summaries(range(shards)):
                    totals["images"] += summary.images
                    totals["failed"] += len(summary.failures)
                    totals["found"] += summary.found
                    totals["warned"] += summary.warned
                    for name, error in summary.failures:
                        file.write(record_line({"file": name, "error": error}))
            self.store.publish(path, FAILURES)
            self.store.write(SUMMARY, (json.dumps(totals, indent=2) + "\n").encode())
            for mark in chain.from_iterable(self.attempted().values()):
                if has_ended(mark):
                    self.store.remove(mark)
        if not is_remote(self.store.root):
            remove_left(Path(self.store.root), SCRATCH)
        return totals

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Where a part grows: beside the results, or in a temporary folder for remote ones."""
        if is_remote(self.store.root):
            with tempfile.TemporaryDirectory(prefix="resdet-") as folder:
                yield Path(folder)
            return
        with ExitStack() as stack:
            with _storage_errors(self.store):
                own = stack.enter_context(own_folder(Path(self.store.root), SCRATCH))
            yield own


@contextmanager
def _storage_errors(store: Store) -> Iterator[None]:
    """Errors of the storage of results end the run: they are of no image."""
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:
        raise ConfigError(
            f"{store.root}: cannot read or write results: {reason_of(error)}; what is there stays "
            "valid, run the same command again"
        ) from error

"""Proposals and boxes of a localizer for the images of a data set, read by worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...datasets.image import ImageRules
from ...datasets.loading.crops import Crop
from ...datasets.loading.dataset import ClassificationDataset, eval_loader
from ...datasets.loading.regions import region_loader
from ...datasets.loading.workers import BatchLoader
from ..evaluation.prediction import Timer
from ..structures import Located, Record
from .localize import Candidates, LocationPipeline

#: Images whose proposals are in memory at a time, until stage two has read them again.
CHUNK = 256


@dataclass(frozen=True)
class RecordReader:
    """How a data set is read: its ``rules`` and the number of ``workers``."""

    rules: ImageRules
    workers: int

    def images(self, records: Sequence[Record], crops: Sequence[Crop]) -> BatchLoader:
        """One image at a time under all ``crops``, cropped by the workers."""
        dataset = ClassificationDataset(records, *crops, rules=self.rules)
        return eval_loader(dataset, batch_size=1, workers=self.workers)


def propose_records(
    pipeline: LocationPipeline, records: Sequence[Record], reader: RecordReader
) -> Iterator[tuple[str, Tensor]]:
    """(image id, proposals (P, 4) for its own class) of each image."""
    for batch in reader.images(records, pipeline.crops):
        yield batch.image_ids[0], pipeline.propose(batch, int(batch.labels[0]))


def locate_records(
    pipeline: LocationPipeline,
    records: Sequence[Record],
    reader: RecordReader,
    timer: Timer | None = None,
) -> Iterator[tuple[str, Located]]:
    """(image id, boxes) of each image; ``timer`` gets what the networks took.

    With stage two, images are taken in chunks, whose proposals are all that is held: the workers
    read the images once for the crops of stage one, and once more to warp the proposals.
    """
    timer = timer or Timer()
    size = CHUNK if pipeline.second else max(1, len(records))
    for at in range(0, len(records), size):
        chunk = {record.image_id: record for record in records[at : at + size]}
        waiting: dict[str, tuple[int, Candidates]] = {}
        for batch in reader.images(tuple(chunk.values()), pipeline.crops):
            truth = int(batch.labels[0])
            with timer.measure(images=1):
                candidates = pipeline.first_stage(batch, truth)
            if pipeline.second:
                waiting[batch.image_ids[0]] = (truth, candidates)
            else:
                yield batch.image_ids[0], pipeline.located(candidates, truth)
        parts = {name: pipeline.parts(candidates) for name, (_, candidates) in waiting.items()}
        jobs = [(chunk[name], boxes) for name, own in parts.items() for _, boxes in own]
        warped = iter(
            region_loader(jobs, pipeline.squares, rules=reader.rules, workers=reader.workers)
        )
        for name, (truth, candidates) in waiting.items():
            scored = []
            for (label, _), regions in zip(parts[name], warped, strict=False):
                with timer.measure():
                    scored.append((label, pipeline.score_regions(regions, label)))
            yield name, pipeline.located(candidates.rescored(scored), truth)

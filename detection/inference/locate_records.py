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
    """(image id, boxes) of each image; ``timer`` measures the networks.

    With stage two, images are processed in chunks, of which only the proposals are kept in memory:
    the workers read the images once for the crops of stage one, and again to warp the proposals.
    """
    timer = timer or Timer()
    if pipeline.second:
        for at in range(0, len(records), CHUNK):
            yield from _in_two_stages(pipeline, records[at : at + CHUNK], reader, timer)
        return
    for image_id, truth, candidates in _first_stage(pipeline, records, reader, timer):
        yield image_id, pipeline.located(candidates, truth)


def _first_stage(
    pipeline: LocationPipeline, records: Sequence[Record], reader: RecordReader, timer: Timer
) -> Iterator[tuple[str, int, Candidates]]:
    """(image id, true class, candidates) of each image."""
    for batch in reader.images(records, pipeline.crops):
        truth = int(batch.labels[0])
        with timer.measure(images=1):
            candidates = pipeline.first_stage(batch, truth)
        yield batch.image_ids[0], truth, candidates


def _in_two_stages(
    pipeline: LocationPipeline, records: Sequence[Record], reader: RecordReader, timer: Timer
) -> Iterator[tuple[str, Located]]:
    by_id = {record.image_id: record for record in records}
    found = [
        (image_id, truth, candidates, pipeline.parts(candidates))
        for image_id, truth, candidates in _first_stage(pipeline, records, reader, timer)
    ]
    jobs = [(by_id[image_id], boxes) for image_id, _, _, parts in found for _, boxes in parts]
    loader = region_loader(jobs, pipeline.squares, rules=reader.rules, workers=reader.workers)
    warped = iter(loader)
    for image_id, truth, candidates, parts in found:
        scored = []
        for (label, _), regions in zip(parts, warped, strict=False):  # a batch for each part
            with timer.measure():
                scored.append((label, pipeline.score_regions(regions, label)))
        yield image_id, pipeline.located(candidates.rescored(scored), truth)

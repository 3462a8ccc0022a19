"""How good a detector is on a data set: the one evaluation, in training and afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from rich.console import Console
from rich.progress import track

from ...datasets.catalog import DataSplit
from ...datasets.loading.dataset import DetectionDataset, eval_loader
from ..engine.distributed import Group
from ..errors import DataError
from ..evaluation.run import Timer, detect
from ..evaluation.score import Evaluation, evaluate
from ..structures import Batch, Detections
from .class_layers import class_difference
from .detector import Detector, build_pipeline, build_split, image_rules


def build_test_split(detector: Detector, which: str) -> DataSplit:
    """The images of ``train`` or ``val`` for evaluation, labelled in the detector's order.

    Difficult objects are neither right nor wrong, also where training left them out.

    Raises:
        DataError: the data name classes that the detector does not know, or the other way round.
    """
    config = detector.config
    sources = config.data.train if which == "train" else config.data.val
    data = config.data.model_copy(update={"val": sources})
    own = config.data.classes
    if own is not None and set(own) != set(detector.classes):
        raise DataError(class_difference("the detector", detector.classes, "the data", own))
    return build_split(config.model_copy(update={"data": data}), "val", classes=detector.classes)


def detect_split(
    detector: Detector,
    split: DataSplit,
    group: Group,
    progress: Console | None = None,
    timer: Timer | None = None,
) -> dict[str, Detections] | None:
    """Detections of every image by image id; each process takes its share, the main one gets all
    and the others None. The model must be in evaluation mode. ``timer`` gets what this process
    spent on its share."""
    config = detector.config
    pipeline = build_pipeline(detector)
    dataset = DetectionDataset(split.records, *pipeline.transforms, rules=image_rules(config))
    batches: Iterable[Batch] = eval_loader(
        dataset,
        batch_size=config.test.batch_size,
        workers=config.data.workers,
        rank=group.rank,
        world=group.world,
        pin_memory=group.device.type == "cuda",
    )
    if progress is not None and group.is_main:
        batches = track(batches, "evaluating", console=progress, transient=True)
    found = detect(
        pipeline, batches, device=group.device, precision=config.test.precision, timer=timer
    )
    return group.gather(found)


def score_split(
    detector: Detector, split: DataSplit, found: Mapping[str, Detections], *, coco: bool = True
) -> Evaluation:
    """VOC's and COCO's numbers for the detections of one split.

    Truncated images that ``data.on_truncated: skip`` left out are not counted; a note tells.
    """
    records, notes = split.records, list[str]()
    if detector.config.data.on_truncated == "skip":
        records = tuple(record for record in records if record.image_id in found)
    left_out = len(split.records) - len(records)
    if left_out:
        notes += [f"{left_out} truncated image(s) left out (data.on_truncated: skip)"]
    evaluation = evaluate(found, records, detector.classes, coco=coco)
    return replace(evaluation, notes=(*evaluation.notes, *notes))

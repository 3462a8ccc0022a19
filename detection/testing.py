"""How good a detector is on a data set: the one evaluation, in training and afterwards."""

from __future__ import annotations

from collections.abc import Mapping

from ..datasets.catalog import DataSplit
from ..datasets.loader import DetectionDataset, test_loader
from .build import Detector, image_rules, test_transform
from .engine.distributed import Group
from .evaluation.run import detect
from .evaluation.score import Evaluation, evaluate
from .structures import Detections


def detect_split(
    detector: Detector, split: DataSplit, group: Group
) -> dict[str, Detections] | None:
    """Detections of every picture by image id; each process takes its share, the main one gets all
    and the others None. The model must be in evaluation mode."""
    config = detector.config
    dataset = DetectionDataset(split.records, test_transform(config), image_rules(config))
    batches = test_loader(
        dataset,
        batch_size=config.test.batch_size,
        workers=config.data.workers,
        rank=group.rank,
        world=group.world,
        pin_memory=group.device.type == "cuda",
    )
    found = detect(detector.model, batches, device=group.device, precision=config.test.precision)
    return group.gather(found)


def score_split(
    detector: Detector, split: DataSplit, found: Mapping[str, Detections], *, coco: bool = True
) -> Evaluation:
    """VOC's and COCO's numbers for the detections of one split."""
    return evaluate(found, split.records, detector.classes, coco=coco)

"""How good is a classifier on a data set: the one evaluation, in training and afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rich.console import Console
from rich.progress import track
from torch import Tensor

from ...datasets.catalog import DataSplit
from ..engine.distributed import Group
from ..evaluation.classification import Classification, evaluate_scores
from ..evaluation.run import Timer, detect
from .classifier import LoadedClassifier, build_score_pipeline
from .classifier_data import Images, test_batches


def score_images(
    classifier: LoadedClassifier,
    images: Images,
    group: Group,
    progress: Console | None = None,
    timer: Timer | None = None,
) -> dict[str, Tensor] | None:
    """The (K,) scores of every image by image id; each process takes its share, the main one gets
    all and the others None. The models must be in evaluation mode. ``timer`` gets what this process
    spent on its share."""
    config = classifier.config
    pipeline = build_score_pipeline(classifier)
    batches = test_batches(images, config, pipeline.crops, group)
    if progress is not None and group.is_main:
        batches = track(batches, "evaluating", console=progress, transient=True)
    scores = detect(
        pipeline, batches, device=group.device, precision=config.test.precision, timer=timer
    )
    return group.gather(scores)


def evaluate_split(
    classifier: LoadedClassifier, split: DataSplit, scores: Mapping[str, Tensor]
) -> Classification:
    """The errors on one split.

    Truncated images that ``data.on_truncated: skip`` left out are not counted; a note tells.
    """
    records = split.records
    if classifier.config.data.on_truncated == "skip":
        records = tuple(record for record in records if record.image_id in scores)
    left_out = len(split.records) - len(records)
    evaluation = evaluate_scores(scores, records, classifier.classes)
    if not left_out:
        return evaluation
    note = f"{left_out} truncated image(s) left out (data.on_truncated: skip)"
    return replace(evaluation, notes=(*evaluation.notes, note))

"""Evaluation without the images that ``data.on_bad_image: skip`` leaves out, and what is said of
them beside the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...datasets.catalog import DataSplit
from ...datasets.loading.dataset import read_record
from ...datasets.shards.index import ShardSplit
from ..errors import DataError, ImageError, first_few
from ..structures import Record
from .base import image_rules


def evaluate_read(
    evaluate: Callable[..., Any], found: Mapping[str, Any], split: DataSplit, config: Any
) -> Any:
    """``evaluate(found, records, classes)`` with a note on the images that were skipped; raises
    DataError if no image is left."""
    records = split.records
    if skips_images(config):
        records = tuple(record for record in records if record.image_id in found)
    lines = skipped_images(found, split, config)
    if lines and not records:
        raise DataError(f"no image can be evaluated: {first_few(lines, 3)}")
    evaluation = evaluate(found, records, split.classes)
    note = describe_skipped(lines, len(records))
    return replace(evaluation, notes=(*evaluation.notes, *([note] if note else [])))


def skips_images(config: Any) -> bool:
    return "skip" in (config.data.on_bad_image, config.data.on_truncated)


def skipped_images(found: Mapping[str, Any], split: DataSplit, config: Any) -> list[str]:
    """``path: reason`` of the images of ``split`` that an evaluation leaves out: those that were
    skipped when its annotations were read, and those that are not among the predictions."""
    lines = [str(finding) for finding in split.findings if finding.outcome == "skipped"]
    if skips_images(config):
        absent = (record for record in split.records if record.image_id not in found)
        lines += [_why_skipped(record, split, config) for record in absent]
    return lines


def _why_skipped(record: Record, split: DataSplit, config: Any) -> str:
    """Predictions have no reasons, so that the image is read once more; those of shards are not."""
    if not isinstance(split, ShardSplit):
        try:
            read_record(record, image_rules(config))
        except ImageError as error:
            return str(error)
    return f"{record.path}: {record.image_id}: cannot be read"


def describe_skipped(lines: Sequence[str], left: int) -> str:
    """The note beside numbers that were computed without some images; "" if none is missing."""
    if not lines:
        return ""
    total = left + len(lines)
    return f"{len(lines)} of {total} images skipped and not in these numbers: {first_few(lines, 3)}"

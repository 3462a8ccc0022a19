"""Evaluation without the images that ``data.on_bad_image: skip`` leaves out, and what is said of
them beside the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...datasets.catalog import DataSplit
from ...datasets.image import ImageRules, SkippedImage
from ...datasets.loading.dataset import read_record
from ...datasets.shards.index import ShardSplit
from ..config.data_rules import image_rules
from ..errors import DataError, ImageError, first_few
from ..structures import Record


def evaluate_read(
    evaluate: Callable[..., Any], found: Mapping[str, Any], split: DataSplit, config: Any
) -> Any:
    """``evaluate(found, records, classes)`` with a note on the images that were skipped; raises
    DataError if no image is left."""
    unread = _unread(found, split, config)
    records = split.records
    if unread:
        records = records.with_ids(lambda name: name not in unread)
    lines = [*_left_out(split), *unread.values()]
    if lines and not records:
        raise DataError(f"no image can be evaluated: {first_few(lines, 3)}")
    evaluation = evaluate(found, records, split.classes)
    note = describe_skipped(lines, len(records))
    return replace(evaluation, notes=(*evaluation.notes, *([note] if note else [])))


def skipped_images(found: Mapping[str, Any], split: DataSplit, config: Any) -> list[str]:
    """``path: reason`` of the images of ``split`` that an evaluation leaves out: those that were
    skipped when its annotations were read, and those that could not be read for prediction."""
    return [*_left_out(split), *_unread(found, split, config).values()]


def _left_out(split: DataSplit) -> list[str]:
    return [str(finding) for finding in split.findings if finding.outcome == "skipped"]


def _unread(found: Mapping[str, Any], split: DataSplit, config: Any) -> dict[str, str]:
    """{id: reason} of the images without prediction that cannot be read. Any other image without
    prediction counts, so that leaving out predictions does not improve a score."""
    if "skip" not in (config.data.on_bad_image, config.data.on_truncated):
        return {}
    absent = [record for record in split.records if record.image_id not in found]
    rules = image_rules(config)
    if isinstance(split, ShardSplit):  # no file of its own that could be read again
        return {each.image_id: f"{each.path}: {each.image_id}: cannot be read" for each in absent}
    reasons = {record.image_id: _reason(record, rules) for record in absent}
    return {image_id: reason for image_id, reason in reasons.items() if reason}


def _reason(record: Record, rules: ImageRules) -> str:
    """Predictions have none, so that the image is read once more."""
    try:
        read_record(record, rules)
    except SkippedImage as error:
        return str(error)
    except ImageError:  # which ends the prediction of the image
        pass
    return ""


def describe_skipped(lines: Sequence[str], left: int) -> str:
    """The note beside numbers that were computed without some images; "" if none is missing."""
    if not lines:
        return ""
    total = left + len(lines)
    return f"{len(lines)} of {total} images skipped and not in these numbers: {first_few(lines, 3)}"

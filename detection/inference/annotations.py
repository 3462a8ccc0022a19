"""Detections as annotations for people to correct, in the format of an annotation tool."""

from __future__ import annotations

from pathlib import Path

from ...datasets.convert.convert import (
    ConversionPlan,
    SourceSplit,
    plan_conversion,
    write_plan,
)
from ...datasets.formats.format import Contents
from ...datasets.records import RawImage, RawObject
from .records import RECORDS, read_meta, read_records

#: The folder in a folder of results, and the split, that annotations are written as.
ANNOTATIONS, SPLIT = "annotations", "images"


def write_annotations(
    results: Path, format: str, *, best: bool = False
) -> tuple[Path, ConversionPlan]:
    """Write the detections of a folder of results as ``annotations/<format>`` in it, replacing
    those of an earlier run; returns the folder and what it holds. With ``best``, of each image only
    the first detection, as a localizer has boxes of several classes for one object.

    Images are named as in the records and not copied; failed ones are left out. Only Label Studio
    keeps the scores, as predictions. Raises ConfigError for a folder without results or a format
    that is not written, DataError for damaged records and names that the format cannot store.
    """
    classes = tuple(read_meta(results)["classes"])
    path = results / RECORDS
    images = tuple(
        RawImage(
            record["file"],
            Path(record["file"]),
            (record["height"], record["width"]),
            tuple(
                RawObject(each["label"], tuple(each["box"]), score=each["score"])
                for each in record["detections"][: 1 if best else None]
            ),
            path,
        )
        for record in read_records(path)
        if "error" not in record
    )
    part = SourceSplit(SPLIT, "detections", images, classes, Contents(Path()), has_list=True)
    plan = plan_conversion([part], format)
    out = results / ANNOTATIONS / format
    write_plan(plan, out, copy=False, replace=True)
    return out, plan

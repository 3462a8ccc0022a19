"""The splits of a data set that is converted or cropped, with the policies for bad boxes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...detection.config.base import OnBadBox
from ...detection.errors import DataError
from ..bad_boxes import resolve_boxes
from ..finding_kinds import as_option
from ..findings import Finding, count_kinds, refuse
from ..formats import FORMATS, class_order, read_checked
from ..formats.format import DEFAULT_READING, Contents, Reading, Source
from ..records import RawImage


@dataclass(frozen=True)
class SourceSplit:
    """One split of a data set, its classes in order."""

    split: str
    format: str
    images: tuple[RawImage, ...]
    classes: tuple[str, ...]
    contents: Contents
    #: Whether the data have a class list.
    has_list: bool
    #: What happened to images and boxes that cannot be used.
    findings: tuple[Finding, ...] = ()

    @cached_property
    def above(self) -> Path:
        """The folder above all images that are outside of the folder of the data."""
        folder, paths = normal(self.contents.folder), [normal(each.path) for each in self.images]
        return Path(os.path.commonpath([p.parent for p in paths if not p.is_relative_to(folder)]))


def read_splits(
    sources: Mapping[str, Source],
    reading: Reading = DEFAULT_READING,
    on_bad_box: OnBadBox | None = None,
) -> list[SourceSplit]:
    """The sources by the names of their splits; raises `DataError` for faults, and where nothing is
    left.

    ``on_bad_box`` is applied as in training; under ``error`` boxes that training would clip stay as
    they are, and under None all do.
    """
    return [_read_split(name, source, reading, on_bad_box) for name, source in sources.items()]


def _read_split(
    split: str, source: Source, reading: Reading, on_bad_box: OnBadBox | None
) -> SourceSplit:
    """Without a class list in the data set, the classes are the names that occur, sorted."""
    images, findings = read_checked(source, reading)
    if not images:
        raise DataError(f"{source.title}: no image is left ({count_kinds(findings) or 'none'})")
    format = FORMATS[source.format]
    contents, listed = format.contents(source, images), format.classes(source) is not None
    classes, annotated = class_order([source], images), any(image.objects for image in images)
    resolved = [finding for finding in findings if finding.outcome]
    if on_bad_box is not None:
        usable, boxes = resolve_boxes(images, on_bad_box)
        refuse(boxes, source.title, as_option)
        if annotated and not any(image.objects for image in usable):
            raise DataError(f"{source.title}: no object is left: {count_kinds(boxes)}")
        if on_bad_box != "error":
            told = (each for each in boxes if each.outcome or each.kind == "rounded_box")
            images, resolved = usable, [*resolved, *told]
    return SourceSplit(
        split, source.format, tuple(images), classes, contents, listed, tuple(resolved)
    )


def normal(path: Path) -> Path:
    """The path without ``..``."""
    return Path(os.path.normpath(path))

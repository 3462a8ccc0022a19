"""The data set that is checked: a folder of a known format, or the sources of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...detection.errors import ConfigError
from ..coordinates import Coordinates
from ..formats import FORMATS, declared_classes, inspect, inspect_folders, named_source, with_names
from ..formats.format import DEFAULT_READING, Format, Part, Reading, Source
from .check import DataSet
from .statistics import Anchors


def folder_data(
    root: Path,
    format: Format[Any],
    reading: Reading = DEFAULT_READING,
    *,
    annotations: Sequence[Path] = (),
    coordinates: Coordinates = "one_based",
    classes: tuple[str, ...] | None = None,
    anchors: Anchors | None = None,
) -> DataSet:
    """Everything in the folder. ``annotations`` are COCO JSONs of images in ``root``."""
    sources: Mapping[str, Source] = format.splits(root)
    if annotations:
        stems = [path.stem for path in annotations]
        sources = {
            path.stem if stems.count(path.stem) == 1 else str(path): named_source(
                format, root, None, path
            )
            for path in annotations
        }
    if not sources:
        raise ConfigError(f"{root}: no {format.name} annotations; --annotations FILE names them")
    if "coordinates" in format.source.model_fields:
        update = {"coordinates": coordinates}
        sources = {name: each.model_copy(update=update) for name, each in sources.items()}
    sources = {name: with_names(each, classes) for name, each in sources.items()}
    content = format.carries
    if content == "both":
        content = "boxes" if all(map(format.boxed, sources.values())) else "class"
    return DataSet(
        root,
        {
            name: [
                partial(inspect, source, replace(reading, part="val" if name == "val" else "train"))
            ]
            for name, source in sources.items()
        },
        [partial(inspect_folders, list(sources.values()))],
        classes=classes,
        rules=reading.rules,
        anchors=anchors if content == "boxes" else None,
        content=content,
        listing=tuple(sources.values()),
        declared=partial(declared_classes, list(sources.values())),
    )


def config_data(
    origin: Path, data: Any, reading: Reading, anchors: Anchors | None = None
) -> DataSet:
    """The sources of the section ``data`` of a config at ``origin``: two lists of a detector's, or
    one source with both parts. Raises ConfigError if there is none."""
    splits: dict[Part, list[Source]]
    held_out = False
    if "source" in type(data).model_fields:
        both = [_with_headers(data.source)] if data.source else []
        held_out = data.val is not None or any(
            getattr(source, "val_fraction", None) for source in both
        )
        splits = {"train": both, "val": [] if held_out else both}  # held out of train
    else:
        val = list(data.val) if isinstance(data.val, tuple) else []
        splits = {"train": list(data.train), "val": val}
    splits = {
        name: [with_names(source, data.classes) for source in part] for name, part in splits.items()
    }
    sources = [source for part in splits.values() for source in part]
    if not sources:
        raise ConfigError(f"{origin}: has no data sources")
    carries = FORMATS[sources[0].format].carries
    if carries == "both":
        carries = "boxes" if "on_bad_box" in type(data).model_fields else "class"
    reading = replace(reading, boxes=carries == "boxes")
    return DataSet(
        origin,
        {
            name: [partial(inspect, source, replace(reading, part=name)) for source in part]
            for name, part in splits.items()
            if part
        },
        [] if held_out else [partial(inspect_folders, list(dict.fromkeys(sources)))],
        classes=data.classes,
        ignore_classes=getattr(data, "ignore_classes", ()),
        from_training=True,
        on_bad_box=getattr(data, "on_bad_box", "error"),
        rules=reading.rules,
        anchors=anchors,
        content=carries,
        listing=tuple(splits.get("train", ())),
        declared=partial(declared_classes, sources),
    )


def _with_headers(source: Source) -> Source:
    """Training may leave headers unread, a check does not."""
    if "headers" not in type(source).model_fields:
        return source
    return source.model_copy(update={"headers": True})

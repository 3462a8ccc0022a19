"""The data set that is checked: a folder of a known format, or the sources of a config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ...detection.errors import ConfigError
from ..coordinates import Coordinates
from ..formats import inspect, inspect_folders, named_source
from ..formats.format import DEFAULT_READING, Format, Reading, Source
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
        anchors=anchors if format.carries in ("boxes", "both") else None,
        content="boxes" if format.carries == "both" else format.carries,
    )


def sources_data(
    origin: Path,
    splits: Mapping[str, Sequence[Source]],
    reading: Reading,
    **settings: Any,
) -> DataSet:
    """The sources of a config by split, training first; ``settings`` are `DataSet`'s."""
    return DataSet(
        origin,
        {
            name: [partial(inspect, source, reading) for source in part]
            for name, part in splits.items()
            if part
        },
        [partial(inspect_folders, [source for part in splits.values() for source in part])],
        from_training=True,
        rules=reading.rules,
        **settings,
    )

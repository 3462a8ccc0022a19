"""Reading of the images of detectors, with their objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ...datasets.catalog import DataSplit, all_dropped, label_images
from ...datasets.findings import refuse
from ...datasets.formats import class_order, declared_classes, inspect_all, with_names
from ...datasets.formats.format import Difficult, Reading, Source, is_annotated
from ...datasets.record_cache import cached
from ..config.data_rules import image_rules
from ..config.detector import DetectorConfig
from ..errors import ConfigError


def read_sources(
    config: DetectorConfig,
    sources: Sequence[Source],
    classes: tuple[str, ...] | None,
    difficult: Difficult = "ignore",
) -> DataSplit:
    """The labelled images of ``sources``; ``classes`` replace those of the configuration.

    Raises DataError for errors among the findings.
    """
    options = (config.data.settings_of_reading(), classes, difficult)
    cache = config.data.cache_records and not config.data.allow_outside
    read = partial(_read_sources, config, sources, classes, difficult)
    (split,) = cached(sources, options, lambda: (read(),), enabled=cache)
    return split


def _read_sources(
    config: DetectorConfig,
    sources: Sequence[Source],
    classes: tuple[str, ...] | None,
    difficult: Difficult,
) -> DataSplit:
    data = config.data
    reading = Reading(
        image_rules(config),
        difficult,
        data.on_size_mismatch,
        workers=data.workers,
        allow_outside=data.allow_outside,
    )
    sources = [with_names(source, data.classes or classes) for source in sources]
    images, findings = inspect_all(sources, reading)
    known = classes or data.classes
    if known is None:
        refuse(findings, "data")  # incomplete data give an incomplete class list
        known = class_order(sources, images, data.ignore_classes)
    split = label_images(
        images,
        classes=known,
        ignore_classes=data.ignore_classes,
        on_bad_box=data.on_bad_box,
        declared=partial(declared_classes, sources),
    )
    findings += [*split.findings, *all_dropped(split)]
    refuse(findings, "data")
    annotated = all(map(is_annotated, sources))
    return replace(split, findings=tuple(findings), annotated=annotated)


def read_test(config: DetectorConfig, classes: tuple[str, ...]) -> DataSplit:
    """The images of ``data.test``; raises ConfigError if there are none."""
    if not config.data.test:
        raise ConfigError(f"--split test: the config names no data.test; {_test_line(config)}")
    return read_sources(config, config.data.test, classes)


def _test_line(config: DetectorConfig) -> str:
    """The setting to write, in the manner of the first source; paths that it has for each part are
    left open."""
    data = config.data
    sources = (data.val if isinstance(data.val, tuple) else ()) or data.train
    if not sources:
        return "add it with data.test='[{format: voc, root: DIR, split: test}]'"
    source = sources[0]
    chosen = source.model_dump(exclude_defaults=True) | {"split": "test"}
    values = {
        name: value if name in ("root", "split") or not isinstance(value, Path) else name.upper()
        for name, value in chosen.items()
        if name in type(source).model_fields and name != "format"
    }
    words = ", ".join([f"format: {source.format}", *(f"{k}: {v}" for k, v in values.items())])
    return f"add it with data.test='[{{{words}}}]'"

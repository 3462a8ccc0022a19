"""Reading a split of a format in one call, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from resdet.datasets import formats
from resdet.datasets.formats.format import Inspected, Reading, Source
from resdet.datasets.records import RawImage


def read(name: str, root: Path, split: str | None, **options: Any) -> list[RawImage]:
    """The images; raises DataError for faults. ``options`` are the source's or `Reading`'s."""
    return formats.read_images(*_source(name, root, split, options))


def inspect(name: str, root: Path, split: str | None, **options: Any) -> Inspected:
    return formats.inspect(*_source(name, root, split, options))


def _source(name: str, root: Path, split: str, options: dict[str, Any]) -> tuple[Source, Reading]:
    section = formats.FORMATS[name].source
    own = {key: options.pop(key) for key in list(options) if key in section.model_fields}
    if "split" in section.model_fields:
        return section(root=root, split=split, **own), Reading(**options)
    return section(root=root, **own), Reading(part=split, **options)  # type: ignore[arg-type]

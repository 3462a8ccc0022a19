"""The base class of the tasks that train on crops, whose data have one class per image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ...datasets.catalog import DataSplit
from ...datasets.formats.format import Source
from ...datasets.record_cache import cached
from ..engine.distributed import Group
from ..engine.synced_norm import synchronise_norms
from ..errors import ConfigError
from .base import Loaded, Splits, Task


class CropTask(Task):
    """The base of classification and localization, which train on crops."""

    def prepare_model(self, loaded: Loaded, group: Group) -> None:
        """Also batch norm over the images of all processes, where asked for."""
        if loaded.config.train.sync_norm:
            synchronise_norms(loaded.model, group)
        super().prepare_model(loaded, group)

    def cached(
        self, config: Any, options: object, read: Callable[[], Sequence[DataSplit]]
    ) -> tuple[DataSplit, ...]:
        """What ``read`` gives for the source and ``options``, from the cache of records."""
        whole = (self.name, config.data.settings_of_reading(), options)
        return cached([data_source(config)], whole, read, enabled=config.data.cache_records)

    def data_report(self, config: Any, splits: Splits, path: Path) -> str:
        """The report on data with one class per image."""
        content = {}
        for name, split in splits.items():
            counts = Counter(split.records.image_labels.tolist())
            content[name] = {
                "images": len(split.records),
                "classes": {label: counts[index] for index, label in enumerate(split.classes)},
                "problems": list(split.problems),
            }
        report = {"task": self.name, "splits": content}
        return json.dumps(report, ensure_ascii=False, indent=1) + "\n"


def data_source(config: Any) -> Source:
    if config.data.source is None:
        raise ConfigError("data.source: not given; set its format and root")
    return config.data.source

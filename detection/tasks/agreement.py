"""What the processes of a run must have in common: the data, the settings and where they begin."""

from __future__ import annotations

import hashlib
import reprlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...datasets.record_columns import Records
from ..config.paths import settings_but_paths
from ..engine.distributed import Group
from ..errors import ConfigError

if TYPE_CHECKING:
    from .training import Training

#: Settings that each node may choose for its own processors and disks.
_OF_NODES = ("data.workers", "data.cache_records")
#: How many differences an error names.
_NAMED = 5


def expect_agreement(training: Training, step: int, group: Group) -> None:
    """Raise ConfigError, in all processes, unless they agree: on nodes with other data or settings
    the same numbers would mean other images, and on those that see another checkpoint the weights
    would part."""
    if group.world > 1:
        expect_same(traits(training, step), group)


def expect_same(mine: Mapping[str, Any], group: Group) -> None:
    """Raise ConfigError, in all processes, unless ``mine`` is the same in all of them; it names
    the keys and values that differ."""
    every = group.all_gather(dict(mine))
    for rank, other in enumerate(every):
        if differing := differences(every[0], other):
            named = [
                f"{key}: {_shown(here)} in process 0, {_shown(there)} in process {rank}"
                for key, here, there in differing[:_NAMED]
            ]
            more = len(differing) - len(named)
            raise ConfigError(
                f"process {rank} differs from process 0 in {'; '.join(named)}"
                f"{f'; and {more} more' if more else ''}; all nodes need the same data, settings "
                "and run folder"
            )


def differences(
    first: Mapping[str, Any], other: Mapping[str, Any]
) -> Sequence[tuple[str, Any, Any]]:
    """The keys with different values, and both values; a missing value is None."""
    return [
        (key, first.get(key), other.get(key))
        for key in {**first, **other}
        if first.get(key) != other.get(key)
    ]


def traits(training: Training, step: int) -> dict[str, Any]:
    """What must be the same in all processes: the step they begin at, the classes in their order,
    the images and the settings, except paths, which may be those of each node."""
    found = {
        "step": step,
        **{f"class {number}": name for number, name in enumerate(training.loaded.classes)},
        **{f"data.{name}": _images(split.records) for name, split in training.splits.items()},
    }
    settings = settings_but_paths(training.loaded.config)
    return found | {key: settings[key] for key in settings if key not in (*_OF_NODES, *found)}


def _images(records: Records) -> str:
    """The number of images, and a digest of their ids, sizes and objects; not of their paths."""
    hashed = hashlib.sha256()
    for name, column in sorted(records.columns.items()):
        if not name.startswith("path"):
            hashed.update(np.ascontiguousarray(column).tobytes())
    return f"{len(records)} images with objects of SHA-256 {hashed.hexdigest()[:16]}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else reprlib.repr(value)

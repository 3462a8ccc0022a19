"""What the processes of a run must have in common: the data, the settings and where they begin."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

import numpy as np

from ...datasets.record_columns import Records
from ..engine.distributed import Group
from ..errors import ConfigError

if TYPE_CHECKING:
    from .training import Training


def expect_agreement(training: Training, step: int, group: Group) -> None:
    """Raise ConfigError, in all processes, unless they agree: on nodes with other data or settings
    the same numbers would mean other images, and on those that see another checkpoint the weights
    would part."""
    if group.world == 1:
        return
    config = training.loaded.config.model_dump(mode="json")
    del config["data"]  # its paths may be those of each node
    every = group.all_gather(
        {
            "step": f"they begin at step {step}",
            "classes": f"they have {len(training.loaded.classes)} classes",
            **{f"data.{name}": _images(split.records) for name, split in training.splits.items()},
            "settings": f"the settings have SHA-256 {_digest(json.dumps(config))}",
        }
    )
    for rank, other in enumerate(every):
        for name, here in every[0].items():
            if other.get(name) != here:
                raise ConfigError(
                    f"process {rank} differs from process 0 in {name}: {here} in process 0, "
                    f"{other.get(name)} in process {rank}; all nodes need the same data, settings "
                    "and run folder"
                )


def _images(records: Records) -> str:
    """The number of images, and a digest of their ids, sizes and objects; not of their paths."""
    hashed = hashlib.sha256()
    for name, column in sorted(records.columns.items()):
        if not name.startswith("path"):
            hashed.update(np.ascontiguousarray(column).tobytes())
    return f"{len(records)} images with objects of SHA-256 {hashed.hexdigest()[:16]}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]

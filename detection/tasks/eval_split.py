"""The images of an evaluation: a part of the configuration's data, or another split of them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from ...datasets.catalog import DataSplit
from ...datasets.formats.format import Source
from ...datasets.shards.index import ShardSplit
from ..errors import ConfigError, DataError, first_few, quoted
from ..evaluation.subset import chosen_labels
from .base import Loaded, Task
from .checkpoints import class_difference
from .held_out import read_part

#: The parts of the data that can be evaluated.
EvalPart = Literal["train", "val", "test"]


def read_eval_split(task: Task, loaded: Loaded, part: EvalPart) -> DataSplit:
    """The images of one part for evaluation, labelled in the network's order.

    Raises:
        DataError: the data name classes that the network does not know, or lack some, or hold no
            images.
        ConfigError: only the checkpoint names the data.
    """
    loaded.named.expect_none("data")
    config, own = loaded.config, loaded.config.data.classes
    if own is not None and set(own) != set(loaded.classes):
        only = (
            f"; --classes {shlex.quote(','.join(own))} evaluates these alone"
            if set(own) < set(loaded.classes)
            else ""
        )
        raise DataError(class_difference("the checkpoint", loaded.classes, "the data", own) + only)
    if part == "test":
        split = task.read_test(config, loaded.classes)
    else:
        split = read_part(task, config, part, loaded.classes, loaded.held_out)
    if not split.records:
        raise DataError(f"data.{part}: no images to evaluate")
    return split


def images_of(split: DataSplit, only: Sequence[str]) -> DataSplit:
    """The images that an evaluation of the classes ``only`` needs: those of these classes, or all
    where an image has no class itself, or is read with others, as from shards.

    Raises DataError if there are none of these classes.
    """
    labels = split.records.image_labels  # -1 where an image has no class itself
    wanted = np.isin(labels, [-1, *chosen_labels(only, split.classes)])
    if not wanted.any():
        raise DataError(f"--classes: no image of {first_few([repr(name) for name in only], 10)}")
    if isinstance(split, ShardSplit):
        return split
    return replace(split, records=split.records.take(np.flatnonzero(wanted)))


def sources_of(config: Any, part: EvalPart) -> tuple[Source, ...]:
    """The sources that a part of a detector's data comes from; none for other tasks. Images that
    are held out for validation are of the training sources."""
    sources = getattr(config.data, part, None) or ()
    return sources if isinstance(sources, tuple) else getattr(config.data, "train", ())


def with_named_split(loaded: Loaded, name: str) -> tuple[Loaded, EvalPart]:
    """``loaded`` and the part of its data to evaluate. A ``name`` that is no part of the
    configuration is that of another split of the data of ``val``, in whose place it is then.

    Raises ConfigError if the data of ``val`` have no splits by name.
    """
    data = loaded.config.data
    parts: dict[str, EvalPart] = {"train": "train", "val": "val"}
    if hasattr(data, "test"):
        parts["test"] = "test"
    if name in parts:
        return loaded, parts[name]
    changed: dict[str, Any] = {}
    sources = sources_of(loaded.config, "val") or sources_of(loaded.config, "train")
    if hasattr(data, "source") and hasattr(data.source, "val"):
        replaced = {"val": name, "val_fraction": None}
        fields = {key: value for key, value in replaced.items() if hasattr(data.source, key)}
        changed = {"source": data.source.model_copy(update=fields)}
        changed |= {"val": None} if hasattr(data, "val") else {}  # nothing is held out
    elif sources and all(hasattr(each, "split") for each in sources):
        changed = {"val": tuple(each.model_copy(update={"split": name}) for each in sources)}
    if not changed:
        raise ConfigError(
            f"--split {quoted(name)}: not train, val or test, and the data of val are no split of "
            "a folder with splits by name"
        )
    config = loaded.config.model_copy(update={"data": data.model_copy(update=changed)})
    return replace(loaded, config=config), "val"

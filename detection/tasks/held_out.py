"""Reading of the parts of the data, with validation images of their own, held out, or none.

``data.val: {fraction: 0.1}`` holds out a share of the training images. Checkpoints name them, so
that evaluations and resumed runs use the same ones, whatever is added to the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...datasets.catalog import DataSplit
from ...datasets.convert.copies import groups_of_copies
from ...datasets.convert.split import Member, stratified_split
from ...datasets.formats.format import Part
from ...datasets.shards.index import ShardSplit
from ..config.base import HeldOut
from ..config.data_rules import image_rules
from ..errors import ConfigError, DataError, first_few
from ..files import write_file
from ..printing import progress_of
from .base import Splits, Task

#: In the run folder: the ids of the images that are held out, one a line.
LIST = "held_out.txt"


def read_splits(
    task: Task,
    config: Any,
    classes: tuple[str, ...] | None = None,
    held_out: Sequence[str] | None = None,
) -> dict[str, DataSplit]:
    """``train`` and, unless the config wants no validation, ``val``, with the same classes; raises
    as `Task.read`. ``held_out`` are the image ids of an earlier choice."""
    val = getattr(config.data, "val", None)
    if not isinstance(val, HeldOut) and val != ():
        return task.read_both(config, classes)
    train = task.read(config, "train", classes, training=True)
    if val == ():
        return {"train": train}
    every = task.read(config, "train", train.classes)
    chosen = _chosen(val, every, config, held_out)
    return {"train": _without(train, chosen), "val": _only(every, chosen)}


def read_part(
    task: Task, config: Any, part: Part, classes: tuple[str, ...], held_out: Sequence[str] | None
) -> DataSplit:
    """One part for evaluation; raises as `Task.read`, and ConfigError where there is none."""
    val = getattr(config.data, "val", None)
    if part == "val" and val == ():
        raise ConfigError("data.val: the config has no validation images; see --split")
    if not isinstance(val, HeldOut):
        return task.read(config, part, classes)
    every = task.read(config, "train", classes)
    chosen = _chosen(val, every, config, held_out)
    return _without(every, chosen) if part == "train" else _only(every, chosen)


def write_list(splits: Splits, config: Any, folder: Path) -> None:
    """Write `LIST` if images are held out; raises OSError."""
    if isinstance(getattr(config.data, "val", None), HeldOut):
        write_file(folder / LIST, "".join(f"{name}\n" for name in _ids(splits["val"])))


def describe_validation(splits: Splits, config: Any) -> list[str]:
    """A line for the log where validation has no images of its own."""
    val = getattr(config.data, "val", None)
    if isinstance(val, HeldOut):
        count, total = len(splits["val"].records), sum(len(s.records) for s in splits.values())
        return [
            f"data.val: {count} of {total} training images are held out (seed {val.seed}), {LIST}"
        ]
    if "val" not in splits:
        return [
            "data.val: no validation images, so nothing is evaluated and best.pt is the last "
            "checkpoint; data.val={fraction: 0.1} holds out a tenth of the training images"
        ]
    return []


def expect_evaluations(config: Any, splits: Splits) -> None:
    """Raise ConfigError for settings that follow the evaluations where there are none."""
    if "val" in splits:
        return
    train = config.train
    for setting, used in (
        ("train.schedule=plateau", train.schedule == "plateau"),
        (f"train.patience={train.patience}", train.patience is not None),
    ):
        if used:
            raise ConfigError(
                f"{setting} follows the evaluations, and data.val has no images; choose another, "
                "or hold out a share of the training images: data.val={fraction: 0.1}"
            )


def held_out_ids(splits: Splits, config: Any) -> list[str] | None:
    """The images that are held out, for checkpoints; None where none are."""
    held_out = isinstance(getattr(config.data, "val", None), HeldOut)
    return _ids(splits["val"]) if held_out else None


def _ids(split: DataSplit) -> list[str]:
    return list(split.records.ids())


def _only(split: DataSplit, names: set[str]) -> DataSplit:
    """The images of these names, with the findings about them."""
    records = split.records.with_ids(names.__contains__)
    paths = {record.path for record in records}
    findings = tuple(finding for finding in split.findings if finding.image in paths)
    return replace(split, records=records, findings=findings)


def _without(split: DataSplit, names: set[str]) -> DataSplit:
    """The other images, with all other findings: so each is in one part."""
    held_out = {record.path for record in split.records.with_ids(names.__contains__)}
    records = split.records.with_ids(lambda name: name not in names)
    findings = tuple(finding for finding in split.findings if finding.image not in held_out)
    return replace(split, records=records, findings=findings)


def _chosen(
    val: HeldOut, split: DataSplit, config: Any, held_out: Sequence[str] | None
) -> set[str]:
    """The images that are held out: those of ``held_out``, or a new choice."""
    if isinstance(split, ShardSplit):
        raise ConfigError("data.val: shards are read as a stream, nothing is held out of them")
    if getattr(getattr(config.data, "source", None), "val_fraction", None) is not None:
        raise ConfigError("data.val and data.source.val_fraction: both hold out images; give one")
    if held_out is None:
        return set(_choose(val, split, config))
    known = set(_ids(split))
    if missing := [name for name in held_out if name not in known]:
        raise DataError(
            f"data.val: {len(missing)} of {len(held_out)} images that the run held out are not in "
            f"data.train: {first_few(missing)}"
        )
    return set(held_out)


def _choose(val: HeldOut, split: DataSplit, config: Any) -> list[str]:
    records = split.records
    with progress_of("looking for near copies") as progress:
        groups = groups_of_copies(
            [record.path for record in records],
            image_rules(config),
            near=True,
            workers=config.data.workers,
            progress=progress,
        )
    members = [
        Member(record.image_id, frozenset(_names(record, split.classes)), group)
        for record, group in zip(records, groups, strict=True)
    ]
    fractions = {"train": 1 - val.fraction, "val": val.fraction}
    parts = stratified_split(members, fractions, seed=val.seed)
    if empty := [part for part, names in parts.items() if not names]:
        raise DataError(
            f"data.val.fraction={val.fraction:g}: leaves no images for {' and '.join(empty)}: "
            f"{len(records)} images in {len(set(groups))} groups of near copies are too few"
        )
    return parts["val"]


def _names(record: Any, classes: Sequence[str]) -> set[str]:
    labels = set(record.annotation.labels.tolist())
    labels |= set() if record.image_label is None else {record.image_label}
    return {classes[label] for label in labels}

"""The lines that describe a training before its first step."""

from __future__ import annotations

from torch import nn

from ...datasets.catalog import describe
from ...datasets.findings import count_kinds
from ..config.base import TrainConfig
from ..errors import first_few
from .base import Loaded, Splits
from .epochs import steps_per_epoch

#: Findings about classes that are shown one by one.
_OF_CLASSES = ("class_missing_in_split", "label_conflict", "nested_classes")


def fixed_at_random(loaded: Loaded) -> list[str]:
    """A warning where a network without pretrained weights has layers that are not trained."""
    fields = type(loaded.config).model_fields
    section = next((name for name in ("backbone", "network") if name in fields), None)
    if section is None:  # a task of one's own
        return []
    settings = getattr(loaded.config, section)
    fixed, remedy = [], []
    if settings.norm == "frozen":
        fixed.append(f"{section}.norm=frozen normalises nothing without statistics")
        remedy.append(f"{section}.norm=batch")
    if getattr(settings, "frozen_stages", 0):
        fixed.append(f"{section}.frozen_stages={settings.frozen_stages} keeps random layers")
        remedy.append(f"{section}.frozen_stages=0")
    if settings.weights is not None or not fixed:
        return []
    return [
        f"WARNING: no pretrained weights are loaded, but {' and '.join(fixed)}: such a network "
        f"cannot learn well. Name {section}.weights, start from a checkpoint with --weights, or "
        f"train all of it: {' '.join(remedy)}"
    ]


def describe_splits(splits: Splits) -> list[str]:
    """One line about the content of each split."""
    return [f"{name}: {describe(split)}" for name, split in splits.items()]


def unused_images(splits: Splits) -> list[str]:
    """The images that were skipped when the annotations were read, with the reasons."""
    findings = [finding for split in splits.values() for finding in split.findings]
    return [str(finding) for finding in findings if finding.outcome == "skipped"]


def describe_findings(splits: Splits) -> list[str]:
    """The first problems of the data, and the number of findings of each kind."""
    lines = []
    for name, split in splits.items():
        told = [each for each in split.findings if each.severity != "note"]
        of_classes = [str(each) for each in told if each.kind in _OF_CLASSES]
        problems = (*split.problems[:10], *of_classes[:10])
        lines += [f"WARNING: data.{name}: {problem}" for problem in problems]
        if split.findings:
            lines.append(f"found in data.{name}: {count_kinds(split.findings)}")
    return lines


def classes_without_objects(splits: Splits) -> list[str]:
    """A warning for classes that training cannot learn, and a note on those that validation cannot
    measure: no image, or no object that is not ignored, is of the class."""
    lines = []
    for name, split in splits.items():
        records = split.records
        found = {*records.image_labels.tolist(), *records.labels[~records.ignore].tolist()}
        lacking = [each for label, each in enumerate(split.classes) if label not in found]
        if not lacking or not split.annotated:
            continue
        what = f"{len(lacking)} of {len(split.classes)} classes without an object or image"
        told = f"data.{name}: {what}: {first_few(lacking)}"
        if name == "train":
            lines.append(f"WARNING: {told}; the network cannot learn them")
        else:
            lines.append(f"{told}; their results are undefined (-)")
    return lines


def describe_size(model: nn.Module) -> str:
    """How many parameters a network has, and how many of them are trained."""
    parameters = list(model.parameters())
    count = sum(p.numel() for p in parameters)
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return f"{count / 1e6:.1f} M parameters, {trained / 1e6:.1f} M trained"


def describe_steps(settings: TrainConfig, images: int) -> str:
    """How many steps and epochs a run has."""
    per_epoch = steps_per_epoch(settings, images)
    epochs = settings.epochs
    told = f"{settings.iterations / per_epoch:.1f}" if epochs is None else f"{epochs:g}"
    return f"steps: {settings.iterations}, {told} epochs of {per_epoch}"

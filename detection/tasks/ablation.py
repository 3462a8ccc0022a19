"""The steps of an ablation of the paper's improvements, and their measurement.

The steps are the rows of Table 9 of the ResNet paper (arXiv:1512.03385), each on top of the ones
before it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ...datasets.catalog import DataSplit
from ..config.detector import DetectorConfig
from ..config.files import override
from ..config.paths import START, missing_paths
from ..engine.distributed import Group
from ..engine.memory import evaluation_fits
from ..errors import ConfigError
from ..evaluation.ablation import Row
from ..evaluation.bootstrap import bootstrap, draw
from ..evaluation.columns import Columns, gather
from ..evaluation.prediction import Timer
from .banner import describe_findings, describe_splits
from .base import Loaded, Part, Splits
from .checkpoints import Checkpoint, load_members, read_checkpoint
from .detector import DETECTION
from .eval_split import read_eval_split
from .skipped import describe_skipped, skipped_images


@dataclass(frozen=True)
class Step:
    """An improvement: its config key, if any, and the value ``on`` that enables it.

    Tuples in ``on`` are multiples of ``image.short_side_test``.
    """

    name: str
    key: str = ""
    on: int | float | tuple[float, ...] = 0


STEPS = (
    Step("baseline"),
    Step("refinement", "test.refine.rounds", 1),
    Step("voting", "test.vote.iou", 0.5),
    Step("context"),
    Step("multi-scale", "test.pyramid", (1 / 3, 2 / 3, 1, 4 / 3, 5 / 3)),
    Step("ensemble"),
)


@dataclass(frozen=True)
class Trial:
    """The measurement of a step: an ensemble of all ``weights``; or why it is skipped."""

    name: str
    weights: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True)
class Ablation:
    """An ablation on the first ``limit`` images of ``part`` of the data.

    The first of the ``weights`` are measured in every step, all of them in the ensemble,
    ``context_weights`` from the step of global context on. ``base`` replaces the config of the
    weights.
    """

    weights: Sequence[Path]
    context_weights: Path | None = None
    base: DetectorConfig | None = None
    overrides: Sequence[str] = ()
    part: Part = "val"
    limit: int | None = None
    trust_paths: bool = False
    #: Beside the numbers, each once: what is not in them.
    notes: dict[str, None] = field(default_factory=dict)

    @cached_property
    def config(self) -> DetectorConfig:
        """The config that all steps start from."""
        return override(self.base or _config(self._checkpoints[self.weights[0]]), self.overrides)

    @cached_property
    def _checkpoints(self) -> dict[Path, Checkpoint]:
        paths = [*self.weights, *([self.context_weights] if self.context_weights else [])]
        return {path: read_checkpoint(path, DETECTION) for path in paths}

    def plan(self, steps: Sequence[Step]) -> list[Trial]:
        """A trial for each of the ``steps``.

        Raises:
            ResdetError: weights or config cannot be used.
        """
        lead, together = self.weights[0], tuple[Path, ...]()
        reached: list[Step] = []
        trials = []
        for step in steps:
            reached.append(step)
            skipped = ""
            if step.name == "context":
                skipped = self._without_context()
                lead = lead if skipped or self.context_weights is None else self.context_weights
            if step.name == "ensemble" and len(self.weights) == 1:
                skipped = "one network only: give --weights several times"
            elif step.name == "ensemble":
                together = tuple(self.weights[1:])
            if skipped:
                trials.append(Trial(step.name, skipped=skipped))
            else:
                words = (*self.overrides, *switches(reached, self.config))
                trials.append(Trial(step.name, (lead, *together), words))
        return trials

    def check(self, trials: Sequence[Trial]) -> list[str]:
        """Load the last trial, which uses the files of all others, before the long measurements;
        returns lines about the images and what was found in them, as training logs them.

        Raises:
            ResdetError: as `load_members` and `read_eval_split`.
        """
        last = [trial for trial in trials if not trial.skipped][-1]
        parts: Splits = {self.part: self._split(self._load(last, "cpu"))}
        return [*describe_splits(parts), *describe_findings(parts)]

    def measure(self, trials: Sequence[Trial], group: Group, *, resamples: int) -> list[Row] | None:
        """Measure all trials on the same draws; None on all processes but the main one."""
        rows, draws = [], None
        for trial in trials:
            if trial.skipped:
                rows.append(Row(trial.name, skipped=trial.skipped))
                continue
            measured = self._measure(self._load(trial, group.device), group)
            if measured is None:
                continue
            columns, seconds, testing = measured
            draws = draws or draw(columns.image_ids, resamples=resamples)
            estimates = bootstrap(columns, draws)
            weights = tuple(map(str, trial.weights))
            rows.append(Row(trial.name, testing, weights, estimates, seconds))
            print(f"{trial.name}: {100 * estimates['voc_ap50'].value:.1f} ({testing})")
        return rows if group.is_main else None

    def _without_context(self) -> str:
        """The reason to skip the step of global context, or ""."""
        if self.config.roi.context:
            return "in every row: the weights were trained with it"
        if self.context_weights is None:
            return "not trained: give --context-weights"
        if not _config(self._checkpoints[self.context_weights]).roi.context:
            raise ConfigError(f"{self.context_weights}: trained without roi.context")
        return ""

    def _load(self, trial: Trial, device: torch.device | str) -> list[Loaded]:
        """The networks of a trial. One with context is tested with the config of the first network,
        so that images and settings are the same."""
        base = self.base
        if trial.weights[0] == self.context_weights:
            base = self.base or _config(self._checkpoints[self.weights[0]])
            base = override(base, ["roi.context=true"])
        checkpoints = [self._checkpoints[path] for path in trial.weights]
        return load_members(
            checkpoints,
            device,
            base=base,
            overrides=trial.overrides,
            trust_paths=self.trust_paths,
        )

    def _measure(
        self, members: Sequence[Loaded], group: Group
    ) -> tuple[Columns, float | None, str] | None:
        """(detections with ground truth, seconds per image after a warm-up, description of the
        testing)."""
        pipeline, config = DETECTION.pipeline(members), members[0].config
        split = self._split(members)
        warm_up = replace(split, records=split.records[: group.world])
        timer = Timer()
        console = Console(stderr=True)
        with evaluation_fits(config.model_dump(mode="json"), group.device):
            DETECTION.predict_split(pipeline, config, warm_up, group)
            found = DETECTION.predict_split(pipeline, config, split, group, console, timer)
        if found is None:
            return None
        # Images may have been left out: data.on_bad_image=skip.
        records = [record for record in split.records if record.image_id in found]
        if note := describe_skipped(skipped_images(found, split, config), len(records)):
            self.notes[note] = None
        columns = gather(found, records, len(split.classes))
        return columns, timer.seconds_per_image, DETECTION.describe_testing(members, pipeline)

    def _split(self, members: Sequence[Loaded]) -> DataSplit:
        if self.base is None and not self.trust_paths:
            lead = self._checkpoints[self.weights[0]]
            lead.named_paths(self.config, self.overrides).expect_none("data")
        if missing := missing_paths(members[0].config, unused=START):
            raise ConfigError("\n".join(missing))
        split = read_eval_split(DETECTION, members[0], self.part)
        return replace(split, records=split.records[: self.limit])


def switches(reached: Sequence[Step], config: DetectorConfig) -> list[str]:
    """Overrides that enable the steps in ``reached`` and disable all others."""
    side = config.image.short_side_test
    words = []
    for step in STEPS:
        if not step.key:
            continue
        value = _value(DetectorConfig(), step.key)  # off, as in the schema
        if step in reached:
            on = [round(part * side) for part in step.on] if isinstance(step.on, tuple) else step.on
            value = _value(config, step.key) or on
        words.append(f"{step.key}={json.dumps(value)}")
    return words


def _value(config: object, key: str) -> object:
    return reduce(getattr, key.split("."), config)


def _config(checkpoint: Checkpoint) -> DetectorConfig:
    config: Any = checkpoint.config
    return config

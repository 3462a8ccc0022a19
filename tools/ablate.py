"""The command ``ablate``: what each of the paper's improvements brings, and what it costs.

The rows are those of Table 9 of the ResNet paper (arXiv:1512.03385), each on top of the ones above:

  baseline      every improvement switched off, whatever the config says
  refinement    regions are scored again from their own regressed boxes
  voting        kept boxes become score-weighted means (part of refinement in the paper)
  context       the network of --context-weights, trained with roi.context=true, else the same
  multi-scale   regions are scored on a pyramid of 1/3 to 5/3 of image.short_side_test
  ensemble      all --weights together

Settings that belong to a row (test.refine.rounds, test.vote.iou, test.pyramid) are taken from the
config or key=value where they are switched on there; all others hold in every row. The paper
suppresses at an IoU of 0.3: test.nms_iou=0.3.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError
from resdet.tools.arguments import add_config_arguments

if TYPE_CHECKING:
    import torch
    from resdet.datasets.catalog import DataSplit
    from resdet.detection.config.detector import DetectorConfig
    from resdet.detection.engine.distributed import Group
    from resdet.detection.evaluation.ablation import Row
    from resdet.detection.evaluation.columns import Columns
    from resdet.detection.tasks.base import Loaded, Part
    from resdet.detection.tasks.checkpoints import Checkpoint

HELP = "measure the paper's improvements one by one, with confidence intervals"


@dataclass(frozen=True)
class Step:
    """An improvement: the config key that switches it on, if any, and the value for that.

    Sides in ``on`` are in multiples of ``image.short_side_test``.
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
NAMES = [step.name for step in STEPS]


@dataclass(frozen=True)
class Trial:
    """What to run for a row: an ensemble where ``weights`` are several; or why it is not run."""

    name: str
    weights: tuple[Path, ...] = ()
    overrides: tuple[str, ...] = ()
    skipped: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        required=True,
        type=Path,
        action="append",
        help="trained weights; repeat it for the ensemble, whose first is measured in every row",
    )
    parser.add_argument(
        "--context-weights", type=Path, metavar="FILE", help="weights trained with roi.context=true"
    )
    add_config_arguments(parser, required=False)
    parser.add_argument("--split", choices=("val", "train"), default="val", help="which data (val)")
    parser.add_argument("--steps", metavar="A,B", help=f"only these rows, of {', '.join(NAMES)}")
    parser.add_argument("--rungs", dest="steps", help=argparse.SUPPRESS)  # its former name
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap (1000)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for ablation.json and .png")
    parser.add_argument("--device", help="cpu, cuda or cuda:1 (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> int:
    from resdet.detection.config.files import dump_config, load_config
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.evaluation.ablation import ablation_table, write_ablation
    from rich.console import Console

    steps = chosen(args.steps)
    for name in ("limit", "resamples"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name}: must be at least 1")
    base = load_config(args.cfg) if args.cfg else None
    trials = plan(steps, args.weights, args.context_weights, base, args.overrides)
    if args.print_config:
        print(dump_config(_config_of(trials[0].weights[0], base, trials[0].overrides)), end="")
        return 0
    folder = args.out or _beside(args.weights[0])
    with process_group(args.device) as group:
        if group.is_main:
            _make(folder)
        expect_usable(trials, base, args)
        if args.dry_run:
            for trial in trials:
                print(f"{trial.name}: {trial.skipped or ' '.join(trial.overrides)}")
            return 0
        rows = measure_trials(trials, base, args, group)
        if rows is None:
            return 0
        images = len(rows[0].estimates["voc_ap50"].draws.image_ids)
        about = {"split": args.split, "images": images, "resamples": args.resamples}
        Console().print(ablation_table(rows, images=images, resamples=args.resamples))
        written = write_ablation(rows, folder, about=about)
        print("written: " + ", ".join(str(path) for path in written))
    return 0


def chosen(names: str | None) -> list[Step]:
    """The named steps, in the order of `STEPS`; the baseline is always among them."""
    wanted = NAMES if names is None else [name.strip() for name in names.split(",")]
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise ConfigError(f"--steps: no {unknown[0]!r}; choose from {', '.join(NAMES)}")
    return [step for step in STEPS if step.name in wanted or step is STEPS[0]]


def plan(
    steps: Sequence[Step],
    weights: Sequence[Path],
    context_weights: Path | None,
    base: DetectorConfig | None,
    overrides: Sequence[str],
) -> list[Trial]:
    """What to run for each step, from the first weights and their config."""
    config = _config_of(weights[0], base, overrides)
    lead, together = weights[0], tuple[Path, ...]()
    reached: list[Step] = []
    trials = []
    for step in steps:
        reached.append(step)
        skipped = ""
        if step.name == "context":
            skipped = _without_context(config, context_weights)
            lead = lead if skipped or context_weights is None else context_weights
        if step.name == "ensemble":
            skipped = "" if len(weights) > 1 else "one network only: give --weights several times"
            together = tuple(weights[1:])
        if skipped:
            trials.append(Trial(step.name, skipped=skipped))
        else:
            words = (*overrides, *switches(reached, config))
            trials.append(Trial(step.name, (lead, *together), words))
    return trials


def _without_context(config: DetectorConfig, context_weights: Path | None) -> str:
    """Why there is no row for global context, if so."""
    if config.roi.context:
        return "in every row: the weights were trained with it"
    if context_weights is None:
        return "not trained: give --context-weights"
    if not _config_of(context_weights, None).roi.context:
        raise ConfigError(f"{context_weights}: trained without roi.context")
    return ""


def switches(reached: Sequence[Step], config: DetectorConfig) -> list[str]:
    """Overrides that switch every improvement on or off."""
    from resdet.detection.config.detector import DetectorConfig

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


@cache
def _read(path: Path) -> Checkpoint:
    from resdet.detection.tasks.checkpoints import read_checkpoint
    from resdet.detection.tasks.detector import DETECTION

    return read_checkpoint(path, DETECTION)


def _config_of(
    weights: Path, base: DetectorConfig | None, overrides: Sequence[str] = ()
) -> DetectorConfig:
    from resdet.detection.config.files import override

    config: Any = _read(weights).config
    return override(base or config, overrides)


def load_trial(
    trial: Trial, base: DetectorConfig | None, args: argparse.Namespace, device: torch.device | str
) -> list[Loaded]:
    """The network or ensemble of a trial. One with context is tested on the same images and in
    the same way as the first one: its own config may say something else."""
    from resdet.detection.config.files import override
    from resdet.detection.tasks.checkpoints import load_members

    if trial.weights[0] == args.context_weights:
        base = override(_config_of(args.weights[0], base), ["roi.context=true"])
    checkpoints = [_read(path) for path in trial.weights]
    return load_members(checkpoints, device, base=base, overrides=trial.overrides)


def expect_usable(
    trials: Sequence[Trial], base: DetectorConfig | None, args: argparse.Namespace
) -> None:
    """Said before the hours of the first rows: the last row has all files that those lack.

    Raises:
        ResdetError: as `load_members` and `read_eval_split`.
    """
    last = [trial for trial in trials if not trial.skipped][-1]
    _split(load_trial(last, base, args, "cpu"), args.split, args.limit)


def measure_trials(
    trials: Sequence[Trial],
    base: DetectorConfig | None,
    args: argparse.Namespace,
    group: Group,
) -> list[Row] | None:
    """Measure trial after trial on the same draws; None on all processes but the main one."""
    from resdet.detection.evaluation.ablation import Row
    from resdet.detection.evaluation.bootstrap import bootstrap, draw

    rows, draws = [], None
    for trial in trials:
        if trial.skipped:
            rows.append(Row(trial.name, skipped=trial.skipped))
            continue
        members = load_trial(trial, base, args, group.device)
        measured = measure(members, args.split, args.limit, group)
        if measured is None:
            continue
        columns, seconds, testing = measured
        draws = draws or draw(columns.image_ids, resamples=args.resamples)
        weights = tuple(map(str, trial.weights))
        estimates = bootstrap(columns, draws)
        rows.append(Row(trial.name, testing, weights, estimates, seconds))
        print(f"{trial.name}: {100 * estimates['voc_ap50'].value:.1f} ({rows[-1].testing})")
    return rows if group.is_main else None


def measure(
    members: Sequence[Loaded], part: Part, limit: int | None, group: Group
) -> tuple[Columns, float | None, str] | None:
    """Detections beside the truth, seconds per image once everything is warm, and the testing in
    words."""
    from resdet.detection.evaluation.columns import gather
    from resdet.detection.evaluation.prediction import Timer
    from resdet.detection.tasks.detector import DETECTION
    from rich.console import Console

    pipeline, config = DETECTION.pipeline(members), members[0].config
    split = _split(members, part, limit)
    warm_up = replace(split, records=split.records[: group.world])
    DETECTION.predict_split(pipeline, config, warm_up, group)
    timer = Timer()
    found = DETECTION.predict_split(
        pipeline, config, split, group, progress=Console(stderr=True), timer=timer
    )
    if found is None:
        return None
    # Truncated images may have been left out: data.on_truncated=skip.
    records = [record for record in split.records if record.image_id in found]
    columns = gather(found, records, len(split.classes))
    return columns, timer.seconds_per_image, DETECTION.describe_testing(members, pipeline)


def _split(members: Sequence[Loaded], part: Part, limit: int | None) -> DataSplit:
    from resdet.detection.config.files import missing_paths
    from resdet.detection.tasks.checkpoints import read_eval_split
    from resdet.detection.tasks.detector import DETECTION

    missing = missing_paths(members[0].config)
    if missing:
        raise ConfigError("\n".join(missing))
    split = read_eval_split(DETECTION, members[0], part)
    return replace(split, records=split.records[:limit])


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error


def _beside(weights: Path) -> Path:
    """The run folder's ``ablation`` for ``run/weights/best.pt``; else a folder beside the file."""
    run_folder = weights.parent.parent if weights.parent.name == "weights" else weights.parent
    return run_folder / "ablation"


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("ablate"))

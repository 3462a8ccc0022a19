"""The command ``eval --manifest``: the results of a run over a manifest, scored in shards."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import progress_of, say, table_console
from resdet.tools.arguments import expect_writable
from resdet.tools.eval_files import chosen_classes, expect_rising, limited_to, page_command

if TYPE_CHECKING:
    from resdet.detection.evaluation.report import Evaluation

#: Options that need a model, or all detections at once, and their defaults.
_REFUSED = {
    **dict.fromkeys(("weights", "cfg", "save_json", "save_voc", "mean_box", "submission")),
    **dict.fromkeys(("hotcoco", "conf", "dry_run", "print_config", "overrides")),
    **dict.fromkeys(("device", "compile")),
}
#: The beginning of folders where detections and objects are parted.
_PIECES = ".pieces-"


def score_results(args: argparse.Namespace) -> Evaluation:
    """Score, print and write. Raises ConfigError and DataError like `score_manifest`."""
    from resdet.detection.cluster.marks import own_folder, remove_left
    from resdet.detection.cluster.scoring import ScoringJob, score_manifest
    from resdet.detection.evaluation.definitions import COCO_SIZES
    from resdet.detection.evaluation.operating_points import THRESHOLDS
    from resdet.detection.evaluation.report import print_report, write_report

    if not (args.predictions and args.annotations):
        raise ConfigError(
            "--manifest: give the results of its infer, --predictions DIR, and --annotations PATH"
        )
    if given := [name for name in _REFUSED if getattr(args, name)]:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"--manifest: scores without a model, in pieces: leave out {options}")
    expect_rising(args.sizes)
    folder = args.out or _beside(args.predictions)
    expect_writable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    classes: list[str] = []
    only: list[str] = []

    def chosen(names: Sequence[str]) -> Sequence[str]:
        classes[:], only[:] = names, chosen_classes(args, names)
        return only

    job = ScoringJob(
        args.manifest,
        str(args.predictions),
        str(args.annotations),
        args.split,
        coco=not args.no_coco,
        sizes=args.sizes or COCO_SIZES,
        only=chosen,
        scores=args.thresholds or THRESHOLDS,
    )
    remove_left(folder, _PIECES)
    with own_folder(folder, _PIECES) as pieces, progress_of("scoring", "shards") as report:
        found = score_manifest(job, pieces, report)
    testing = f"detections in {args.predictions}{limited_to(only, classes)}"
    evaluation = replace(found, testing=testing)
    print_report(evaluation, table_console())
    say("no intervals, error types and entries of images: they need all detections at once")
    written = write_report(evaluation, folder)
    say("written: " + ", ".join(str(path) for path in written))
    say(f"next: {page_command(folder)}")
    return evaluation


def _beside(results: Path | str) -> Path:
    if isinstance(results, str):
        raise ConfigError("--out: results at an address need a local folder for their numbers")
    return results.absolute() / "eval"

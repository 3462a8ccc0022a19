"""Evaluate a detector, a classifier or a localizer on a data set.

resdet eval --weights runs/detector/weights/best.pt test.nms_iou=0.4
resdet eval --weights classifier.pt test.protocol=ten_crop
resdet eval --weights one.pt --weights other.pt test.protocol=multi_scale test.flip=true
resdet eval --weights detector.pt --split test --save-json --save-voc
resdet eval --predictions results.json --annotations instances_val2017.json
resdet eval --weights localizer.pt test.classifiers=[classifier.pt] --submission answers.csv
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError, first_few
from resdet.detection.printing import say
from resdet.tools.arguments import (
    add_config_arguments,
    add_device_argument,
    add_weights_argument,
    beside_weights,
    expect_writable,
    print_config,
)

if TYPE_CHECKING:
    from resdet.datasets.catalog import DataSplit
    from resdet.datasets.formats.voc import VocSource
    from resdet.detection.tasks.base import Loaded, Task

HELP = "score a detector (mAP, COCO AP), a classifier or a localizer (top-1 and top-5 error)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser, required=False)
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="PATH",
        help="in place of weights, detections of any tool: COCO results (.json), the .jsonl of "
        "infer, or a folder of VOC's files",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="PATH",
        help="for --predictions: a COCO file, or a VOC folder with the image set --split",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--split", choices=("val", "train", "test"), default="val", help="data split (default: val)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the report")
    add_device_argument(parser)
    parser.add_argument("--no-coco", action="store_true", help="detectors: skip the COCO metrics")
    parser.add_argument(
        "--save-json",
        action="store_true",
        help="detectors: write all detections as COCO results, and the ground truth with their ids",
    )
    parser.add_argument(
        "--save-voc",
        action="store_true",
        help="detectors: write all detections as the VOC evaluation server takes them",
    )
    parser.add_argument(
        "--mean-box", action="store_true", help="localizers: also score the mean box of each class"
    )
    parser.add_argument(
        "--submission", type=Path, metavar="FILE", help="localizers: write an ILSVRC submission"
    )


def run(args: argparse.Namespace) -> int:
    if args.predictions or args.annotations or not args.weights:
        return _score_predictions(args)
    from resdet.detection.config.files import START, missing_paths, read_config
    from resdet.detection.engine.distributed import process_group
    from resdet.detection.engine.memory import evaluation_fits
    from resdet.detection.evaluation.prediction import Timer
    from resdet.detection.evaluation.report import print_report, write_report
    from resdet.detection.tasks.checkpoints import (
        load_members,
        read_checkpoint,
        read_eval_split,
    )
    from resdet.detection.tasks.registry import TASKS
    from resdet.detection.tasks.skipped import skipped_images
    from rich.console import Console

    first = read_checkpoint(args.weights[0], *TASKS.values())
    task = first.task
    _expect_options_for(task.name, args)
    checkpoints = [first, *(read_checkpoint(path, task) for path in args.weights[1:])]
    base = read_config(task.schema, args.cfg) if args.cfg else None
    with process_group(args.device) as group:
        members = load_members(
            checkpoints,
            group.device,
            base=base,
            overrides=args.overrides,
            trust_paths=args.trust_paths,
        )
        config: Any = members[0].config
        if args.print_config:
            print_config(config, args.cfg)
            return 0
        members[0].named.expect_none("data")
        if missing := missing_paths(config, parts=_parts(args), unused=START):
            raise ConfigError("\n".join(missing))
        pipeline = task.pipeline(members).to(group.device)
        if args.submission and pipeline.classifiers is None:
            raise ConfigError(
                "--submission: classes must be predicted; name test.classifiers=[FILE]"
            )
        split = read_eval_split(task, members[0], args.split)
        _expect_something_to_do(args, config, split)
        folder = args.out or beside_weights(args.weights[0], "eval")
        if group.is_main:  # fails before the evaluation, which may take hours
            expect_writable(folder)
            if args.submission:
                expect_writable(args.submission.absolute().parent)
        if args.dry_run:
            say(f"{len(split.records)} images, classes {', '.join(split.classes)}")
            say(f"testing with: {task.describe_testing(members, pipeline)}")
            return 0
        options = _options(args, task, members[0], split) if group.is_main else {}
        timer = Timer()
        with evaluation_fits(config.model_dump(mode="json"), group.device):
            found = task.predict_split(pipeline, config, split, group, Console(stderr=True), timer)
        if found is None:
            return 0
        written: tuple[Path, ...] = ()
        if split.annotated:
            evaluation = replace(
                task.evaluate(found, split, config, **options),
                testing=task.describe_testing(members, pipeline),
                seconds_per_image=timer.seconds_per_image,
            )
            print_report(evaluation, Console())
            written = write_report(evaluation, folder)
        else:
            say(f"tested with: {task.describe_testing(members, pipeline)}")
            say(f"{len(found)} images without annotations: nothing to score")
            if lines := skipped_images(found, split, config):
                say(f"note: {len(lines)} images without detections: {first_few(lines, 3)}")
    written += _write_predictions(args, folder, found, split, config)
    say("written: " + ", ".join(str(path) for path in written))
    return 0


def _score_predictions(args: argparse.Namespace) -> int:
    """Evaluate detections from a file, without a model."""
    from resdet.detection.evaluation.detection import evaluate_columns
    from resdet.detection.evaluation.foreign_results import read_columns, read_truth
    from resdet.detection.evaluation.report import print_report, write_report
    from rich.console import Console

    if not (args.predictions and args.annotations):
        raise ConfigError("give --weights FILE, or --predictions PATH with --annotations PATH")
    unused = ("weights", "cfg", "overrides", "save_json", "save_voc", "mean_box", "submission")
    if given := [name for name in unused if getattr(args, name)]:
        raise ConfigError(f"--predictions needs no model: leave out {', '.join(given)}")
    folder = args.out or args.predictions.absolute().parent / "eval"
    truth = read_truth(args.annotations, args.split)
    columns = read_columns(args.predictions, truth)
    expect_writable(folder)
    if args.dry_run:
        say(f"{len(columns.found.scores)} detections in {len(truth.image_ids)} images")
        return 0
    evaluation = evaluate_columns(columns, truth.classes, coco=not args.no_coco)
    evaluation = replace(evaluation, testing=f"detections in {args.predictions}")
    print_report(evaluation, Console())
    written = write_report(evaluation, folder)
    say("written: " + ", ".join(str(path) for path in written))
    return 0


def _expect_options_for(task: str, args: argparse.Namespace) -> None:
    """Raise ConfigError for options that have no effect for the task."""
    if task != "detection" and (args.save_json or args.save_voc or args.no_coco):
        raise ConfigError("--save-json, --save-voc and --no-coco are for detectors")
    if not task.startswith("localization") and (args.mean_box or args.submission):
        raise ConfigError("--mean-box and --submission are for localizers")


def _parts(args: argparse.Namespace) -> tuple[str, ...]:
    """The parts of the data that are read; the mean box is that of the training images."""
    return (args.split, "train") if args.mean_box else (args.split,)


def _options(
    args: argparse.Namespace, task: Task, leader: Loaded, split: DataSplit
) -> dict[str, Any]:
    """The options of `Task.evaluate` that are specific to a task."""
    if args.no_coco:
        return {"coco": False}
    if not args.mean_box:
        return {}
    from resdet.detection.evaluation.localization_baseline import locate_by_mean_box, mean_boxes
    from resdet.detection.tasks.held_out import read_part

    train = read_part(task, leader.config, "train", leader.classes, leader.held_out)
    boxes = mean_boxes(train.records, leader.classes)
    return {"baseline": locate_by_mean_box(split.records, boxes)}


def _expect_something_to_do(args: argparse.Namespace, config: Any, split: DataSplit) -> None:
    """Raise ConfigError if the images have no annotations and no file is asked for, or if
    ``--save-voc`` cannot name its files."""
    if not (split.annotated or args.save_json or args.save_voc):
        raise ConfigError(
            f"data.{args.split}: the images have no annotations, so there is nothing to score; "
            "--save-json and --save-voc write the detections for an evaluation server"
        )
    if args.save_voc:
        _voc_source(args, config)


def _voc_source(args: argparse.Namespace, config: Any) -> VocSource:
    """The image set that is evaluated; its folder and name are in those of the files."""
    from resdet.datasets.formats.voc import VocSource

    sources = getattr(config.data, args.split)
    if len(sources) != 1 or not isinstance(sources[0], VocSource) or sources[0].split is None:
        raise ConfigError(f"--save-voc: data.{args.split} must be one image set of format voc")
    return sources[0]


def _write_predictions(
    args: argparse.Namespace, folder: Path, found: Mapping[str, Any], split: DataSplit, config: Any
) -> tuple[Path, ...]:
    """The files that ``--save-json``, ``--save-voc`` and ``--submission`` ask for."""
    written: tuple[Path, ...] = ()
    if args.save_json:
        from resdet.detection.evaluation.result_files import result_ids, write_coco

        ids = result_ids(split, getattr(config.data, args.split))
        for note in ids.notes:
            say(f"note: {note}")
        written += write_coco(found, split, ids, folder)
    if args.save_voc:
        from resdet.detection.evaluation.result_files import write_voc

        source = _voc_source(args, config)
        # The folders of the development kit, which the server expects in an archive.
        place = folder / "results" / source.root.name / "Main"
        write_voc(found, split.classes, str(source.split), place)
        written += (place / f"comp4_det_{source.split}_*.txt",)
    if args.submission:
        from resdet.datasets.formats.submission import write_submission

        predicted = {name: located.predicted for name, located in found.items()}
        write_submission(predicted, split.classes, args.submission)
        written += (args.submission,)
    return written


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("eval"))

"""The files of an evaluation: detections of any tool that are scored without a model, and the
detections that are written for other tools."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resdet.detection.errors import ConfigError, first_few
from resdet.detection.printing import say, table_console
from resdet.tools.arguments import expect_writable, names

if TYPE_CHECKING:
    from resdet.datasets.catalog import DataSplit
    from resdet.datasets.formats.format import Source
    from resdet.datasets.formats.voc import VocSource
    from resdet.detection.evaluation.report import Evaluation

#: Options that need a model.
_OF_MODELS = ("weights", "cfg", "overrides", "save_voc", "mean_box", "submission", "compile")


def score_predictions(args: argparse.Namespace) -> Evaluation | None:
    """Evaluate detections from a file, without a model; None for a dry run."""
    from resdet.detection.evaluation.definitions import COCO_SIZES
    from resdet.detection.evaluation.detection import evaluate_columns
    from resdet.detection.evaluation.foreign_results import read_columns, read_truth
    from resdet.detection.evaluation.report import print_report, write_report
    from resdet.detection.evaluation.result_files import write_columns

    if not (args.predictions and args.annotations):
        raise ConfigError("give --weights FILE, or --predictions PATH with --annotations PATH")
    if given := [name for name in _OF_MODELS if getattr(args, name)]:
        raise ConfigError(f"--predictions needs no model: leave out {', '.join(given)}")
    if given := [each for each in (args.predictions, args.annotations) if isinstance(each, str)]:
        raise ConfigError(f"{given[0]}: only of a --manifest, or local paths")
    expect_rising(args.sizes)
    folder = args.out or args.predictions.absolute().parent / "eval"
    truth = read_truth(args.annotations, args.split)
    only = chosen_classes(args, truth.classes)
    columns = read_columns(args.predictions, truth)
    expect_writable(folder)
    if args.dry_run:
        limits = limited_to(only, truth.classes)
        say(f"{len(columns.found.scores)} detections in {len(truth.image_ids)} images{limits}")
        return None
    found = evaluate_columns(
        columns,
        truth.classes,
        coco=None if args.no_coco else "hotcoco" if args.hotcoco else "pycocotools",
        sizes=args.sizes or COCO_SIZES,
        only=only,
        files=truth.files,
    )
    testing = f"detections in {args.predictions}{limited_to(only, truth.classes)}"
    evaluation: Evaluation = replace(found, **analysis_options(args), testing=testing)
    print_report(evaluation, table_console())
    written = write_report(evaluation, folder)
    if args.save_json:
        written += write_columns(columns, truth.ids, folder, truth.split)
    say("written: " + ", ".join(str(path) for path in written))
    say(f"next: {page_command(folder)}")
    return evaluation


def expect_rising(sizes: Sequence[float] | None) -> None:
    """Raise ConfigError unless ``--sizes``, if given, are two rising sides."""
    if sizes and not (len(sizes) == 2 and 0 < sizes[0] < sizes[1]):
        raise ConfigError(f"--sizes: two rising sides, as in 32,96: {sizes}")


def page_command(folder: Path) -> str:
    """The command that makes the page of an evaluation, with that of its run where it has one."""
    run = folder.parent
    whole = folder.name == "eval" and (run / "config.yaml").is_file()
    return shlex.join(["resdet", "report", str(run if whole else folder)])


def chosen_classes(args: argparse.Namespace, classes: Sequence[str]) -> tuple[str, ...]:
    """The names in ``--classes``; raises ConfigError for one that is not among ``classes``."""
    only = names(args.classes, classes)
    if unknown := [name for name in only if name not in classes]:
        known = first_few(list(classes), 10)
        raise ConfigError(f"--classes: no class {unknown[0]!r:.80}; there are {known}")
    return only


def limited_to(only: Sequence[str], classes: Sequence[str]) -> str:
    """The end of the line that says how an evaluation was made, if it is of some classes only."""
    chosen = sorted(set(only), key=list(classes).index)
    count = f"{len(chosen)} of {len(classes)} classes"
    return f"; only {count}: {first_few(chosen, 10)}" if only else ""


def analysis_options(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of an evaluation that options replace."""
    if args.resamples < 0:
        raise ConfigError(f"--resamples {args.resamples}: expected at least 0")
    options: dict[str, Any] = {"resamples": args.resamples}
    if args.conf is not None:
        options["score_threshold"] = args.conf
    if args.thresholds:
        options["scores"] = args.thresholds
    return options


def expect_something_to_do(
    args: argparse.Namespace, sources: Sequence[Source], split: DataSplit
) -> None:
    """Raise ConfigError if the images have no annotations and no file is asked for, or if
    ``--save-voc`` cannot name its files."""
    if not (split.annotated or args.save_json or args.save_voc):
        raise ConfigError(
            f"data.{args.split}: the images have no annotations, so there is nothing to score; "
            "--save-json and --save-voc write the detections for an evaluation server"
        )
    if args.save_voc:
        _voc_source(args, sources)


def _voc_source(args: argparse.Namespace, sources: Sequence[Source]) -> VocSource:
    """The image set that is evaluated; its folder and name are in those of the files."""
    from resdet.datasets.formats.voc import VocSource

    if len(sources) != 1 or not isinstance(sources[0], VocSource) or sources[0].split is None:
        raise ConfigError(f"--save-voc: data.{args.split} must be one image set of format voc")
    return sources[0]


def write_predictions(
    args: argparse.Namespace,
    folder: Path,
    found: Mapping[str, Any],
    split: DataSplit,
    sources: Sequence[Source],
) -> tuple[Path, ...]:
    """The files that ``--save-json``, ``--save-voc`` and ``--submission`` ask for."""
    written: tuple[Path, ...] = ()
    if args.save_json:
        from resdet.detection.evaluation.result_files import write_coco
        from resdet.detection.evaluation.result_ids import result_ids

        ids = result_ids(split, sources)
        for note in ids.notes:
            say(f"note: {note}")
        written += write_coco(found, split, ids, folder)
    if args.save_voc:
        from resdet.detection.evaluation.result_files import write_voc

        source = _voc_source(args, sources)
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

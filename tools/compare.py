"""Compare two evaluations of the same images: differences with paired bootstrap intervals.

resdet compare runs/a/eval runs/b/eval
resdet compare a/images.json b/images.json --out comparison.json --page comparison.html
resdet compare a.json b.json --annotations instances_val2017.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say, say_next, table_console
from resdet.tools.arguments import expect_positive, expect_writable

if TYPE_CHECKING:
    from resdet.detection.evaluation.image_records import ImageRecords
    from resdet.detection.evaluation.paired import Comparison

HELP = "compare two evaluations or files of results, with intervals of the difference"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("first", "second"):
        parser.add_argument(
            name,
            type=Path,
            help="output folder of eval or its images.json, a run folder with eval/; with "
            "--annotations: detections of any tool",
        )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="PATH",
        help="what both are scored against, as for eval --predictions",
    )
    parser.add_argument(
        "--split", default="val", metavar="NAME", help="image set of a VOC folder (default: val)"
    )
    parser.add_argument("--resamples", type=int, default=1000, help="resamples of the images")
    parser.add_argument("--seed", type=int, default=0, help="of the resamples")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the comparison as JSON")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write an HTML page with the images that differ"
    )


def run(args: argparse.Namespace) -> int:
    from resdet.detection.evaluation.paired import (
        compare_records,
        comparison_tables,
        conclusion,
        write_comparison,
    )

    expect_positive(args, "resamples")
    if args.seed < 0:
        raise ConfigError(f"--seed {args.seed}: expected at least 0")
    for path in filter(None, (args.out, args.page)):
        expect_writable(path.absolute().parent)
    first, second = _records(args)
    comparison = compare_records(first, second, resamples=args.resamples, seed=args.seed)
    say(f"first: {args.first}")
    say(f"second: {args.second}")
    console = table_console()
    for table in comparison_tables(comparison):
        console.print("", table, sep="\n")
    say("")
    for row in comparison.metrics:
        say(conclusion(row))
    if args.out:
        write_comparison(comparison, args.out)
        say(f"written: {args.out}")
    if args.page:
        _write_page(args.page, comparison, first, second)
    elif args.annotations is None:
        say_next("resdet", "compare", args.first, args.second, "--page", "comparison.html")
    return 0


def _write_page(
    path: Path, comparison: Comparison, first: ImageRecords, second: ImageRecords
) -> None:
    from resdet.datasets.image import read_image
    from resdet.detection.evaluation.compare_page import render_comparison
    from resdet.detection.files import write_file

    text = render_comparison(comparison, first, second, lambda file: read_image(file).pixels)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    say(f"open in a browser: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _records(args: argparse.Namespace) -> list[ImageRecords]:
    from resdet.detection.evaluation.detection import evaluate_columns
    from resdet.detection.evaluation.foreign_results import read_columns, read_truth
    from resdet.detection.evaluation.image_records import read_images, records_of

    paths = (args.first, args.second)
    if not args.annotations:
        return [read_images(_of_evaluation(path)) for path in paths]
    truth = read_truth(args.annotations, args.split)
    records = []
    for path in paths:
        columns = read_columns(path, truth)
        evaluation = evaluate_columns(columns, truth.classes, coco=None, files=truth.files)
        shared = evaluation.image_header()
        header = {"task": evaluation.task, "classes": truth.classes, **shared}
        records.append(records_of(path, header, evaluation.image_entries()))
    return records


def _of_evaluation(path: Path) -> Path:
    """The evaluation in a run folder; raises ConfigError for a checkpoint."""
    if path.suffix in (".pt", ".safetensors"):
        raise ConfigError(
            f"{path}: weights; `resdet eval --weights {path}` writes the folder to compare"
        )
    inside = path / "eval"
    return inside if inside.is_dir() and not (path / "images.json").exists() else path


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("compare"))

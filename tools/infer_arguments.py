"""The options of `infer`, their values, and the command that continues an interrupted run."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path

from resdet.detection.errors import ConfigError
from resdet.tools.arguments import (
    add_compile_argument,
    add_device_argument,
    add_font_argument,
    add_max_pixels_argument,
    add_weights_argument,
    place,
    positive,
    split_overrides,
)
from resdet.tools.best_scores import BEST
from resdet.tools.source_arguments import format_named

#: The minimum score, and those of single classes by name.
Scores = tuple[float | None, dict[str, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_weights_argument(parser)
    parser.add_argument(
        "inputs",
        nargs="*",
        metavar="INPUT",
        help="image, folder, glob, list (.txt); or video, number of a webcam, URL of a stream; or "
        "an override such as test.nms_iou=0.4",
    )
    parser.add_argument(
        "--out",
        type=place,
        help="new or empty output folder (default: runs/infer/<time>); of a manifest, also a URL",
    )
    parser.add_argument(
        "--conf",
        "--conf-thres",
        action="append",
        default=[],
        metavar="X|CLASS=X|best",
        help="minimum score (default: 0.5, of classifiers and localizers 0), or that of one class; "
        "may be repeated; best: those that `eval` of these weights found, of each class",
    )
    parser.add_argument("--classes", default="", metavar="A,B", help="keep only these classes")
    parser.add_argument(
        "--agnostic-nms",
        action="store_true",
        help="keep one box for one place, whatever its class: test.suppress.class_agnostic=true",
    )
    parser.add_argument("--batch-size", "--batch", type=int, default=1, help="images per batch")
    add_device_argument(parser)
    add_compile_argument(parser)
    add_font_argument(parser)
    parser.add_argument("--workers", type=int, default=2, help="reading threads; as many draw")
    add_max_pixels_argument(parser)
    parser.add_argument(
        "--timeout-per-image",
        type=float,
        metavar="SECONDS",
        help="an image that takes longer to read gets an error; each reading thread then has a "
        "process that can be ended",
    )
    parser.add_argument(
        "--draw",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write images with drawn boxes, or the best class, to OUT/drawn; not of a manifest",
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PX",
        help="look at images that are larger than this in tiles too, for small objects",
    )
    parser.add_argument(
        "--overlap",
        type=float,
        metavar="SHARE",
        help="least overlap of tiles as a share of their side (default: 0.2)",
    )
    parser.add_argument(
        "--save-crop",
        action="store_true",
        help="write the pixels of each detection to OUT/crops/CLASS",
    )
    parser.add_argument(
        "--sort-by-class",
        action="store_true",
        help="of a classifier: link (or copy) each image to OUT/sorted/CLASS of its best class",
    )
    parser.add_argument(
        "--coco-ids",
        type=Path,
        metavar="FILE",
        help="COCO file whose ids the COCO output uses: of images by file name, of classes by name",
    )
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        type=format_named("boxes"),
        metavar="FORMAT",
        help="also write OUT/annotations/FORMAT for people to correct: label_studio, cvat, "
        "labelme, voc, yolo, coco or csv; may be repeated",
    )
    parser.add_argument(
        "--page",
        action="store_true",
        help="also write OUT/page.html to look at: boxes from any score on, the least certain "
        "images first",
    )
    parser.add_argument(
        "--include-hidden",
        action="store_true",
        help="take hidden and system files of folders and globs too: ._a.jpg, .thumbnails",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="skip images that OUT already has; without INPUT, take the inputs that it had",
    )
    parser.add_argument(
        "--shard", default="1/1", metavar="I/N", help="every N-th image, from the I-th on"
    )
    parser.add_argument(
        "--every", type=int, metavar="N", help="of a video: every N-th frame (default: each)"
    )
    parser.add_argument(
        "--manifest",
        metavar="DIR|URL",
        help="in place of inputs: the images of `resdet manifest`; --shard are then its shards, "
        "and what is done is kept",
    )
    parser.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="of a manifest: this process, or a Ray cluster, that of RAY_ADDRESS if it is set",
    )
    parser.add_argument(
        "--actors",
        type=positive,
        metavar="N",
        help="processes of --engine ray (default: one for each CPU, or GPU)",
    )
    parser.add_argument(
        "--parts",
        choices=("jsonl", "parquet"),
        default="jsonl",
        help="of a manifest: the format of the results",
    )
    parser.add_argument("--strict", action="store_true", help="exit with code 5 if an image failed")


def new_folder() -> Path:
    """``runs/infer/<time>``, with a number where another run began in the same second."""
    runs, name = Path("runs") / "infer", time.strftime("%Y%m%d-%H%M%S")
    numbered = (runs / (f"{name}-{number}" if number > 1 else name) for number in count(1))
    return next(path for path in numbered if not path.exists())


def overlap(args: argparse.Namespace) -> float:
    return 0.2 if args.overlap is None else float(args.overlap)


def thresholds(words: Sequence[str], classes: Sequence[str], best: Callable[[], Scores]) -> Scores:
    """The minimum score, if given, and those of single classes, of ``0.3``, ``cat=0.6`` or both in
    one word, separated by commas. The last one counts, but for the word ``best``, which stands for
    the scores that ``best`` returns where no other is given."""
    least: float | None = None
    of_classes: dict[str, float] = {}
    found: Scores = (None, {})
    for word in words:
        parts = [word] if word.rpartition("=")[0] in classes else word.split(",")
        for part in parts:
            if part.strip() == BEST:
                found = best()
                continue
            name, equals, number = part.strip().rpartition("=")
            try:
                score = float(number)
            except ValueError:
                raise ConfigError(
                    f"--conf {word}: expected a score such as 0.3, CLASS=0.6, or {BEST}"
                ) from None
            if equals:
                of_classes[name.strip()] = score
            else:
                least = score
    return found[0] if least is None else least, found[1] | of_classes


def resume_command(args: argparse.Namespace) -> str:
    """The command that goes on; the inputs, which may be thousands, are those that the run has."""
    words = ["resdet", "infer"]
    for path in args.weights:
        words += ["--weights", str(path)]
    words += split_overrides(args.inputs)[0]
    words += ["--out", str(args.out)]
    words += [word for conf in args.conf for word in ("--conf", conf)]
    words += ["--classes", args.classes] if args.classes else []
    words += ["--batch-size", str(args.batch_size)] if args.batch_size != 1 else []
    words += ["--workers", str(args.workers)] if args.workers != 2 else []
    words += ["--max-pixels", str(args.max_pixels)] if args.max_pixels is not None else []
    seconds = args.timeout_per_image
    words += ["--timeout-per-image", f"{seconds:g}"] if seconds is not None else []
    words += ["--device", args.device] if args.device else []
    words += ["--compile", args.compile] if args.compile else []
    words += ["--trust-paths"] if args.trust_paths else []
    words += ["--coco-ids", str(args.coco_ids)] if args.coco_ids else []
    words += [] if args.draw else ["--no-draw"]
    words += ["--font", str(args.font)] if args.font else []
    words += ["--tile", str(args.tile)] if args.tile is not None else []
    words += ["--overlap", str(args.overlap)] if args.overlap is not None else []
    words += ["--agnostic-nms"] if args.agnostic_nms else []
    words += ["--save-crop"] if args.save_crop else []
    words += ["--sort-by-class"] if args.sort_by_class else []
    words += [word for each in args.format for word in ("--format", each.name)]
    words += ["--page"] if args.page else []
    words += ["--include-hidden"] if args.include_hidden else []
    words += ["--shard", args.shard] if args.shard != "1/1" else []
    words += ["--every", str(args.every)] if args.every is not None else []
    words += ["--strict"] if args.strict else []
    return shlex.join([*words, "--resume"])

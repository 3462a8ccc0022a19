"""Write one self-contained HTML page about a run: config, curves, results and detections.

resdet report runs/voc_r101
resdet report runs/voc_r101 --detections results --out page.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resdet.detection.errors import ConfigError
from resdet.detection.printing import say

HELP = "write a self-contained HTML page about a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="output folder of train-*, or of eval")
    parser.add_argument("--detections", type=Path, help="output folder of infer, with drawings")
    parser.add_argument(
        "--trust-paths",
        action="store_true",
        help="show the images that the evaluation names outside of the run and its data",
    )
    parser.add_argument("--out", type=Path, help="output file (default: RUN_DIR/report.html)")


def run(args: argparse.Namespace) -> int:
    """Write the page; raises ConfigError for a folder that is not an output folder."""
    from resdet.detection.evaluation.page import render_page
    from resdet.detection.files import write_file
    from resdet.tools.run_page import build_page

    page = build_page(args.run_dir, args.detections, trust=args.trust_paths)
    out = args.out or args.run_dir / "report.html"
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, render_page(page))
    except OSError as error:
        raise ConfigError(f"{out}: cannot be written: {error.strerror}") from error
    for note in page.notes:
        say(f"note: {note}")
    if page.headline and page.headline.value is not None:
        say(f"{page.headline.name}: {page.headline.value:.4f}")
    say(f"open in a browser: {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0

"""Memory, speed and completeness of ``infer`` on a large folder, with a kill and a resume.

    python benchmarks/folder.py [--images 20000] [--draw] [--json out.json]

The script generates N small images, one in a hundred of them bad in one of six ways. The infer
command processes them with a detector of random weights, is killed (SIGKILL) in the middle and
continued with ``--resume``. Its resident memory is sampled. At the end each image must have one
record, in order, each bad image an error, and no image may have been processed twice.
"""

from __future__ import annotations

import argparse
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from measuring import make_parser, write_json
from PIL import Image
from resdet.detection.config.files import config_from_dict
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.inference.records import RECORDS, scan
from resdet.detection.tasks.detector_network import build_detector

CLASSES = ["cat", "dog"]
#: One of so many images is bad.
BAD_EVERY = 100
#: Seconds between two memory samples.
SAMPLE_EVERY = 0.2


@dataclass
class Part:
    """One process of the run; ``samples`` are (records written, bytes of resident memory)."""

    seconds: float = 0.0
    #: Records at the start of the time measurement, which excludes importing and loading.
    first: int = 0
    last: int = 0
    exit_code: int = 0
    output: str = ""
    samples: list[tuple[int, int]] = field(default_factory=list)


def main() -> None:
    parser = make_parser(__doc__, images=2000, size=(120, 160), workers=1)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--draw", action="store_true", help="also write images with drawn boxes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        write_json(measure(Path(name), args), args)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    bad = draw_images(folder / "in", args.images, tuple(args.size))
    write_weights(folder / "best.pt")
    out = folder / "out"
    words = ["--weights", folder / "best.pt", folder / "in", "--out", out, "--conf", "0.2"]
    words += ["--batch-size", args.batch_size, "--workers", args.workers, "--device", "cpu"]
    words += [] if args.draw else ["--no-draw"]
    killed = run(words, out / RECORDS, kill_at=args.images // 2)
    resumed = run([*words, "--resume"], out / RECORDS)
    check_records(out / RECORDS, args.images, bad)
    check_processes(killed, resumed, args.images, args.batch_size)
    report = {
        "bad": len(bad),
        "killed_at": killed.last,
        "images_per_second": [
            (part.last - part.first) / part.seconds for part in (killed, resumed)
        ],
        "rss_mb": memory_over_time((killed, resumed), args.images),
    }
    print_report(report, args.images)
    return report


def draw_images(folder: Path, count: int, size: tuple[int, int]) -> set[str]:
    """Write ``count`` files and return the names of the bad ones."""
    folder.mkdir()
    random = np.random.default_rng(0)
    patterns = [encoded(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for _ in range(50)]
    bad = set()
    for number in range(count):
        data, name = patterns[number % len(patterns)], f"{number:06}.jpg"
        if number % BAD_EVERY == BAD_EVERY // 2:
            bad.add(name)
            data = spoiled(data, number // BAD_EVERY)
        (folder / name).write_bytes(data)
    return bad


def encoded(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def spoiled(data: bytes, number: int) -> bytes:
    """Content that is not an image; a truncated JPEG would be kept with a warning."""
    ways = (
        b"",
        b"<html><body>404 Not Found</body></html>",
        data[:20],
        b"\0" * len(data),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
    )
    return ways[number % len(ways)]


def write_weights(path: Path) -> None:
    """Write an untrained ResNet-18 of width 4: the network should take little time."""
    values = {
        "image": {"short_side_test": 96, "long_side_max": 160},
        "backbone": {"depth": 18, "width": 4, "norm": "batch"},
        "rpn": {"channels": 8, "anchor_sizes": [32.0], "pre_nms_test": 50, "post_nms_test": 10},
        "roi": {"pool_size": 4, "sampling_ratio": 1},
        "test": {"max_detections": 5},
    }
    config = config_from_dict(values)
    model = build_detector(config, len(CLASSES)).state_dict()
    stored = {"config": config.model_dump(mode="json"), "classes": CLASSES, "model": model}
    save_checkpoint(path, {**stored, "step": 0})


def run(words: Sequence[object], records: Path, *, kill_at: int | None = None) -> Part:
    """Run the command to its end, or until it has written ``kill_at`` records."""
    command = [sys.executable, "-m", "resdet.tools.cli", "infer", *map(str, words)]
    child = subprocess.Popen(  # noqa: S603  itself
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    part, started, counter = Part(), 0.0, LineCounter(records)
    before = counter.count()
    while child.poll() is None:
        time.sleep(SAMPLE_EVERY)
        done = counter.count()
        if done > before and not started:
            started, part.first = time.perf_counter(), done
        part.samples.append((done, resident(child.pid)))
        if kill_at is not None and done >= kill_at:
            os.kill(child.pid, signal.SIGKILL)
    part.output, _ = child.communicate()
    part.exit_code = child.returncode
    part.seconds = time.perf_counter() - started
    part.last = LineCounter(records).count()
    return part


class LineCounter:
    """Counts complete lines of a growing file, reading each byte once."""

    def __init__(self, path: Path) -> None:
        self.path, self.at, self.lines = path, 0, 0

    def count(self) -> int:
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self.at)
                new = file.read()
            self.lines += new.count(b"\n")
            self.at += len(new)
        return self.lines


def resident(pid: int) -> int:
    """Resident bytes of a process; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def check_records(path: Path, count: int, bad: set[str]) -> None:
    """Exit if a record is missing, duplicated, out of order or without its error."""
    entries = scan(path)
    names = [entry.file for entry in entries]
    if names != [f"{number:06}.jpg" for number in range(count)]:
        raise SystemExit(f"{len(names)} records, {len(set(names))} different, {count} images")
    failed = {entry.file for entry in entries if entry.error is not None}
    if failed != bad:
        raise SystemExit(f"recorded as bad: {len(failed)}, are bad: {len(bad)}")


def check_processes(killed: Part, resumed: Part, count: int, batch_size: int) -> None:
    """Exit if the second process repeated more than one unfinished batch."""
    if killed.exit_code != -signal.SIGKILL or resumed.exit_code != 0:
        raise SystemExit(f"exit codes {killed.exit_code} and {resumed.exit_code}")
    kept = killed.last - killed.last % batch_size
    if not count // 2 <= killed.last < count or f"({kept} earlier)" not in resumed.output:
        raise SystemExit(f"killed after {killed.last}, then printed: {resumed.output}")


def memory_over_time(parts: Sequence[Part], count: int) -> dict[str, float]:
    """MB at several percentages of the run, and the peak of each process before its last image.

    A process that exits accesses its libraries once more.
    """
    samples = [sample for part in parts for sample in part.samples if sample[1]]
    shares = {
        f"{share}%": next(memory for done, memory in samples if done >= count * share / 100) / 1e6
        for share in (2, 10, 25, 49, 60, 75, 90, 99)
    }
    peaks = {
        f"peak of process {number}": max(m for done, m in part.samples if done < count) / 1e6
        for number, part in enumerate(parts, start=1)
    }
    return shares | peaks


def print_report(report: dict[str, Any], count: int) -> None:
    before, after = report["images_per_second"]
    print(f"{count} images, {report['bad']} of them bad: each has one record, in order")
    print(f"killed after {report['killed_at']} records, then resumed: none lost, none repeated")
    print(f"images per second: {before:.1f} before, {after:.1f} after the restart")
    for when, megabytes in report["rss_mb"].items():
        print(f"  resident memory, {when:18s} {megabytes:7.1f} MB")


if __name__ == "__main__":
    main()

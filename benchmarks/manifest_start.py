"""Seconds and memory of the start of ``infer --manifest`` over a manifest of millions of images.

    python benchmarks/manifest_start.py [--images 10000000] [--engine local ray]

The manifest is made up: all its entries are one small image. Each engine is stopped after its first
part; the time is that until its first shard begins.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from folder import draw_images, write_weights
from measuring import make_parser, write_json
from resdet.datasets.manifests.entries import Entry, to_parquet
from resdet.datasets.manifests.manifest import Manifest, shard_name

SHARD = 2000


def main() -> None:
    parser = make_parser(__doc__, images=10_000_000)
    parser.add_argument("--engine", choices=("local", "ray"), nargs="+", default=["local", "ray"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.images)
        report = {engine: start(folder, engine) for engine in args.engine}
    print(json.dumps(report, indent=2))
    write_json(report, args)


def make(folder: Path, images: int) -> None:
    bad = draw_images(folder / "in", 2, (60, 80))
    image = str(next(path for path in (folder / "in").iterdir() if path.name not in bad))
    write_weights(folder / "best.pt")
    (folder / "m").mkdir()
    shards = -(-images // SHARD)
    for number in range(shards):
        ids = range(number * SHARD, min(images, (number + 1) * SHARD))
        entries = [Entry(image, None, "", f"2026/camera/{each:09}.jpg") for each in ids]
        (folder / "m" / shard_name(number)).write_bytes(to_parquet(entries, ids[0], {}))
    manifest = Manifest(("made up",), SHARD, False, images, shards, True, digest="0" * 64)
    (folder / "m" / "manifest.json").write_text(manifest.text())


def start(folder: Path, engine: str) -> dict[str, Any]:
    out = folder / engine
    line = [sys.executable, "-m", "resdet.tools.cli", "infer", "--weights", folder / "best.pt"]
    line += ["--manifest", folder / "m", "--out", out, "--engine", engine, "--device", "cpu"]
    begun = time.perf_counter()
    child = subprocess.Popen(  # noqa: S603  itself
        list(map(str, line)), stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    report: dict[str, Any] = {}
    while child.poll() is None and not any(out.glob("part-*")):
        time.sleep(0.05)
        if not report and any((out / "attempts").glob("*")):
            report = {"seconds": time.perf_counter() - begun, "cpu_seconds": cpu(child.pid)}
    report["peak_mb"] = peak(child.pid)
    child.send_signal(signal.SIGTERM)
    child.wait()
    return report


def cpu(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def peak(pid: int) -> float:
    (line,) = [
        each
        for each in Path(f"/proc/{pid}/status").read_text().splitlines()
        if each.startswith("VmHWM")
    ]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()

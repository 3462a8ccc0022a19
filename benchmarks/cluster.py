"""Runs over manifests: listing of millions, Ray beside one process, and kills at random.

    python benchmarks/cluster.py list [--images 10000000]
    python benchmarks/cluster.py engines [--images 2000] [--per-shard 200 2000]
    python benchmarks/cluster.py kills [--images 10000] [--engine ray] [--kills 5]

``list`` lists files that do not exist: a text list and a made-up object store of folders of 10,000,
so that time and memory are those of the listing. ``engines`` compares ``--engine ray`` with
``local`` in turns. ``kills`` reads from a server of moto on this machine, of which one image in a
hundred is missing, forbidden, damaged or fails, and others fail once or are slow; it kills workers
and the driver, starts the driver again, and compares the records with those of a folder run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from folder import draw_images, resident, write_weights
from measuring import in_turns, make_parser, ratios, spread, write_json
from resdet.datasets.manifests.manifest import read_manifest, write_manifest
from resdet.detection.inference.records import STAMP, read_records, record_line

ENGINES = ("local", "ray")
#: Images in a folder of the made-up object store.
FOLDER = 10_000


def main() -> None:
    parser = make_parser(__doc__, images=10_000, repeats=3)
    parser.add_argument("what", choices=("list", "engines", "kills"))
    parser.add_argument("--per-shard", type=int, nargs="+", default=[2000])
    parser.add_argument("--engine", choices=ENGINES, default="ray")
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    measures = {"list": listing, "engines": engines, "kills": kills}
    with tempfile.TemporaryDirectory() as name:
        report = measures[args.what](Path(name), args)
    print(json.dumps(report, indent=2))
    write_json(report, args)


# ------------------------------------------------------------------------------------- listing


def listing(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and the growth of the peak memory of each listing, and of opening its manifest."""
    import fsspec

    fsspec.register_implementation("madeup", made_up_store(args.images))
    with (folder / "list.txt").open("w") as file:
        file.writelines(f"2026/camera/{number:09}.jpg\n" for number in range(args.images))
    report = {}
    for name, source in (("list", str(folder / "list.txt")), ("folders", "madeup://store")):
        before, start = peak(), time.perf_counter()
        write_manifest([source], str(folder / name), per_shard=args.per_shard[0])
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        manifest = read_manifest(str(folder / name))
        report[name] = {
            "images": manifest.images,
            "shards": manifest.shards,
            "seconds": seconds,
            "peak_mb_before": before,
            "peak_mb_growth": peak() - before,
            "seconds_to_open": time.perf_counter() - start,
            "mb_of_files": sum(p.stat().st_size for p in (folder / name).iterdir()) / 1e6,
        }
    return report


def made_up_store(images: int) -> type:
    from fsspec import AbstractFileSystem

    class MadeUpStore(AbstractFileSystem):
        protocol = "madeup"

        def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
            here = self._strip_protocol(path).strip("/")
            if here == "store":
                names = (f"store/{number:06}" for number in range(-(-images // FOLDER)))
                return [{"name": name, "type": "directory", "size": 0} for name in names]
            first = int(here.rpartition("/")[2]) * FOLDER
            return [
                {"name": f"{here}/{n:09}.jpg", "type": "file", "size": n, "ETag": f'"{n:032x}"'}
                for n in range(first, min(first + FOLDER, images))
            ]

    return MadeUpStore


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ------------------------------------------------------------------------------------- engines


def engines(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds an image of each engine, without loading: the parts' own seconds and the command's,
    which include the start."""
    draw_images(folder / "in", args.images, (120, 160))
    write_weights(folder / "best.pt")
    report: dict[str, Any] = {}
    for per_shard in args.per_shard:
        manifest = folder / f"m{per_shard}"
        write_manifest([str(folder / "in")], str(manifest), per_shard=per_shard)
        outs: dict[str, list[Path]] = {engine: [] for engine in ENGINES}

        def run(engine: str, manifest: Path = manifest, outs: Any = outs) -> None:
            out = folder / f"{manifest.name}-{engine}-{len(outs[engine])}"
            outs[engine].append(out)
            actors = ("--actors", "1") if engine == "ray" else ()
            done = command(folder, manifest, out, "--engine", engine, *actors)
            if done.wait() != 0:
                raise SystemExit(f"{engine} ended with {done.returncode}")

        sides = {engine: lambda engine=engine: run(engine) for engine in ENGINES}
        whole = in_turns(sides, repeats=args.repeats, warmup=0)
        inside = {engine: [seconds_of(out) for out in outs[engine]] for engine in ENGINES}
        report[str(per_shard)] = {
            "command_s": {engine: spread(whole[engine]) for engine in ENGINES},
            "shards_s": {engine: spread(inside[engine]) for engine in ENGINES},
            "ray_to_local": spread(ratios(inside["ray"], inside["local"])),
            "extra_ms_an_image": [
                1e3 * (ray - local) / args.images
                for ray, local in zip(whole["ray"], whole["local"], strict=True)
            ],
        }
    return report


def seconds_of(out: Path) -> float:
    return sum(json.loads(p.read_text())["seconds"] for p in (out / "summaries").iterdir())


def command(
    folder: Path, manifest: Path, out: Path, *words: str, **environment: str
) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "resdet.tools.cli", "infer", "--weights", folder / "best.pt"]
    line += ["--manifest", manifest, "--out", out, "--conf", "0.2", "--device", "cpu", *words]
    log = (folder / "log.txt").open("a")
    return subprocess.Popen(  # noqa: S603  itself
        list(map(str, line)),
        stdout=log,
        stderr=log,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        start_new_session=True,
    )


# --------------------------------------------------------------------------------------- kills


def kills(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    from resdet.tests.object_store import ObjectStore

    chance = random.Random(args.seed)  # noqa: S311
    damaged = draw_images(folder / "in", args.images, (120, 160))
    write_weights(folder / "best.pt")
    plain = records_of_folder(folder)
    with ObjectStore() as store:
        os.environ.update(store.environment)
        source = store.upload(folder / "in", "images")
        manifest = folder / "m"
        write_manifest([source], str(manifest), per_shard=args.per_shard[0])
        bad = spoil(store, sorted({path.name for path in (folder / "in").iterdir()} - damaged))
        start = time.perf_counter()
        events, memory = run_with_kills(folder, manifest, args, chance)
        seconds = time.perf_counter() - start
    found = {}
    for path in sorted((folder / "out").glob("part-*.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            name = json.loads(line)["file"]
            if name in found:
                raise SystemExit(f"{name} has two records")
            found[name] = line
    wrong = [name for name in plain if name not in bad and found.get(name) != plain[name]]
    lost = [name for name in bad if b'"error"' not in found.get(name, b"")]
    if wrong or lost or len(found) != len(plain):
        raise SystemExit(f"{len(wrong)} records differ, {len(lost)} errors are lost: {wrong[:3]}")
    return {
        "images": len(found),
        "failed": sum(b'"error"' in line for line in found.values()),
        "events": events,
        "seconds": seconds,
        "rss_mb": memory,
        "log": (folder / "log.txt").read_text().splitlines()[-40:],
    }


def records_of_folder(folder: Path) -> dict[str, bytes]:
    line = [sys.executable, "-m", "resdet.tools.cli", "infer", "--weights", folder / "best.pt"]
    line += [folder / "in", "--out", folder / "plain", "--no-draw", "--conf", "0.2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(  # noqa: S603  itself
        [*map(str, line), "--device", "cpu"], check=True, env=environment, capture_output=True
    )
    records = read_records(folder / "plain" / "detections.jsonl")
    # Images in a store have no size and time of their file.
    return {
        record["file"]: record_line({k: v for k, v in record.items() if k not in STAMP})
        for record in records
    }


def spoil(store: Any, names: list[str]) -> set[str]:
    """Faults of one image in a hundred for good, beside those that are damaged, and of two in a
    hundred for a while; the names of the former."""
    lasting = set()
    for number in range(0, len(names), 200):
        forbidden, missing, slow, once, failing = names[number : number + 5]
        store.faults[forbidden] = (403, store.ALWAYS)
        store.client.delete_object(Bucket="images", Key=missing)
        store.faults[slow] = (3.0,)
        store.faults[once] = (503, 500)
        lasting |= {forbidden, missing}
        if number % 1000 == 0:
            store.faults[failing] = (500, store.ALWAYS)
            lasting.add(failing)
    return lasting


def run_with_kills(
    folder: Path, manifest: Path, args: argparse.Namespace, chance: random.Random
) -> tuple[list[str], dict[str, list[float]]]:
    """Run the command until it ends by itself, killing it or a worker at random times."""
    events: list[str] = []
    memory: dict[str, list[float]] = {"driver": [], "workers": []}
    left = args.kills
    child = command(folder, manifest, folder / "out", "--engine", args.engine)
    shards = read_manifest(str(manifest)).shards
    due = 0.0
    while True:
        time.sleep(0.5)
        if child.poll() is not None:
            events.append(f"driver ended with {child.returncode}")
            if child.returncode >= 0:
                return events, {name: thirds(values) for name, values in memory.items() if values}
            child = command(folder, manifest, folder / "out", "--engine", args.engine)
        workers = descendants(child.pid, "ray::ShardActor")
        memory["driver"].append(resident(child.pid) / 1e6)
        memory["workers"] += [resident(pid) / 1e6 for pid in workers[:1]]
        parts = len(list((folder / "out").glob("part-*")))
        ready = left and (workers or args.engine == "local") and time.monotonic() > due
        if ready and parts >= shards * (args.kills - left) // (args.kills + 1):
            due = time.monotonic() + chance.uniform(5, 15)
            left -= 1
            if workers and left % 2:
                victim, what = chance.choice(workers), "a worker"
            else:
                victim, what = child.pid, "the driver"
            events.append(f"killed {what} after {parts} of {shards} shards")
            os.kill(victim, signal.SIGKILL)


def thirds(values: list[float]) -> list[float]:
    """The largest value in each third of a run."""
    size = max(1, len(values) // 3)
    return [round(max(values[first : first + size]), 1) for first in range(0, 3 * size, size)]


def descendants(root: int, word: str) -> list[int]:
    """The processes below ``root`` whose command line begins with ``word``."""
    parents, lines = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
            parents[int(path.name)] = int(stat[1])
            lines[int(path.name)] = (path / "cmdline").read_text()
        except OSError:
            continue
    found = []
    for pid, line in lines.items():
        above = pid
        while above in parents and above != root:
            above = parents[above]
        if above == root and line.startswith(word):
            found.append(pid)
    return found


if __name__ == "__main__":
    main()

"""Seconds and memory of ``resdet eval --manifest`` for as many images as a run has.

    python benchmarks/score_manifest.py [--images 1000000] [--no-coco]

Manifest, results (Parquet) and objects (Parquet) are made up: an image has 5 objects of 20 classes
and 10 detections, of which half are near an object. The results are scored in another process,
whose peak memory is reported.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from measuring import make_parser, write_json
from resdet.datasets.manifests.manifest import read_entries, write_manifest
from resdet.detection.cluster.parquet import schema

CLASSES = [f"class{number:02}" for number in range(20)]
OBJECTS, FOUND, SHARD = 5, 10, 2000


def main() -> None:
    parser = make_parser(__doc__, images=1_000_000, repeats=1)
    parser.add_argument("--no-coco", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.images)
        line = [sys.executable, "-m", "resdet.tools.cli", "eval", "--manifest", folder / "m"]
        line += ["--predictions", folder / "found", "--annotations", folder / "truth.parquet"]
        line += ["--out", folder / "eval", *["--no-coco"] * args.no_coco]
        start = time.perf_counter()
        subprocess.run(list(map(str, line)), check=True, stdout=subprocess.DEVNULL)  # noqa: S603
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        metrics = json.loads((folder / "eval" / "metrics.json").read_text())
        report = {
            "images": metrics["images"],
            "detections": sum(row["detections"] for row in metrics["per_class"]),
            "voc_ap50": metrics["metrics"]["voc_ap50"],
            "seconds": time.perf_counter() - start,
            "cpu_seconds": used.ru_utime + used.ru_stime,
            "peak_mb": used.ru_maxrss / 1024,
        }
    print(json.dumps(report, indent=2))
    write_json(report, args)


def make(folder: Path, images: int) -> None:
    with (folder / "list.txt").open("w") as file:
        file.writelines(f"{number:09}.jpg\n" for number in range(images))
    manifest = write_manifest([str(folder / "list.txt")], str(folder / "m"), per_shard=SHARD)
    (folder / "found").mkdir()
    meta = {"format": "resdet detections 1", "classes": CLASSES}
    meta["manifest_sha256"] = manifest.digest
    (folder / "found" / "meta.json").write_text(json.dumps(meta))
    random = np.random.default_rng(0)
    names = np.array(CLASSES)
    columns = ("id", "label", "x1", "y1", "x2", "y2")
    kinds = [pa.int64(), pa.string(), *[pa.float64()] * 4]
    truth = pa.schema(list(zip(columns, kinds, strict=True)))
    with pq.ParquetWriter(folder / "truth.parquet", truth) as writer:
        for number in range(manifest.shards):
            files = [entry.name for entry in read_entries(str(folder / "m"), number)]
            corner = random.uniform(0, 500, (len(files), OBJECTS, 2))
            boxes = np.concatenate([corner, corner + random.uniform(10, 200, corner.shape)], axis=2)
            labels = random.integers(len(CLASSES), size=boxes.shape[:2])
            ids = np.repeat(np.arange(len(files)) + number * SHARD, OBJECTS)
            rows = [ids, names[labels.ravel()], *boxes.reshape(-1, 4).T]
            writer.write_table(pa.table(dict(zip(columns, rows, strict=True)), schema=truth))
            found = np.concatenate(
                [boxes + random.normal(0, 8, labels.shape)[..., None], boxes - 300], axis=1
            )
            write_part(folder, number, files, found, names[np.tile(labels, 2)], random)


def write_part(folder, number, files, boxes, labels, random) -> None:  # type: ignore[no-untyped-def]
    offsets = pa.array(np.arange(len(files) + 1) * FOUND, pa.int32())
    corners = pa.ListArray.from_arrays(
        pa.array(np.arange(len(files) * FOUND + 1) * 4, pa.int32()), pa.array(boxes.ravel())
    )
    rows = [pa.array(labels.ravel()), pa.array(random.random(labels.size)), corners]
    found = pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays(rows, ["label", "score", "box"])
    )
    known = {"file": pa.array(files), "detections": found}
    wanted = schema(ranks=False)
    arrays = [known.get(each.name, pa.nulls(len(files), each.type)) for each in wanted]
    table = pa.Table.from_arrays(arrays, schema=wanted)
    pq.write_table(table, folder / "found" / f"part-{number:05}.parquet", compression="zstd")


if __name__ == "__main__":
    main()

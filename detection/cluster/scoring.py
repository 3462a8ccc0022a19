"""The results of a run over a manifest, scored against annotations a shard at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...datasets.manifests.manifest import digest_of, expect_ids, read_entries, read_manifest
from ...datasets.manifests.storage import Store
from ..errors import ConfigError, DataError, first_few, one_line
from ..evaluation.columns import Columns, FoundColumns, checked, keep_classes
from ..evaluation.definitions import COCO_SIZES
from ..evaluation.operating_points import THRESHOLDS
from ..evaluation.pieces import Pieces, PiecesEvaluation
from ..evaluation.subset import chosen_labels
from ..inference.outputs import BoxOutput
from ..inference.records import META
from .results import ShardResults
from .truth import ManifestTruth, read_manifest_truth


@dataclass(frozen=True)
class ScoringJob:
    """``results`` of a run over ``manifest``, to be scored against ``annotations``, all paths or
    addresses; ``image_set`` is that of a VOC folder. Options are those of `evaluate`."""

    manifest: str
    results: str
    annotations: str
    image_set: str = "val"
    coco: bool = True
    sizes: tuple[float, float] = COCO_SIZES
    only: Callable[[Sequence[str]], Sequence[str]] = lambda classes: ()
    scores: tuple[float, ...] = THRESHOLDS


def score_manifest(
    job: ScoringJob, folder: Path, report: Callable[[int, int], None] = lambda done, all: None
) -> PiecesEvaluation:
    """Score the images with annotations; ``folder`` is an empty one for temporary files, and
    ``report(shards done, all)`` is called after each shard.

    Raises:
        ConfigError: shards without results, or results of another manifest or of no detector.
        DataError: damaged results or annotations, or annotations of other images.
    """
    manifest = read_manifest(job.manifest)
    results, classes = _results(job, manifest.shards)
    for name in ("truth", "pieces"):
        (folder / name).mkdir()
    truth = read_manifest_truth(job.annotations, job.image_set, manifest, classes, folder / "truth")
    names = truth.classes
    kept = chosen_labels(job.only(names), names)
    pieces = Pieces(folder / "pieces", [names[label] for label in kept], job.coco, job.sizes)
    for number in range(manifest.shards):
        if not manifest.digest:  # of another program
            expect_ids(job.manifest, number, number * manifest.per_shard)
        columns, ranks = _shard(job, results, truth, number)
        pieces.add(columns if len(kept) == len(names) else keep_classes(columns, kept), ranks)
        report(number + 1, manifest.shards)
    truth.expect_all_seen(pieces.images)
    found = pieces.evaluation(job.scores)
    if left := manifest.images - found.images:
        note = f"{left} of {manifest.images} images of the manifest without annotations: left out"
        found = replace(found, notes=(*found.notes, note))
    return found


def _results(job: ScoringJob, shards: int) -> tuple[ShardResults, list[str]]:
    """The results, and the classes of their model."""
    store = Store(job.results)
    try:
        meta = json.loads(store.read(META))
        written, classes = meta["format"], list(map(str, meta["classes"]))
    except FileNotFoundError as error:
        raise ConfigError(f"{store.address(META)}: no such file; not results of infer") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{store.address(META)}: damaged: {error}") from error
    if written != BoxOutput.format:
        raise ConfigError(f"{job.results}: results of no detector, but {written!r}")
    if meta.get("manifest_sha256") != digest_of(job.manifest):
        raise ConfigError(f"{job.results}: are not of {job.manifest}, or of its former images")
    kinds = [ShardResults(store, kind) for kind in ("jsonl", "parquet")]
    results = max(kinds, key=lambda each: len(each.done()))
    if missing := sorted(set(range(shards)) - results.done()):
        raise ConfigError(
            f"{job.results}: no results of {len(missing)} of {shards} shards, the first "
            f"{first_few(map(str, missing), 3)}; `resdet infer --manifest` makes them"
        )
    return results, classes


def _shard(
    job: ScoringJob, results: ShardResults, truth: ManifestTruth, number: int
) -> tuple[Columns, Any]:
    """The images with annotations of a shard, and their ranks."""
    names = [entry.name for entry in read_entries(job.manifest, number)]
    places, ranks, objects = truth.shard(number, names)
    place = results.store.address(results.part(number))
    content = results.store.read(results.part(number))
    labels = _Labels({name: label for label, name in enumerate(truth.classes)})
    try:
        read = _from_lines if results.parts == "jsonl" else _from_parquet
        files, found = read(content, labels)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{place}: cannot be used: {one_line(error)}") from error
    if files != names:
        raise DataError(f"{place}: its images are not those of the manifest")
    number_of = np.full(len(names), -1, dtype=np.int64)
    number_of[places] = np.arange(len(places))
    images = number_of[found.images]
    kept = images >= 0
    found = FoundColumns(found.boxes[kept], found.labels[kept], images[kept], found.scores[kept])
    ids = tuple(names[each] for each in places)
    return checked(Columns(ids, len(labels), objects, found)), ranks


class _Labels(dict[str, int]):
    def __missing__(self, name: object) -> int:
        raise ValueError(f"the annotations have no class {name!r:.80}")


def _from_lines(content: bytes, labels: Mapping[str, int]) -> tuple[list[str], FoundColumns]:
    files: list[str] = []
    rows: list[tuple[int, int, float, Sequence[float]]] = []
    for image, line in enumerate(content.splitlines()):
        record = json.loads(line)
        files.append(record["file"])
        rows += [
            (image, labels[each["label"]], each["score"], each["box"])
            for each in record.get("detections", ())
        ]
    return files, FoundColumns(
        boxes=np.array([row[3] for row in rows], dtype=np.float64).reshape(len(rows), 4),
        labels=np.array([row[1] for row in rows], dtype=np.int64),
        images=np.array([row[0] for row in rows], dtype=np.int64),
        scores=np.array([row[2] for row in rows], dtype=np.float64),
    )


def _from_parquet(content: bytes, labels: Mapping[str, int]) -> tuple[list[str], FoundColumns]:
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(io.BytesIO(content), columns=["file", "detections"])
    lists = table.column("detections").combine_chunks()
    rows = lists.flatten()
    counts = pc.list_value_length(lists).fill_null(0).to_numpy()
    known = rows.field("label").dictionary_encode()
    of_name = np.array([labels[name] for name in known.dictionary.to_pylist()], dtype=np.int64)
    return table.column("file").to_pylist(), FoundColumns(
        boxes=rows.field("box").flatten().to_numpy().reshape(len(rows), 4),
        labels=of_name[known.indices.to_numpy()] if len(rows) else np.zeros(0, dtype=np.int64),
        images=np.repeat(np.arange(len(counts)), counts),
        scores=rows.field("score").to_numpy(),
    )

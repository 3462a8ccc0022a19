"""Runs over manifests with every kind of model: the records of a folder run, in both engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.manifests.manifest import write_manifest
from resdet.detection.cluster.job import ModelArguments, ShardJob
from resdet.detection.cluster.run import Engine, run_manifest
from resdet.detection.cluster.scoring import ScoringJob, score_manifest
from resdet.detection.errors import ConfigError
from resdet.detection.inference.folder import run_folder
from resdet.detection.inference.inputs import find_inputs
from resdet.detection.inference.options import FolderOptions
from resdet.tests.detection.export.untrained import write

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")

#: {kind: fixture of the weights, overrides}.
MODELS = {
    "exported detector": ("exported", ()),
    "detector in two graphs": ("parts", ()),
    "classifier": ("classification", ()),
    "exported classifier": ("exported_classifier", ()),
    "localizer": ("localization", ("test.classifiers=[{classification}]",)),
    "exported localizer": ("exported_localizer", ("test.classifiers=[{exported_classifier}]",)),
}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven images, one of them damaged."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(7):
        pixels = random.integers(0, 256, (70 + number % 2, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    (folder / "4.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def classification(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("classification", tmp_path_factory.mktemp("cls") / "cls.pt")


@pytest.fixture(scope="module")
def localization(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write("localization", tmp_path_factory.mktemp("loc") / "loc.pt")


@pytest.fixture
def exported_classifier(files: dict[str, tuple[Path, Path]]) -> Path:
    return files["classification"][1]


@pytest.fixture
def exported_localizer(files: dict[str, tuple[Path, Path]]) -> Path:
    return files["localization"][1]


@pytest.fixture(scope="module")
def cluster() -> Any:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize("kind", MODELS)
def test_a_model_over_a_manifest(
    kind: str, engine: Engine, images: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if engine == "ray":
        request.getfixturevalue("cluster")
    name, overrides = MODELS[kind]
    weights: Path = request.getfixturevalue(name)
    if overrides:
        other = overrides[0].partition("{")[2].partition("}")[0]
        overrides = (overrides[0].format(**{other: request.getfixturevalue(other)}),)
    model = ModelArguments((weights,), "cpu", overrides)
    predictor, options = model.load(), FolderOptions(score_threshold=0.0, draw=False)
    run_folder(predictor, find_inputs([images]), tmp_path / "plain", options)
    (path,) = (tmp_path / "plain").glob("*.jsonl")
    plain = path.read_bytes().splitlines(keepends=True)
    write_manifest([str(images)], str(tmp_path / "m"), per_shard=3)
    found = {}
    for parts in ("jsonl", "parquet"):
        out = str(tmp_path / parts)
        job = ShardJob(str(tmp_path / "m"), out, model, options, parts)  # type: ignore[arg-type]  # a literal
        summary = run_manifest(job, predictor, engine=engine)
        assert (summary.images, summary.failed, summary.interrupted) == (7, 1, False)
        found[parts] = sorted((tmp_path / parts).glob("part-*"))
    assert b"".join(part.read_bytes() for part in found["jsonl"]) == b"".join(plain)
    rows = [row for part in found["parquet"] for row in pq.read_table(part).to_pylist()]
    assert [{k: v for k, v in row.items() if v is not None} for row in rows] == [
        json.loads(line) for line in plain
    ]
    assert sum(b'"score"' in line for line in plain) == 6


def test_labels_are_not_scored_as_detections(
    classification: Path, images: Path, tmp_path: Path
) -> None:
    model = ModelArguments((classification,), "cpu")
    write_manifest([str(images)], str(tmp_path / "m"), per_shard=9)
    options = FolderOptions(score_threshold=0.0, draw=False)
    job = ShardJob(str(tmp_path / "m"), str(tmp_path / "out"), model, options)
    run_manifest(job, model.load())
    scoring = ScoringJob(job.manifest, job.out, "truth.csv")
    with pytest.raises(ConfigError, match="results of no detector, but 'resdet classes 1'"):
        score_manifest(scoring, tmp_path / "pieces")

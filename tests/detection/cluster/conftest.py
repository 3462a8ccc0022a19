"""A small model, images of which some are bad, and the records of a plain run over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resdet.detection.cluster.job import ModelArguments, ShardJob
from resdet.detection.inference.folder import run_folder
from resdet.detection.inference.inputs import find_inputs
from resdet.detection.inference.options import FolderOptions
from resdet.detection.inference.predictor import Predictor


@pytest.fixture(scope="session")
def model(tiny_run: Path) -> ModelArguments:
    return ModelArguments((tiny_run / "weights" / "best.pt",), "cpu")


@pytest.fixture(scope="session")
def predictor(model: ModelArguments) -> Predictor[Any]:
    return model.load()


@pytest.fixture(scope="session")
def options() -> FolderOptions:
    return FolderOptions(score_threshold=0.1, draw=False)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in five folders; of the bad ones, one is empty, one is text and one is cut."""
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for number in range(60):
        path = folder / f"day{number % 5}" / f"{number:03}.{'png' if number % 3 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        pixels = random.integers(0, 256, (48 + number % 2, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (folder / "day0" / "005.png").write_bytes(b"")
    (folder / "day1" / "011.png").write_text("no image")
    whole = folder / "day2" / "012.jpg"
    whole.write_bytes(whole.read_bytes()[:900])
    return folder


@pytest.fixture(scope="session")
def plain(
    predictor: Predictor[Any],
    options: FolderOptions,
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, bytes]:
    """The line of each image in the results of a folder run."""
    out = tmp_path_factory.mktemp("plain")
    run_folder(predictor, find_inputs([images]), out, options)
    return by_name((out / "detections.jsonl").read_bytes())


def by_name(content: bytes) -> dict[str, bytes]:
    lines = content.splitlines(keepends=True)
    found = {line.split(b'"')[3].decode(): line for line in lines}
    assert len(found) == len(lines)
    return found


@pytest.fixture
def job(
    model: ModelArguments, options: FolderOptions, images: Path, tmp_path: Path
) -> Callable[..., ShardJob]:
    """``job(SOURCE...)``: a run over a manifest of them with 12 images a shard."""
    from resdet.datasets.manifests.manifest import write_manifest

    def make(*sources: object, out: object = None, **changes: Any) -> ShardJob:
        inputs = [str(each) for each in sources or (images,)]
        write_manifest(inputs, str(tmp_path / "m"), per_shard=12)
        place = str(out or tmp_path / "out")
        return ShardJob(
            str(tmp_path / "m"), place, model, replace(options, **changes), parts="jsonl"
        )

    return make

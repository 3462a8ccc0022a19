"""Shards in object storage give the batches of those on a disk, also when the storage fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.datasets.catalog import DataSplit
from resdet.datasets.loading.crops import PaperCrop
from resdet.datasets.manifests import storage
from resdet.datasets.shards.index import ShardSet, read_shards
from resdet.datasets.shards.plan import StreamPlan
from resdet.datasets.shards.reader import ShardSource
from resdet.datasets.shards.stream import ShardTrainLoader
from resdet.datasets.shards.write import plan_shards, write_shards
from resdet.detection.config.files import check_dict
from resdet.detection.config.paths import opened_paths
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.structures import Record
from resdet.detection.tasks.registry import TASKS

pytest.importorskip("webdataset", reason="needs the extra: pip install 'resdet[shards]'")


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Three shards of noise."""
    folder, records = tmp_path_factory.mktemp("shards"), []
    for index in range(26):
        path = folder / f"{index}.bmp"
        pixels = np.random.default_rng(index).integers(0, 256, (160, 200, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        records.append(Record(f"{index}.bmp", path, (160, 200), image_label=index % 2))
    split = DataSplit(tuple(records), ("ant", "cat"))
    write_shards(plan_shards(split, max_bytes=2**20), folder / "train")
    return read_shards(folder / "train")


@pytest.fixture
def remote(local: ShardSet, object_store: Any, monkeypatch: pytest.MonkeyPatch) -> ShardSet:
    monkeypatch.setattr(storage, "DELAYS", (0.01, 0.01))
    monkeypatch.setattr(storage, "_BLOCK", 2**17)
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    object_store.faults.clear()
    object_store.reads.clear()
    try:
        address = object_store.upload(Path(local.folder), "shards", "train/")
    except object_store.client.exceptions.BucketAlreadyOwnedByYou:
        address = "s3://shards/train"
    return read_shards(address)


def batches(shards: ShardSet, steps: range, workers: int = 0) -> list[tuple[Any, ...]]:
    plan = StreamPlan(tuple(map(len, shards.shards)), batch_size=4, seed=5, lanes=2, buffer=3)
    source = ShardSource(shards, [PaperCrop((24, 28), 24)])
    loader = ShardTrainLoader(source, plan, steps, workers=workers)
    return [(batch.images, batch.labels, batch.image_ids, batch.seeds) for batch in loader]


def test_a_stream_from_its_middle_with_faults(
    local: ShardSet, remote: ShardSet, object_store: Any
) -> None:
    """Workers are forks of this process, which has read the index."""
    names = [shard.name for shard in local.shards]
    object_store.faults = {
        names[0]: (503, None, object_store.CUT, object_store.CUT),
        names[1]: (500, 0.05),
    }
    expected = batches(local, range(9))  # of 7 steps an epoch
    for found, start, workers in ((batches(remote, range(9)), 0, 0), *_resumed(remote)):
        assert len(found) == 9 - start
        for (images, labels, *ids), (wanted, true, *others) in zip(
            found, expected[start:], strict=True
        ):
            assert torch.equal(images, wanted) and torch.equal(labels, true), workers
            assert ids == others
    assert object_store.reads[f"/shards/train/{names[0]}"] > 10


def _resumed(remote: ShardSet) -> list[tuple[list[Any], int, int]]:
    return [(batches(remote, range(4, 9), workers), 4, workers) for workers in (0, 2)]


def test_what_lasts_is_named(local: ShardSet, remote: ShardSet, object_store: Any) -> None:
    name = local.shards[1].name
    object_store.faults = {name: (403, object_store.ALWAYS)}
    with pytest.raises(DataError, match=rf"s3://shards/train/{name}: access denied"):
        batches(remote, range(9))
    object_store.client.delete_object(Bucket="shards", Key=f"train/{name}")
    with pytest.raises(DataError, match=rf"s3://shards/train/{name}: the shard is missing"):
        read_shards("s3://shards/train")
    object_store.client.put_object(Bucket="shards", Key=f"train/{name}", Body=b"short")
    with pytest.raises(DataError, match=r"has 5 bytes, index\.jsonl says"):
        read_shards("s3://shards/train")
    with pytest.raises(DataError, match=r"s3://shards/other/index\.jsonl: no such file"):
        read_shards("s3://shards/other")


def test_the_place_in_a_config() -> None:
    """An address is a path that a stranger's checkpoint may name: see `named_paths`."""
    task = TASKS["classification"]

    def source(**place: str) -> Any:
        tree = {"task": task.name, "data": {"source": {"format": "shards", **place}}}
        return check_dict(task.schema, tree, "config")

    config = source(url="s3://bucket/shards")
    assert list(opened_paths(config)) == ["data.source.url"]
    assert config.data.source.place("val") == "s3://bucket/shards/val"
    for place, message in (
        ({}, "shards have a root or a url"),
        ({"root": "a", "url": "s3://b"}, "shards have a root or a url"),
        ({"url": "bucket"}, "expected an address such as s3://bucket/shards: 'bucket'"),
    ):
        with pytest.raises(ConfigError, match=message):
            source(**place)

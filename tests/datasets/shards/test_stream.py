"""Shards are what webdataset reads, and their stream is the same whoever reads it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.datasets.catalog import DataSplit
from resdet.datasets.image import ImageRules
from resdet.datasets.loading.crops import CentreCrop, FullImage, PaperCrop, TenCrop
from resdet.datasets.loading.dataset import ClassificationDataset, eval_loader
from resdet.datasets.shards.index import INDEX, ShardSet, read_shards
from resdet.datasets.shards.plan import Segment, StreamPlan
from resdet.datasets.shards.reader import ShardSource
from resdet.datasets.shards.stream import ShardEvalLoader, ShardTrainLoader
from resdet.datasets.shards.write import plan_shards, verify_shards, write_shards
from resdet.detection.errors import ConfigError, DataError, ImageError
from resdet.detection.files import part_of
from resdet.detection.structures import Batch, Record

wds = pytest.importorskip("webdataset", reason="needs the extra: pip install 'resdet[shards]'")

CLASSES = ("ant", "cat", "dog")
CROP = PaperCrop((24, 28), 24)
COUNT = 26


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> DataSplit:
    """Noise as BMP of 150 kB, six to a shard of a megabyte, so that there are five shards."""
    folder = tmp_path_factory.mktemp("images")
    records = []
    for index in range(COUNT):
        size = (200, 250) if index % 4 else (250, 200)
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        path = folder / f"{index}.bmp"
        Image.fromarray(pixels).save(path)
        image_id = f"{CLASSES[index % 3]}/a.b {index}.bmp"
        records.append(Record(image_id, path, size, image_label=index % 3))
    return DataSplit(tuple(records), CLASSES)


@pytest.fixture(scope="module")
def shards(split: DataSplit, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    folder = tmp_path_factory.mktemp("shards") / "train"
    write_shards(plan_shards(split, max_bytes=2**20), folder)
    return read_shards(folder)


def copied(shards: ShardSet, folder: Path) -> Path:
    for path in Path(shards.folder).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def stream(shards: ShardSet, **options: object) -> ShardTrainLoader:
    plan = StreamPlan(tuple(map(len, shards.shards)), batch_size=8, seed=5, lanes=4, buffer=3)
    steps = range(int(str(options.pop("start_step", 0))), int(str(options.pop("steps", 9))))
    return ShardTrainLoader(ShardSource(shards, [CROP]), plan, steps, **options)  # type: ignore[arg-type]  # options


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert len(first) == len(second) > 0
    for one, two in zip(first, second, strict=True):
        assert one.image_ids == two.image_ids and one.seeds == two.seeds
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)


# -------------------------------------------------------------------------------------- writing


def test_webdataset_reads_them(split: DataSplit, shards: ShardSet) -> None:
    paths = sorted(map(str, Path(shards.folder).glob("*.tar")))
    assert len(paths) == len(shards.shards) == 5
    assert all(Path(path).stat().st_size <= 2**20 for path in paths)
    found = {s["__key__"]: s for s in wds.WebDataset(paths, shardshuffle=False, empty_check=False)}
    assert len(found) == COUNT
    for record in split.records:
        sample = found[record.image_id.removesuffix(".bmp").replace(".", "_").replace(" ", "_")]
        assert sample["bmp"] == record.path.read_bytes()
        assert int(sample["cls"]) == record.image_label


def test_a_random_order_that_is_always_the_same(
    split: DataSplit, shards: ShardSet, tmp_path: Path
) -> None:
    write_shards(plan_shards(split, max_bytes=2**20), tmp_path)
    names = [INDEX, *(shard.name for shard in shards.shards)]
    assert sorted(names) == sorted(path.name for path in tmp_path.iterdir())
    for name in names:
        assert (tmp_path / name).read_bytes() == Path(shards.folder, name).read_bytes()
    labels = [label for shard in shards.shards for label in shard.labels]
    assert labels != sorted(labels) and Counter(labels) == {0: 9, 1: 9, 2: 8}
    other = plan_shards(split, max_bytes=2**20, seed=1)
    assert [entry.key for entry in other.shards[0]] != list(shards.shards[0].keys)


def test_names_that_webdataset_would_misread(tmp_path: Path) -> None:
    names = ["__a__/x.jpg", "b.c/d.e.jpg", "b.c/d_e.jpg", "é/ü.JPEG", ".jpg", "k" * 200 + ".jpg"]
    records = []
    for number, name in enumerate(names):
        path = tmp_path / f"{number}.jpg"
        Image.new("RGB", (20, 20), (number, 0, 0)).save(path, "PNG")
        records.append(Record(name, path, (20, 20), image_label=0))
    out = tmp_path / "out"
    write_shards(plan_shards(DataSplit(tuple(records), ("a",)), max_bytes=2**20), out)
    shards = read_shards(out)
    whole = list(ShardSource(shards, [CROP]).read(Segment(0, 0, len(names))))
    assert len({packed.key for packed in whole}) == len(names)
    assert {"b_c/d_e", "b_c/d_e-2"} <= {packed.key for packed in whole}
    assert {packed.content for packed in whole} == {r.path.read_bytes() for r in records}


def test_a_second_run_continues(split: DataSplit, shards: ShardSet, tmp_path: Path) -> None:
    plan = plan_shards(split, max_bytes=2**20)
    copied(shards, tmp_path)
    index = (tmp_path / INDEX).read_text().splitlines(keepends=True)
    (tmp_path / INDEX).write_text("".join(index[:3]) + index[3][:40])  # cut off while noting it
    (tmp_path / "000004.tar").unlink()
    part_of(tmp_path / "000003.tar").write_bytes(b"half")
    with pytest.raises(DataError, match=r"index\.jsonl: 2 of 5 shards are written"):
        read_shards(tmp_path)
    written = []
    assert write_shards(plan, tmp_path, report=lambda shard: written.append(shard.name)) == 2
    assert written == ["000002.tar", "000003.tar", "000004.tar"]
    assert read_shards(tmp_path).shards == shards.shards
    assert list(verify_shards(tmp_path, shards.shards)) == list(shards.shards)
    assert not list(tmp_path.glob("*part"))
    assert write_shards(plan, tmp_path) == 5
    (tmp_path / "000001.tar").unlink()  # noted, but the disk lost it
    assert write_shards(plan, tmp_path) == 1


def test_other_images_do_not_mix(split: DataSplit, shards: ShardSet, tmp_path: Path) -> None:
    copied(shards, tmp_path)
    fewer = DataSplit(split.records[:-1], split.classes)
    with pytest.raises(DataError, match="is of other images"):
        write_shards(plan_shards(fewer, max_bytes=2**20), tmp_path)
    (tmp_path / INDEX).unlink()
    with pytest.raises(DataError, match=r"has tar files but no index\.jsonl"):
        write_shards(plan_shards(split, max_bytes=2**20), tmp_path)


def test_an_image_that_changes_meanwhile(split: DataSplit, tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    path.write_bytes(split.records[0].path.read_bytes())
    plan = plan_shards(DataSplit((replace(split.records[0], path=path),), CLASSES), max_bytes=2**20)
    path.write_bytes(b"short")
    with pytest.raises(DataError, match=r"a\.bmp: has changed"):
        write_shards(plan, tmp_path / "out")
    assert [each.name for each in (tmp_path / "out").iterdir()] == [INDEX]


def test_an_image_that_is_too_large_or_a_pipe(tmp_path: Path) -> None:
    path = tmp_path / "a.bmp"
    path.touch()
    os.truncate(path, 512 * 2**20 + 1)
    large = DataSplit((Record("a.bmp", path, (9, 9), image_label=0),), CLASSES)
    with pytest.raises(DataError, match=r"a\.bmp: larger than 512 MB"):
        write_shards(plan_shards(large, max_bytes=2**20), tmp_path / "large")
    os.mkfifo(tmp_path / "pipe")
    piped = DataSplit((Record("a.bmp", tmp_path / "pipe", (9, 9), image_label=0),), CLASSES)
    with pytest.raises(DataError, match="pipe: not a regular file"):
        write_shards(plan_shards(piped, max_bytes=2**20), tmp_path / "piped")


def test_nothing_to_write(split: DataSplit) -> None:
    with pytest.raises(DataError, match="no images"):
        plan_shards(DataSplit((), CLASSES), max_bytes=2**20)
    with pytest.raises(ConfigError, match="at least a megabyte"):
        plan_shards(split, max_bytes=1000)
    gone = replace(split.records[0], path=Path("gone.jpg"))
    with pytest.raises(DataError, match=r"gone\.jpg: No such file"):
        plan_shards(DataSplit((gone,), CLASSES), max_bytes=2**20)


# ------------------------------------------------------------------------------------- the index


def test_records_of_shards(split: DataSplit, shards: ShardSet) -> None:
    made = shards.split()
    assert made.classes == CLASSES and len(made.records) == len(shards) == COUNT
    assert Counter(record.image_label for record in made.records) == {0: 9, 1: 9, 2: 8}
    assert {record.path.name for record in made.records} == {s.name for s in shards.shards}


def test_classes_in_another_order(shards: ShardSet) -> None:
    renumbered = read_shards(shards.folder, classes=("dog", "emu", "cat", "ant"))
    labels = [label for shard in renumbered.shards for label in shard.labels]
    assert Counter(labels) == {3: 9, 2: 9, 0: 8}
    for packed in ShardSource(renumbered, [CROP]).read(Segment(0, 0, 3)):
        assert renumbered.classes[packed.label] == packed.key.partition("/")[0]
    with pytest.raises(DataError, match=r"1 classes that training lacks: 'dog'$"):
        read_shards(shards.folder, classes=("ant", "cat"))


def test_an_unknown_class_has_one_line(shards: ShardSet, tmp_path: Path) -> None:
    copy = copied(shards, tmp_path)
    text = (copy / INDEX).read_text()
    (copy / INDEX).write_text(text.replace('"dog"', r'"d\nog"'))
    with pytest.raises(DataError, match=r"training lacks: 'd\\nog'$"):
        read_shards(str(copy), classes=("ant", "cat"))


def shortened(folder: Path) -> None:
    path = folder / "000002.tar"
    path.write_bytes(path.read_bytes()[:-512])


def evil(folder: Path) -> None:
    path = folder / INDEX
    path.write_text(path.read_text().replace("000002.tar", "pipe:touch /tmp/evil.tar"))


def unlabelled(folder: Path) -> None:
    path = folder / INDEX
    first, second, *rest = path.read_text().splitlines(keepends=True)
    line = json.loads(second)
    line["labels"][0] = 3
    path.write_text("".join([first, json.dumps(line) + "\n", *rest]))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (shortened, r"000002\.tar: has \d+ bytes, index\.jsonl says \d+"),
        (lambda folder: (folder / "000002.tar").unlink(), r"000002\.tar: the shard is missing"),
        (evil, r"index\.jsonl: line 4: not a shard's name"),
        (unlabelled, r"index\.jsonl: line 2: not a shard's name"),
        (lambda folder: (folder / INDEX).unlink(), r"index\.jsonl: no such file"),
        (lambda folder: (folder / INDEX).write_text(""), r"index\.jsonl: is empty"),
        (lambda folder: (folder / INDEX).write_text("[1]\n"), r"line 1: expected an object"),
        (lambda folder: (folder / INDEX).write_text("{\n"), r"line 1: not JSON"),
        (lambda folder: (folder / INDEX).write_text("{}\n"), r"line 1: expected format"),
    ],
)
def test_damaged_folders(
    shards: ShardSet, tmp_path: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(copied(shards, tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        read_shards(tmp_path)
    assert "\n" not in str(caught.value)


def test_contents_that_changed(shards: ShardSet, tmp_path: Path) -> None:
    path = copied(shards, tmp_path) / "000001.tar"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    damaged = read_shards(tmp_path)
    with pytest.raises(DataError, match=r"000001\.tar: its contents are not those"):
        list(verify_shards(tmp_path, damaged.shards))
    path.write_bytes(b"\0" * len(content))
    with pytest.raises(DataError, match=r"000001\.tar: "):
        list(ShardEvalLoader(ShardSource(damaged, [CROP]), batch_size=4))


# ------------------------------------------------------------------------------------- training


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker")
def test_workers_and_restarts_change_nothing(shards: ShardSet) -> None:
    whole = list(stream(shards))
    assert_same(whole, list(stream(shards, workers=3)))
    for step in (1, 4, 6):  # epochs have four steps: in the middle, at the edge, in the next
        assert_same(whole[step:], list(stream(shards, start_step=step, workers=step % 3)))
    assert whole[0].images.shape == (8, 3, 24, 24)
    assert whole[0].images.is_contiguous(memory_format=torch.channels_last)


def test_processes_and_accumulation_share_the_batch(shards: ShardSet) -> None:
    whole = list(stream(shards, steps=5))
    halves = [list(stream(shards, steps=5, rank=rank, world=2)) for rank in (0, 1)]
    parts = list(stream(shards, steps=5, accumulate=4, workers=2))
    assert len(stream(shards, steps=5, accumulate=4)) == len(parts) == 20
    for step, batch in enumerate(whole):
        for pieces in ([half[step] for half in halves], parts[4 * step : 4 * step + 4]):
            assert torch.equal(batch.images, torch.cat([piece.images for piece in pieces]))
            assert batch.image_ids == [name for piece in pieces for name in piece.image_ids]
            assert batch.seeds == [seed for piece in pieces for seed in piece.seeds]


def test_every_image_in_every_epoch(shards: ShardSet) -> None:
    batches = list(stream(shards, steps=8))
    for epoch in (batches[:4], batches[4:]):
        seen = Counter(name for batch in epoch for name in batch.image_ids)
        assert len(seen) == COUNT and seen.total() == 32
    labels = {record.image_id: record.image_label for record in shards.split().records}
    for batch in batches:
        assert batch.labels.tolist() == [labels[name] for name in batch.image_ids]
    orders = [[name for batch in e for name in batch.image_ids] for e in (batches[:4], batches[4:])]
    assert orders[0] != orders[1]
    assert len({seed for batch in batches for seed in batch.seeds}) == 2 * COUNT


def test_a_truncated_image_follows_the_rules(split: DataSplit, tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    records = []
    for number, record in enumerate(split.records[:6]):
        path = images / f"{number}.jpg"
        Image.open(record.path).resize((60, 60)).save(path, quality=95)
        records.append(replace(record, image_id=f"{number}.jpg", path=path))
    content = records[2].path.read_bytes()
    records[2].path.write_bytes(content[: len(content) // 2].rstrip(b"\xff"))
    write_shards(plan_shards(DataSplit(tuple(records), CLASSES), max_bytes=2**20), tmp_path / "out")
    shards = read_shards(tmp_path / "out")
    plan = StreamPlan((6,), batch_size=2, seed=0, lanes=2, buffer=2)
    with pytest.raises(ImageError, match=r"000000\.tar: 2\.jpg: truncated"):
        list(ShardTrainLoader(ShardSource(shards, [CROP]), plan, range(3)))
    skipping = ShardSource(shards, [CROP], ImageRules(on_truncated="skip"))
    batches = list(ShardTrainLoader(skipping, plan, range(9)))
    skipped = {line for batch in batches for line in batch.skipped}
    assert len(skipped) == 1 and "2.jpg: truncated" in skipped.pop()
    seen = [name for batch in batches for name in batch.image_ids]
    assert len(seen) == 18 and set(seen) == {"0", "1", "3", "4", "5"}
    tail = list(ShardTrainLoader(skipping, plan, range(4, 9)))
    assert_same(batches[4:], tail)
    with pytest.warns(UserWarning, match="left out"):
        tested = list(ShardEvalLoader(skipping, batch_size=4))
    assert sum(map(len, tested)) == 5


def test_what_cannot_be_divided(shards: ShardSet) -> None:
    with pytest.raises(ConfigError, match="4 lanes of the stream cannot be divided among 3"):
        stream(shards, world=3)
    with pytest.raises(ConfigError, match=r"2 process\(es\) x 3 accumulation"):
        stream(shards, world=2, accumulate=3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_one_line(shards: ShardSet, tmp_path: Path, workers: int) -> None:
    for shard in shards.shards:
        path = copied(shards, tmp_path) / shard.name
        path.write_bytes(b"\0" * 1536 + path.read_bytes()[1536:])
    with pytest.raises(DataError, match=r"0000\d\d\.tar: ") as caught:
        list(stream(read_shards(tmp_path), workers=workers))
    assert "\n" not in str(caught.value) and "Traceback" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sparse", "compressed"])
def test_a_small_shard_does_not_ask_for_much_memory(
    shards: ShardSet, tmp_path: Path, kind: str
) -> None:
    """A file of a tar may have holes, which take no space in it, and a tar may be compressed."""
    first = shards.shards[0]
    path = tmp_path / first.name
    if kind == "sparse":
        (tmp_path / "a.bmp").touch()
        os.truncate(tmp_path / "a.bmp", 513 * 2**20)
        subprocess.run(["tar", "-Scf", path, "a.bmp"], cwd=tmp_path, check=True)  # noqa: S607
    else:
        path.write_bytes(gzip.compress((Path(shards.folder) / first.name).read_bytes()))
    small = replace(first, size=path.stat().st_size)
    assert small.size < first.size
    source = ShardSource(ShardSet(str(tmp_path), CLASSES, (small,)), [CROP])
    reason = r"a\.bmp: larger than 512 MB" if kind == "sparse" else "cannot be read as a tar file"
    with pytest.raises(DataError, match=rf"{first.name}: {reason}"):
        list(source.read(Segment(0, 0, 1)))


# -------------------------------------------------------------------------------------- testing


def test_evaluation_reads_the_same_pixels_as_folders(split: DataSplit, shards: ShardSet) -> None:
    crops = (CentreCrop(28, 24), TenCrop(28, 24))
    dataset = ClassificationDataset(split.records, *crops)
    expected = {
        name.removesuffix(".bmp").replace(".", "_").replace(" ", "_"): (batch, place)
        for batch in eval_loader(dataset, batch_size=5, workers=0)
        for place, name in enumerate(batch.image_ids)
    }
    shares = [
        ShardEvalLoader(ShardSource(shards, crops), batch_size=4, workers=rank, rank=rank, world=2)
        for rank in (0, 1)
    ]
    seen = 0
    for share in shares:
        batches = list(share)
        assert len(batches) == len(share)
        for batch in batches:
            for place, name in enumerate(batch.image_ids):
                other, there = expected[name]
                assert torch.equal(batch.images[place], other.images[there])
                assert torch.equal(batch.views[9].images[place], other.views[9].images[there])
                assert batch.labels[place] == other.labels[there]
                seen += 1
    assert seen == COUNT


def test_whole_images_are_alone(shards: ShardSet) -> None:
    batches = list(ShardEvalLoader(ShardSource(shards, [FullImage(24)]), batch_size=4))
    assert [len(batch) for batch in batches] == [1] * COUNT
    assert {tuple(batch.images.shape[2:]) for batch in batches} == {(24, 30), (30, 24)}


def test_without_webdataset(shards: ShardSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "webdataset", None)
    with pytest.raises(ConfigError, match=r"pip install 'resdet\[shards\]'"):
        stream(shards)

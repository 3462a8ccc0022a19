"""The cache of records gives what reading would, and reads again whenever that may differ."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from resdet.datasets import record_cache
from resdet.datasets.catalog import DataSplit
from resdet.datasets.findings import Finding
from resdet.datasets.formats.coco import CocoSource
from resdet.datasets.record_cache import cached
from resdet.datasets.record_columns import Records
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import check_dict, override, read_config
from resdet.detection.errors import DataError
from resdet.detection.structures import Annotation, Record
from resdet.detection.tasks import classifier, detector_data
from resdet.detection.tasks.registry import TASKS

IMAGES = 5


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CocoSource:
    """A data set that is old and large enough."""
    monkeypatch.setattr(record_cache, "LEAST_FILES", IMAGES)
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "images" / "part"
    folder.mkdir(parents=True)
    for number in range(IMAGES):
        Image.new("RGB", (20, 20)).save(folder / f"{number}.png")
        age(folder / f"{number}.png")
    (tmp_path / "a.json").write_text("{}")
    return CocoSource(images=tmp_path / "images", annotations=tmp_path / "a.json")


def age(path: Path, seconds: float = 60) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


class Reader:
    """Counts how often it reads."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> tuple[DataSplit, ...]:
        self.count += 1
        boxes = torch.tensor([[0.0, 1, 2, self.count]])
        annotation = Annotation(boxes, torch.tensor([1]), torch.tensor([True]))
        records = (Record("a", Path("x/a.png"), (2, 3), annotation), Record("b", Path("b"), (4, 5)))
        box = (1.5, float("nan"), 2.0, float("inf"))
        findings = (
            Finding("bad_box", "warning", Path("a.json"), "out", "a 1", Path("a"), box, "dropped"),
            Finding("note", "note", Path("\udcff"), "é", original=Path("b")),
        )
        split = DataSplit(Records.of(records), ("one", "two"), findings, annotated=False)
        return split, DataSplit(Records.of(()), ())


def entries(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "records").glob("*.pt"))


def test_the_second_start_has_the_same_splits(source: CocoSource, tmp_path: Path) -> None:
    read = Reader()
    first, second = (cached([source], "options", read) for _ in range(2))
    assert read.count == 1 and len(entries(tmp_path)) == 1
    (expected, _) = Reader()()
    for split, empty in (first, second):
        assert repr(split.findings) == repr(expected.findings), "nan is not equal to itself"
        assert split.classes == expected.classes and not split.annotated
        assert repr(list(split.records)) == repr(list(expected.records))
        assert list(empty.records) == [] and empty.annotated
    split = replace(second[0], classes=("three",))
    split.records[0].annotation.boxes.zero_()
    assert cached([source], "options", read)[0].records[0].annotation.boxes[0, 3] == 1


def add(source: CocoSource) -> None:
    Image.new("RGB", (20, 20)).save(source.images / "new.png")
    age(source.images / "new.png")


def change(source: CocoSource) -> None:
    age(source.images / "part" / "0.png", 30)


def remove(source: CocoSource) -> None:
    add(source)
    (source.images / "part" / "0.png").unlink()


def rename(source: CocoSource) -> None:
    (source.images / "part").rename(source.images / "other")


def annotate(source: CocoSource) -> None:
    before = source.annotations.stat()
    source.annotations.write_text("[]")
    os.utime(source.annotations, ns=(before.st_atime_ns, before.st_mtime_ns))


def unpack(source: CocoSource) -> None:
    """A corrected export, whose archive gives all files the same old time."""
    path = source.images / "part" / "0.png"
    before = path.stat()
    path.write_bytes(bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("edit", [add, change, remove, rename, annotate, unpack])
def test_changed_files_are_read_again(
    source: CocoSource, edit: Callable[[CocoSource], None]
) -> None:
    """An annotation file counts with its content, others with path, size and times of change."""
    read = Reader()
    cached([source], "options", read)
    edit(source)
    assert cached([source], "options", read)[0].records[0].annotation.boxes[0, 3] == 2


def test_other_settings_sources_and_code_are_read_again(
    source: CocoSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Reader()
    cached([source], "options", read)
    cached([source], "other", read)
    cached([source, source], "options", read)
    cached([source.model_copy(update={"annotated": False})], "options", read)
    assert read.count == 4
    monkeypatch.setattr(record_cache, "_code", lambda: "changed")
    cached([source], "options", read)
    assert read.count == 5


def test_the_code_of_the_whole_package_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The defaults and the values of records stand outside of ``datasets``; tests do not count."""
    monkeypatch.setattr(record_cache, "_PACKAGE", tmp_path)
    seen = []
    for name in ("datasets/a.py", "detection/config/b.py", "tests/c.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    for name in ("datasets/a.py", "detection/config/b.py", "tests/c.py"):
        (tmp_path / name).write_text("x = 1")
        seen.append(record_cache._code.__wrapped__())
    assert seen[0] != seen[1] == seen[2]


def test_processes_that_wait_in_vain_read_at_once(
    source: CocoSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no entry can be kept, each would wait for the reading of all before it."""
    start, together = threading.Event(), threading.Barrier(3)

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def first() -> tuple[DataSplit, ...]:
        start.set()
        time.sleep(0.3)  # until the others wait
        return Reader()()

    def later() -> tuple[DataSplit, ...]:
        together.wait(timeout=10)
        return Reader()()

    monkeypatch.setattr(record_cache, "atomic_write", full)
    with ThreadPoolExecutor() as pool:
        tasks = [pool.submit(cached, [source], "options", first)]
        start.wait()
        tasks += [pool.submit(cached, [source], "options", later) for _ in range(3)]
        assert all(task.result()[0].classes == ("one", "two") for task in tasks)


@pytest.mark.parametrize("damage", ["cut", "flip", "text", "empty"])
def test_a_damaged_entry_is_replaced(
    source: CocoSource, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    read = Reader()
    cached([source], "options", read)
    (entry,) = entries(tmp_path)
    content = bytearray(entry.read_bytes())
    at = content.index(torch.tensor([0.0, 1, 2, 1]).numpy().tobytes())
    content[at] ^= 1  # the digest tells
    cut = content[: len(content) // 2]
    entry.unlink()  # not written over: the splits in use are mapped from it
    entry.write_bytes({"cut": cut, "flip": content, "text": b"text", "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        assert cached([source], "options", read)[0].records.boxes.tolist() == [[0, 1, 2, 2]]
    assert f"{entry}: the records are read again" in caplog.text
    cached([source], "options", read)
    assert read.count == 2


def test_what_is_not_cached(
    source: CocoSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that just changed, small data sets, formats without places, errors, and no room."""
    read = Reader()
    os.utime(source.images / "part" / "0.png")
    cached([source], "new file", read)
    age(source.images / "part" / "0.png")
    cached([source], "off", read, enabled=False)
    monkeypatch.setattr(record_cache, "LEAST_FILES", IMAGES + 2)
    cached([source], "few", read)
    monkeypatch.setattr(record_cache, "LEAST_FILES", IMAGES)

    def fails() -> tuple[DataSplit, ...]:
        raise DataError("of the data")

    with pytest.raises(DataError, match="of the data"):
        cached([source], "error", fails)

    def edits() -> tuple[DataSplit, ...]:
        add(source)
        return read()

    cached([source], "changed meanwhile", edits)
    assert entries(tmp_path) == [] and read.count == 4
    monkeypatch.setenv("RESDET_CACHE", str(source.annotations))
    assert len(cached([source], "no folder", read)[0].records) == 2


def test_the_oldest_entries_are_removed(
    source: CocoSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_cache, "_MOST_ENTRIES", 2)
    for number in range(3):
        cached([source], number, Reader())
        for entry in entries(tmp_path):
            age(entry)
    assert len(entries(tmp_path)) == 2


def forbidden(*given: object, **named: object) -> None:
    raise AssertionError("read again")


@pytest.fixture
def eager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small and new data sets are cached too."""
    monkeypatch.setattr(record_cache, "LEAST_FILES", 1)
    monkeypatch.setattr(record_cache, "_LEAST_AGE", float("-inf"))
    monkeypatch.setenv("RESDET_CACHE", str(tmp_path / "cache"))


def test_a_detector_starts_from_the_cache(
    eager: None, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, config = TASKS["detection"], read_config(DetectorConfig, tiny_config)
    first = task.read_both(config)
    monkeypatch.setattr(detector_data, "inspect_all", forbidden)
    second = task.read_both(config)
    for part in ("train", "val"):
        assert repr(list(second[part].records)) == repr(list(first[part].records))
        assert second[part].classes == first[part].classes
        assert second[part].findings == first[part].findings
    with pytest.raises(AssertionError, match="read again"):
        task.read(override(config, ["data.on_bad_box=clip"]), "train")
    with pytest.raises(AssertionError, match="read again"):
        task.read(override(config, ["data.cache_records=false"]), "train")


def test_a_classifier_starts_from_the_cache(
    eager: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            Image.new("RGB", (20, 30)).save(root / part / name / "a.png")
    source = {"format": "image_folder", "root": str(root)}
    task = TASKS["classification"]
    config = check_dict(task.schema, {"data": {"source": source}}, "test")
    first = task.read_both(config)
    monkeypatch.setattr(classifier, "labelled_splits", forbidden)
    second = task.read_both(config)
    for part in ("train", "val"):
        assert repr(list(second[part].records)) == repr(list(first[part].records))
        assert second[part].records.image_labels.tolist() == [0, 1]
    (root / "train" / "cat" / "a.png").rename(root / "train" / "cat" / "b.png")
    with pytest.raises(AssertionError, match="read again"):
        task.read_both(config)

"""Files above the limits of SECURITY.md, which take no space: they are refused by their size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from resdet.datasets.formats import ilsvrc_files, mat_file, voc_layout
from resdet.datasets.formats.submission import read_submission
from resdet.datasets.image import ImageRules, read_image, read_size
from resdet.datasets.manifests.sources import ListImages
from resdet.datasets.manifests.storage import Store
from resdet.datasets.shards.index import INDEX, read_shards
from resdet.detection.engine.history import METRICS_FILE, read_history
from resdet.detection.evaluation.foreign_results import read_columns, read_truth
from resdet.detection.evaluation.image_records import read_images
from resdet.detection.inference.inputs import find_inputs
from resdet.detection.inference.records import read_meta, read_records
from resdet.tests.test_pipes import COMMANDS
from resdet.tools.cli import main
from resdet.tools.serve import _token

#: Above the largest limit, that of COCO's JSON.
SIZE = 16 * 2**30 + 1
#: Files that are read in parts: their first bytes tell what they are.
IN_PARTS = ("weights", "converted", "convert")


def _sparse(path: str | Path, size: int = SIZE) -> Path:
    Path(path).touch()
    os.truncate(path, size)
    return Path(path)


@pytest.fixture(autouse=True)
def memory() -> Iterator[None]:
    """Two gigabytes beyond what the process has, so that whoever reads such a file fails alone."""
    limits = pytest.importorskip("resource", reason="no limits on memory here")
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        pytest.skip("no /proc")
    before = limits.getrlimit(limits.RLIMIT_AS)
    limits.setrlimit(limits.RLIMIT_AS, (pages * limits.getpagesize() + 2**31, before[1]))
    yield
    limits.setrlimit(limits.RLIMIT_AS, before)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in IN_PARTS])
def test_a_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "mkfifo", _sparse)
    assert main(COMMANDS[name](tmp_path / "data")) in (2, 3)
    out, err = capsys.readouterr()
    assert "Traceback" not in err and "run again with --debug" not in err
    assert "larger than" in out + err, out + err


READERS: dict[str, Callable[[Path], object]] = {
    "meta.mat": lambda path: mat_file.read_table(path, "synsets", ("WNID",)),
    "solution.csv": lambda path: list(ilsvrc_files.csv_rows(path)),
    "submission.csv": lambda path: read_submission(path, ("dog",)),
    "set.txt": lambda path: voc_layout.listed_ids(path, {"a"}),
    "images.txt": lambda path: find_inputs([path]),
    "truth.json": lambda path: read_truth(path, "val"),
    "results.json": lambda path: _results(path),
    "images.json": lambda path: read_images(path),
    "meta.json": lambda path: read_meta(path.parent),
    METRICS_FILE: lambda path: read_history(path.parent),
    "shard-00000.parquet": lambda path: Store(str(path.parent)).read(path.name),
    INDEX: lambda path: read_shards(path.parent),
    "token": lambda path: _token(path),
}


def _results(path: Path) -> object:
    truth = path.with_name("t.json")
    truth.write_text('{"images": [], "categories": [], "annotations": []}')
    return read_columns(path, read_truth(truth, "val"))


@pytest.mark.parametrize("name", READERS)
def test_a_reader(name: str, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"larger than|is no folder of results"):
        READERS[name](_sparse(tmp_path / name))


@pytest.mark.parametrize("name", ["detections.jsonl", "list.txt"])
def test_files_of_any_size_that_are_read_by_line(name: str, tmp_path: Path) -> None:
    """The longest line has a limit."""
    path = _sparse(tmp_path / name)
    records = read_records(path) if name.endswith("l") else ListImages(str(path)).entries(None, 0)
    with pytest.raises(Exception, match=r"line 1 is longer than \d+ bytes"):
        next(iter(records))


def test_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(path)
    _sparse(path, 512 * 2**20)
    assert read_size(path, ImageRules()) == (40, 40)
    _sparse(path, 512 * 2**20 + 1)
    with pytest.raises(Exception, match=r"a\.png: larger than 512 MB"):
        read_image(path)

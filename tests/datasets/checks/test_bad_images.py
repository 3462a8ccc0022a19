"""Damaged and unusual images in every command that reads images."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from resdet.datasets.image import ImageRules, read_image, read_size
from resdet.datasets.image_file import FORMATS
from resdet.datasets.loading.dataset import DetectionDataset, train_loader
from resdet.datasets.loading.sampling import BatchPlan
from resdet.datasets.loading.transforms import EvalTransform
from resdet.detection.errors import ImageError
from resdet.detection.structures import Record
from resdet.tests.datasets.image_corpus import (
    CASES,
    SIZE,
    Case,
    Refused,
    Shown,
    quarters_of,
    write_corpus,
)

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

SHOWN = [case for case in CASES if isinstance(case.outcome, Shown)]
KEEP = ImageRules(on_truncated="warn")
XML = """<annotation><size><width>64</width><height>48</height></size>
<object><name>circle</name>
<bndbox><xmin>5</xmin><ymin>5</ymin><xmax>40</xmax><ymax>40</ymax></bndbox></object></annotation>"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "images"
    write_corpus(folder)
    return folder


def test_the_corpus_is_large_and_has_few_stems() -> None:
    counts = Counter(case.name for case in CASES)
    assert len(CASES) > 50 and max(counts.values()) == 1
    assert len(SHOWN) < len(CASES) - 15


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_file_has_the_expected_result(case: Case, corpus: Path) -> None:
    path, outcome = corpus / case.name, case.outcome
    if isinstance(outcome, Shown):
        loaded = read_image(path)
        assert loaded.pixels.shape == (*SIZE, 3) and read_size(path) == SIZE
        if outcome.colours is not None:
            seen = quarters_of(loaded.pixels)
            assert np.abs(seen - np.array(outcome.colours)).max() < 16, seen
        assert bool(loaded.warnings) == bool(outcome.warning), loaded.warnings
        assert outcome.warning in "".join(loaded.warnings)
        return
    with pytest.raises(ImageError) as caught:
        read_image(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and outcome.reason in text
    if outcome.kept:
        assert outcome.reason in read_image(path, KEEP).warnings[0]
    if outcome.late:
        assert read_size(path) == SIZE
    else:
        with pytest.raises(ImageError):
            read_size(path)


# ------------------------------------------------------------------------------------- infer


def infer(resdet: Command, weights: Path, listed: Path, out: Path, *words: object) -> Any:
    done = resdet("infer", "--weights", weights, listed, "--out", out, "--device", "cpu", *words)
    records = [json.loads(line) for line in (out / "detections.jsonl").open(encoding="utf-8")]
    return done, {record["file"]: record for record in records}


def write_list(path: Path, names: list[str]) -> Path:
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return path


def test_infer_records_each_result_and_continues(
    resdet: Command, tiny_run: Path, corpus: Path, tmp_path: Path
) -> None:
    listed = write_list(corpus / "list.txt", [case.name for case in CASES])
    weights = tiny_run / "weights" / "best.pt"
    done, records = infer(resdet, weights, listed, tmp_path / "out", "--strict")
    assert done.code == 5, done.err
    assert list(records) == [case.name for case in CASES]
    for case in CASES:
        record, outcome = records[case.name], case.outcome
        if isinstance(outcome, Refused) and not outcome.kept:
            assert outcome.reason in record["error"]
            assert record.keys() - {"bytes", "modified"} == {"file", "error"}
            continue
        warning = outcome.warning if isinstance(outcome, Shown) else outcome.reason
        assert (record["height"], record["width"]) == SIZE
        assert warning in "".join(record["warnings"])
        assert (tmp_path / "out" / record["drawn"]).is_file()
    failed = sum("error" in record for record in records.values())
    assert (
        f"{len(CASES)} of {len(CASES)} images done" in done.out and f"{failed} failed" in done.out
    )
    warned = sum(bool(record.get("warnings")) for record in records.values())
    assert f"{warned} with warnings" in done.out and warned > len(KEPT)
    assert "Corrupt" not in done.err  # messages of decoders, which do not name the file


def test_infer_records_paths_that_are_no_regular_files(
    resdet: Command, tiny_run: Path, tmp_path: Path
) -> None:
    """A folder, a broken link, a link to itself and a pipe with image names."""
    folder = tmp_path / "in"
    (folder / "folder.jpg").mkdir(parents=True)
    (folder / "dead.jpg").symlink_to(folder / "nowhere.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    names = ["folder.jpg", "dead.jpg", "loop.jpg", "pipe.jpg", "gone.jpg"]
    listed = write_list(folder / "list.txt", names)
    done, records = infer(resdet, tiny_run / "weights" / "best.pt", listed, tmp_path / "out")
    assert done.code == 5, done.err  # every input failed
    reasons = {name: record["error"] for name, record in records.items()}
    assert reasons["folder.jpg"] == "a folder, not an image"
    assert reasons["pipe.jpg"] == "not a regular file"
    assert reasons["dead.jpg"] == reasons["gone.jpg"] == "no such file"
    assert len(reasons) == 5 and reasons["loop.jpg"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_image_without_permission_is_named(corpus: Path, tmp_path: Path) -> None:
    path = tmp_path / "closed.jpg"
    shutil.copy(corpus / "plain.jpg", path)
    path.chmod(0)
    with pytest.raises(ImageError, match=r"closed\.jpg.*Permission denied"):
        read_image(path)


def test_infer_on_a_collection_of_damaged_images(
    resdet: Command, tiny_run: Path, shared_data: Path, tmp_path: Path
) -> None:
    folder = shared_data / "messy_images"
    with (folder / "manifest.csv").open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    listed = write_list(tmp_path / "list.txt", [str(folder / name) for name in rows])
    weights = tiny_run / "weights" / "best.pt"
    done, records = infer(resdet, weights, listed, tmp_path / "out", "--no-draw")
    assert done.code == 0, done.err
    found = {Path(name).name: record for name, record in records.items()}
    assert found.keys() == rows.keys()
    for name, row in rows.items():
        record = found[name]
        readable = row["format"] in FORMATS and not row["pillow_error"]
        if readable and "error" in record:
            assert "side under" in record["error"] or "100:1" in record["error"], record
        if not readable:
            assert "error" in record or "truncated" in record["warnings"][0], record
    assert sum("error" not in record for record in found.values()) > 100


# --------------------------------------------------------------------------- train and eval


def write_voc(root: Path, corpus: Path, cases: list[Case]) -> None:
    """A VOC folder of these images, whose ids are their names with a number in front."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    ids = []
    for number, case in enumerate(cases):
        path = Path(case.name)
        ids.append(f"{number} {path.stem}".strip())
        shutil.copy(corpus / path, root / "JPEGImages" / f"{ids[-1]}{path.suffix}")
        (root / "Annotations" / f"{ids[-1]}.xml").write_text(XML)
    for split in ("train", "val"):
        write_list(root / "ImageSets" / "Main" / f"{split}.txt", ids)


def train(resdet: Command, config: Path, folder: Path, *words: object) -> Any:
    shutil.copy(config, folder / config.name)
    settings = ("train.batch_size=2", "train.iterations=1", "train.val_loss_batches=0")
    out = ("--out", folder / "run", "--cfg", folder / config.name)
    return resdet("train-det", *out, *settings, *words)


def test_train_and_eval_accept_all_usable_images(
    resdet: Command, tiny_config: Path, corpus: Path, tmp_path: Path
) -> None:
    cases = [case for case in SHOWN if "exif" not in case.name or "JPEG" in case.name]
    write_voc(tmp_path / "scenes", corpus, cases)
    # Every image once, in two batches.
    words = (f"train.batch_size={-(-len(cases) // 2)}", "train.iterations=2", "train.eval_every=2")
    done = train(resdet, tiny_config, tmp_path, *words)
    assert done.code == 0, done.err
    assert f"images: {len(cases)} (with objects {len(cases)}" in done.out
    weights = tmp_path / "run" / "weights" / "best.pt"
    done = resdet("eval", "--weights", weights, "--no-coco", "--out", tmp_path / "eval")
    assert done.code == 0, done.err


def refusal(resdet: Command, command: str, tiny_config: Path, tiny_run: Path, folder: Path) -> str:
    """The error of training or evaluating on the data in ``folder``."""
    if command == "train-det":
        done = train(resdet, tiny_config, folder)
    else:
        shutil.copy(tiny_config, folder)
        words = ("--cfg", folder / tiny_config.name, "--out", folder / "eval")
        done = resdet("eval", "--weights", tiny_run / "weights" / "best.pt", *words)
    assert done.code == 3, done.err
    (line,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    return line


@pytest.mark.parametrize("command", ["train-det", "eval"])
def test_train_and_eval_stop_before_the_first_step_at_bad_headers(
    resdet: Command, tiny_config: Path, tiny_run: Path, corpus: Path, tmp_path: Path, command: str
) -> None:
    bad = [c for c in CASES if isinstance(c.outcome, Refused) and not c.outcome.late]
    write_voc(tmp_path / "scenes", corpus, [*SHOWN[:3], *bad])
    line = refusal(resdet, command, tiny_config, tiny_run, tmp_path)
    assert str(len(bad)) in line and "JPEGImages" in line
    assert not (tmp_path / "run" / "weights").exists()


@pytest.mark.parametrize("command", ["train-det", "eval"])
def test_train_and_eval_stop_at_paths_that_are_no_regular_files(
    resdet: Command, tiny_config: Path, tiny_run: Path, corpus: Path, tmp_path: Path, command: str
) -> None:
    write_voc(tmp_path / "scenes", corpus, SHOWN[:4])
    folder, link, pipe, _ = sorted((tmp_path / "scenes" / "JPEGImages").iterdir())
    for path in (folder, link, pipe):
        path.unlink()
    folder.mkdir()
    link.symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(pipe)
    line = refusal(resdet, command, tiny_config, tiny_run, tmp_path)
    for path in (folder, link, pipe):
        assert path.name in line or path.stem in line, line


KEPT = [case for case in CASES if isinstance(case.outcome, Refused) and case.outcome.kept]
LATE = [case for case in CASES if isinstance(case.outcome, Refused) and case.outcome.late]


def test_train_and_eval_name_the_file_that_fails_to_decode(
    resdet: Command, tiny_config: Path, tiny_run: Path, corpus: Path, tmp_path: Path
) -> None:
    checksum = next(case for case in LATE if case.name == "wrong_checksum.png")
    write_voc(tmp_path / "scenes", corpus, [checksum, SHOWN[0]])
    trained = train(resdet, tiny_config, tmp_path)
    words = ("--cfg", tmp_path / tiny_config.name, "--out", tmp_path / "eval")
    scored = resdet("eval", "--weights", tiny_run / "weights" / "best.pt", *words)
    for done in (trained, scored):
        assert done.code == 3, done.err
        (line,) = (line for line in done.err.splitlines() if line.startswith("error: "))
        assert "0 wrong_checksum.png: cannot be read" in line


@pytest.mark.parametrize("case", LATE, ids=lambda case: case.name)
def test_the_training_loader_names_the_file_that_fails_to_decode(case: Case, corpus: Path) -> None:
    record = Record("x", corpus / case.name, SIZE)
    dataset = DetectionDataset([record], EvalTransform(48, 64))
    plan = BatchPlan([SIZE], batch_size=1, seed=0, steps=1)
    with pytest.raises(ImageError) as caught:
        next(iter(train_loader(dataset, plan, workers=0)))
    assert str(caught.value).startswith(f"{corpus / case.name}: ")


@pytest.mark.parametrize("rule", ["skip", "warn"])
def test_a_truncated_image_is_skipped_or_kept_according_to_the_config(
    resdet: Command, tiny_config: Path, corpus: Path, tmp_path: Path, rule: str
) -> None:
    write_voc(tmp_path / "scenes", corpus, [*KEPT, *SHOWN[:3]])
    words = (f"data.on_truncated={rule}", "train.iterations=2", "train.batch_size=12")
    done = train(resdet, tiny_config, tmp_path, *words)
    assert done.code == 0, done.err
    for case in KEPT:
        assert case.name in done.err or rule == "skip", done.err
    assert "cut.jpg" in done.err
    assert not any(line.startswith("Corrupt") for line in done.err.splitlines())

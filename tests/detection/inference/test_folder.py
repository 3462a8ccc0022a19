"""Runs over folders: records, drawings, faults, and resuming."""

from __future__ import annotations

import copy
import csv
import errno
import json
import os
import resource
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from resdet.detection.errors import ConfigError, DataError, ImageError
from resdet.detection.inference import folder as folder_module
from resdet.detection.inference.folder import FolderOptions, FolderSummary, run_folder
from resdet.detection.inference.inputs import InputFile, find_inputs
from resdet.tests.datasets.test_timed_reading import slow_jpeg

Run = Callable[..., FolderSummary]
DEFAULT = FolderOptions(0.01)


@pytest.fixture
def run(predictor) -> Run:
    def start(inputs: Path, out: Path, options: FolderOptions = DEFAULT, **more: Any):
        return run_folder(predictor, find_inputs([inputs]), out, options, **more)

    return start


@pytest.fixture
def images(tmp_path, save) -> Path:
    """Seven images of two shapes in two folders, among them one cut short and one of text."""
    folder = tmp_path / "in"
    for index in range(3):
        save(folder / f"{index}.png", red=(10, 5, 20 + index, 25))
        save(folder / "hög" / f"{index}.png", red=(2, 3, 9, 30 + index), size=(60, 40))
    data = (folder / "1.png").read_bytes()
    (folder / "1 cut.png").write_bytes(data[: len(data) // 2])
    (folder / "2 text.jpg").write_text("<html>")
    save(folder / "3 empty.png", red=(0, 0, 0, 0))
    return folder


def records(out: Path) -> list[dict[str, Any]]:
    lines = (out / "detections.jsonl").read_text("utf-8").split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


def tree(out: Path) -> dict[str, bytes]:
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_every_image_has_a_record_in_order_and_a_drawing(run, images, tmp_path):
    out = tmp_path / "out"
    seen = []
    summary = run(images, out, report=lambda *numbers: seen.append(numbers))
    found = records(out)
    assert [record["file"] for record in found] == [
        "0.png", "1 cut.png", "1.png", "2 text.jpg", "2.png",
        "3 empty.png", "hög/0.png", "hög/1.png", "hög/2.png",
    ]  # fmt: skip
    assert [record["file"] for record in found if "error" in record] == ["1 cut.png", "2 text.jpg"]
    assert "truncated" in found[1]["error"] and "html" in found[3]["error"]
    assert str(tmp_path) not in found[1]["error"]

    first = found[0]
    assert (first["width"], first["height"], first["orientation"]) == (60, 40, 1)
    (detection,) = first["detections"]
    assert detection["label"] == "red spot"
    assert np.allclose(detection["box"], [10, 5, 20, 25], atol=1.01)
    assert found[5]["detections"] == []
    assert (found[6]["width"], found[6]["height"]) == (40, 60)

    assert (summary.done, summary.new, summary.total, summary.interrupted) == (9, 9, 9, False)
    assert [name for name, _ in summary.failures] == ["1 cut.png", "2 text.jpg"]
    assert summary.found == 6
    assert seen[-1] == (9, 9, 2) and len(seen) == 9
    for record in found:
        if "error" not in record:
            with Image.open(out / record["drawn"]) as drawn:
                assert drawn.size == (record["width"], record["height"])


def test_boxes_are_drawn_where_they_were_found(run, tmp_path, save):
    save(tmp_path / "in" / "a.png")
    run(tmp_path / "in", tmp_path / "out")
    drawn = np.asarray(Image.open(tmp_path / "out" / "drawn" / "a.png.jpg")).astype(int)
    plain = np.asarray(Image.open(tmp_path / "in" / "a.png")).astype(int)
    changed = np.abs(drawn - plain).max(axis=2) > 40
    assert changed[5:25, 10:30].any()
    assert not changed[32:].any() and not changed[:, :4].any()


def test_an_image_rotated_by_exif_is_drawn_upright(run, tmp_path, save):
    path = save(tmp_path / "in" / "a.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).rotate(90, expand=True).save(path, exif=exif)
    run(tmp_path / "in", tmp_path / "out")
    (record,) = records(tmp_path / "out")
    assert (record["width"], record["height"], record["orientation"]) == (60, 40, 6)
    assert np.allclose(record["detections"][0]["box"], [10, 5, 30, 25], atol=1.01)
    with Image.open(tmp_path / "out" / record["drawn"]) as drawn:
        assert drawn.size == (60, 40)
        assert drawn.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_run_interrupted_anywhere_and_resumed_equals_a_whole_one(
    run, images, tmp_path, batch_size
):
    whole, out = tmp_path / "whole", tmp_path / "out"
    options = FolderOptions(0.01, batch_size=batch_size)
    run(images, whole, options)
    expected = tree(whole)
    lines = expected["detections.jsonl"]
    ends = [index + 1 for index, byte in enumerate(lines) if byte == ord("\n")]
    cuts = {0, 1, ends[0] - 1, ends[0], ends[3] + 7, ends[4], ends[-1] - 1, ends[-1]}
    for cut in sorted(cuts):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(whole, out)
        (out / "detections.jsonl").write_bytes(lines[:cut])
        (out / "detections.csv").unlink()
        (out / "drawn" / "hög" / "2.png.jpg").unlink()
        if cut == ends[-1]:  # nothing to do but the exports
            shutil.copy(whole / "drawn/hög/2.png.jpg", out / "drawn/hög/2.png.jpg")
        summary = run(images, out, replace(options, resume=True))
        assert tree(out) == expected, f"cut at byte {cut}"
        assert len(summary.failures) == 2
        assert summary.done == 9 and summary.new <= 9 - lines[:cut].count(b"\n") + batch_size - 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stopped_run_finishes_the_images_under_way(run, model, images, tmp_path, batch_size):
    options = FolderOptions(0.01, batch_size=batch_size)
    run(images, tmp_path / "whole", options)
    model.shapes.clear()
    summary = run(images, tmp_path / "out", options, stop=lambda: len(model.shapes) >= 2)
    assert summary.interrupted and 0 < summary.done < summary.total
    for record in records(tmp_path / "out"):
        assert "error" in record or (tmp_path / "out" / record["drawn"]).is_file()
    assert not (tmp_path / "out" / "detections.csv").exists()
    assert not run(images, tmp_path / "out", replace(options, resume=True)).interrupted
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_crash_in_the_network_leaves_valid_records(run, model, images, tmp_path, monkeypatch):
    plain = model.predict

    def crash(batch):
        if len(model.shapes) == 3:
            raise RuntimeError("a bug")
        return plain(batch)

    run(images, tmp_path / "whole")
    model.shapes.clear()
    monkeypatch.setattr(model, "predict", crash)
    with pytest.raises(RuntimeError, match="a bug"):
        run(images, tmp_path / "out")
    assert threading.active_count() < 10
    monkeypatch.undo()
    assert records(tmp_path / "out")
    run(images, tmp_path / "out", FolderOptions(0.01, resume=True))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_resume_takes_new_images_and_keeps_old_records(run, images, tmp_path, save):
    run(images, tmp_path / "out")
    before = records(tmp_path / "out")
    save(images / "0 new.png")
    (images / "0.png").unlink()
    summary = run(images, tmp_path / "out", FolderOptions(0.01, resume=True))
    assert summary.new == 1 and summary.done == 10
    after = records(tmp_path / "out")
    assert after[:9] == before and after[9]["file"] == "0 new.png"


def test_resume_notices_images_that_were_replaced(run, images, tmp_path, save):
    out, again = tmp_path / "out", FolderOptions(0.01, resume=True)
    run(images, out)
    for record in records(out):
        status = (images / record["file"]).stat()
        assert record["bytes"] == status.st_size
        assert record["modified"] == pytest.approx(status.st_mtime, abs=1e-3)
    before = tree(out)
    os.utime(images / "0.png", (1, 1))
    with pytest.warns(UserWarning, match=r"out: modified after they were recorded: 0\.png; if"):
        run(images, out, again)
    save(images / "hög" / "1.png", red=(2, 3, 9, 31), size=(90, 41))
    with pytest.raises(ConfigError, match=r"replaced after they were recorded: hög/1\.png; choose"):
        run(images, out, again)
    assert tree(out) == before


def test_images_read_in_processes_give_the_same_records(run, images, tmp_path):
    run(images, tmp_path / "plain")
    run(images, tmp_path / "timed", replace(DEFAULT, seconds=60))
    assert tree(tmp_path / "timed") == tree(tmp_path / "plain")
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match=r"--timeout-per-image .*: expected seconds above 0"):
            run(images, tmp_path / "wrong", replace(DEFAULT, seconds=seconds))


def test_an_image_that_takes_too_long_has_a_record(run, images, tmp_path):
    slow_jpeg(images / "1 slow.jpg")
    summary = run(images, tmp_path / "out", replace(DEFAULT, seconds=0.3))
    errors = {each["file"]: each["error"] for each in records(tmp_path / "out") if "error" in each}
    assert errors.keys() == {"1 cut.png", "1 slow.jpg", "2 text.jpg"}
    assert len(summary.failures) == 3 and summary.done == 10
    assert errors["1 slow.jpg"] == "not read within 0.3 s"


def test_records_reach_the_disk_in_time(run, images, tmp_path, monkeypatch):
    """A hundred records are lost at most; here two."""
    assert folder_module.SYNCED == 100
    path, unsynced, sync = tmp_path / "out" / "detections.jsonl", [], os.fsync
    on_disk = 0

    def synced(descriptor: int) -> None:
        nonlocal on_disk
        sync(descriptor)
        on_disk = path.read_bytes().count(b"\n")

    def report(done: int, total: int, failed: int) -> None:
        unsynced.append(path.read_bytes().count(b"\n") - on_disk)

    monkeypatch.setattr(folder_module, "SYNCED", 2)
    monkeypatch.setattr(os, "fsync", synced)
    run(images, tmp_path / "out", report=report)
    assert unsynced == [1, 0] * 4 + [1] and on_disk == 9


def test_resume_refuses_other_settings_and_names_them(run, images, tmp_path):
    run(images, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"score_threshold was 0\.01, is 0\.02"):
        run(images, tmp_path / "out", FolderOptions(0.02, resume=True))
    changed = FolderOptions(0.01, resume=True, provenance={"weights": "other.pt"})
    with pytest.raises(ConfigError, match=r"weights was null, is \"other\.pt\""):
        run(images, tmp_path / "out", changed)


def test_a_folder_with_anything_in_it_is_not_written_to(run, images, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.doc").write_text("dear")
    with pytest.raises(ConfigError, match="not empty"):
        run(images, out)
    with pytest.raises(ConfigError, match=r"meta\.json"):
        run(images, out, FolderOptions(0.01, resume=True))
    with pytest.raises(ConfigError, match="not a folder"):
        run(images, out / "thesis.doc")
    assert tree(out) == {"thesis.doc": b"dear"}


def test_damage_in_the_middle_is_an_error_and_nothing_is_dropped(run, images, tmp_path):
    run(images, tmp_path / "out")
    path = tmp_path / "out" / "detections.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[2] = lines[2][:10]
    path.write_bytes(b"\n".join(lines))
    before = path.read_bytes()
    with pytest.raises(DataError, match="line 3"):
        run(images, tmp_path / "out", FolderOptions(0.01, resume=True))
    assert path.read_bytes() == before


def test_two_runs_cannot_write_to_one_folder(run, images, tmp_path):
    def second(done: int, total: int, failed: int) -> None:
        if done == 2:
            with pytest.raises(ConfigError, match="another run"):
                run(images, tmp_path / "out", FolderOptions(0.01, resume=True))
            refused.append(done)

    refused: list[int] = []
    run(images, tmp_path / "out", report=second)
    assert refused == [2]


@pytest.mark.parametrize("limit", [100, 700, 1100])
def test_a_full_disk_is_a_one_line_error_and_the_records_stay_valid(run, images, tmp_path, limit):
    """The kernel refuses to let a file grow beyond ``limit`` bytes, in the middle of a line."""
    run(images, tmp_path / "whole", FolderOptions(0.01, draw=False))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(ConfigError, match="cannot write results") as caught:
            run(images, tmp_path / "out", FolderOptions(0.01, draw=False))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    path = tmp_path / "out" / "detections.jsonl"
    assert path.exists() == (limit > 100), "100 bytes do not even hold the settings"
    good = records(tmp_path / "out") if path.exists() else []
    assert good == records(tmp_path / "whole")[: len(good)]
    run(images, tmp_path / "out", FolderOptions(0.01, draw=False, resume=True))
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_an_output_that_cannot_be_created_is_a_one_line_error(run, images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        run(images, tmp_path / "file" / "out")


def test_the_classes_and_the_threshold_decide_what_is_recorded_and_drawn(run, tmp_path, save):
    save(tmp_path / "in" / "a.png", blue=(32, 2, 58, 38))

    def labels(out: str, **options: Any) -> list[str]:
        run(tmp_path / "in", tmp_path / out, FolderOptions(**options))
        return [found["label"] for found in records(tmp_path / out)[0]["detections"]]

    assert labels("both", score_threshold=0.1) == ["red spot", "blå fläck"]
    assert labels("blue", score_threshold=0.1, only_classes=("blå fläck",)) == ["blå fläck"]
    assert labels("high", score_threshold=0.3) == ["blå fläck"]
    drawings = [tree(tmp_path / out)["drawn/a.png.jpg"] for out in ("both", "blue", "high")]
    assert drawings[0] != drawings[1] == drawings[2]
    with pytest.raises(ConfigError, match="did you mean red spot"):
        labels("typo", only_classes=("red spots",))
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_large_images_wait_for_each_other(
    predictor, run, images, tmp_path, monkeypatch, batch_size
):
    """With a budget that one image exceeds, no more images than a batch are under way."""
    options = replace(DEFAULT, batch_size=batch_size, workers=4)
    run(images, tmp_path / "free", options)
    under_way, most, lock = set(), [], threading.Lock()
    prepare, write = predictor.prepare, predictor.output.write

    def prepared(path):
        with lock:
            under_way.add(path)
            most.append(len(under_way))
        try:
            return prepare(path)
        except ImageError:
            under_way.remove(path)
            raise

    def written(out, file, *more):
        record = write(out, file, *more)
        under_way.remove(file.path)
        return record

    monkeypatch.setattr(predictor, "prepare", prepared)
    monkeypatch.setattr(predictor, "output", copy.copy(predictor.output))
    monkeypatch.setattr(predictor.output, "write", written, raising=True)
    monkeypatch.setattr(folder_module, "BUDGET", 1)
    run(images, tmp_path / "scarce", options)
    assert records(tmp_path / "scarce") == records(tmp_path / "free")
    assert max(most) == batch_size


def test_a_full_disk_ends_the_run_while_large_images_wait(
    predictor, run, images, tmp_path, monkeypatch
):
    def write(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(predictor, "output", copy.copy(predictor.output))
    monkeypatch.setattr(predictor.output, "write", write)
    monkeypatch.setattr(folder_module, "BUDGET", 1)
    with pytest.raises(ConfigError, match="No space left"):
        run(images, tmp_path / "out", replace(DEFAULT, workers=4))


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"score_threshold": 1.5}, {"workers": 0}])
def test_invalid_options_are_refused(run, images, tmp_path, wrong):
    with pytest.raises(ConfigError):
        run(images, tmp_path / "out", FolderOptions(**wrong))


def test_same_stems_and_hostile_names_have_drawings_inside_the_output(predictor, tmp_path, save):
    inputs = tmp_path / "in"
    for name in ("a.png", "a.bmp", "a.png.jpg", "sub/a.png", "con.png", "x:y?.png", "=cmd.png"):
        save(inputs / name)
    files = find_inputs([inputs])
    files += [
        InputFile(inputs / "a.png", name) for name in ("../../x.png", str(tmp_path / "y.png"))
    ]
    run_folder(predictor, files, tmp_path / "out", FolderOptions(0.01))
    found = records(tmp_path / "out")
    drawn = [(tmp_path / "out" / record["drawn"]).resolve() for record in found]
    assert len(set(drawn)) == 9
    assert all(path.is_relative_to(tmp_path / "out" / "drawn") for path in drawn)
    rows = list(csv.DictReader((tmp_path / "out" / "detections.csv").open(encoding="utf-8")))
    assert "'=cmd.png" in {row["file"] for row in rows}


def test_an_image_too_long_for_a_jpeg_is_recorded_without_a_drawing(run, tmp_path, save):
    save(tmp_path / "in" / "a.png", size=(700, 66_000))
    summary = run(tmp_path / "in", tmp_path / "out")
    (record,) = records(tmp_path / "out")
    assert summary.failures == () and "drawn" not in record
    assert record["width"] == 66_000 and "not drawn" in record["warnings"][0]


def test_drawing_can_be_switched_off(run, images, tmp_path):
    run(images, tmp_path / "out", FolderOptions(0.01, draw=False))
    assert not (tmp_path / "out" / "drawn").exists()
    assert all("drawn" not in record for record in records(tmp_path / "out"))


def test_the_coco_file_is_read_by_pycocotools_and_agrees_with_the_records(run, images, tmp_path):
    run(images, tmp_path / "out")
    coco = COCO(tmp_path / "out" / "detections.coco.json")
    found = records(tmp_path / "out")
    entries = {image["file_name"]: image for image in coco.dataset["images"]}
    assert list(entries) == [record["file"] for record in found]
    assert [c["name"] for c in coco.dataset["categories"]] == ["red spot", "blå fläck"]
    for record in found:
        image = entries[record["file"]]
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]]))
        for annotation, detection in zip(annotations, record.get("detections", []), strict=True):
            x, y, width, height = annotation["bbox"]
            assert np.allclose([x, y, x + width, y + height], detection["box"], atol=1e-6)
            assert coco.cats[annotation["category_id"]]["name"] == detection["label"]
            assert annotation["score"] == detection["score"]
    assert coco.loadRes(coco.dataset["annotations"]).getAnnIds()


def test_the_csv_has_a_row_for_every_detection_and_every_other_image(run, images, tmp_path):
    run(images, tmp_path / "out")
    with (tmp_path / "out" / "detections.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [record["file"] for record in records(tmp_path / "out")]
    assert sum(row["label"] != "" for row in rows) == 6
    assert sum(row["error"] != "" for row in rows) == 2
    first, record = rows[0], records(tmp_path / "out")[0]
    box = [float(first[side]) for side in ("x1", "y1", "x2", "y2")]
    assert box == record["detections"][0]["box"]


def test_nothing_found_still_makes_all_files(run, tmp_path, save):
    save(tmp_path / "in" / "a.png", red=(0, 0, 0, 0))
    run(tmp_path / "in", tmp_path / "out")
    data = json.loads((tmp_path / "out" / "detections.coco.json").read_text())
    assert len(data["images"]) == 1 and data["annotations"] == []


def test_memory_and_open_files_do_not_grow_with_the_number_of_images(run, tmp_path, save):
    """An image of 3 MB of pixels, 60 times; those of the second half would be 90 MB."""
    save(tmp_path / "in" / "0.png", size=(1000, 1000))
    for index in range(1, 60):
        (tmp_path / "in" / f"{index}.png").symlink_to(tmp_path / "in" / "0.png")
    peaks: list[int] = []

    def report(done: int, total: int, failed: int) -> None:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
        peaks.append(resident * os.sysconf("SC_PAGE_SIZE"))

    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    run(tmp_path / "in", tmp_path / "out", FolderOptions(0.01, batch_size=4), report=report)
    assert max(peaks[30:]) - max(peaks[:30]) < 40e6
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

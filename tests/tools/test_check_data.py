"""The check-data command: printed findings, written files and exit codes."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from resdet.datasets.checks.check import Report
from resdet.datasets.findings import Finding
from resdet.tools.check_summary import print_report

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

XML = "scenes/Annotations/train_00001.xml"


@pytest.fixture
def copied(tiny_config: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "given"
    shutil.copytree(tiny_config.parent, folder)
    return folder


@pytest.fixture
def swapped(copied: Path) -> Path:
    """The data set with the first box of one image as wide as the image, corners swapped."""
    path = copied / XML
    path.write_text(path.read_text().replace("<difficult>1<", "<difficult>0<"))  # left out else
    text = path.read_text()
    start, end = text.index("<xmin>"), text.index("</xmin>")
    text = text[:start] + "<xmin>120" + text[end:]
    start, end = text.index("<xmax>"), text.index("</xmax>")
    path.write_text(text[:start] + "<xmax>1" + text[end:])
    return copied


def test_a_clean_folder(resdet: Command, scenes: Path) -> None:
    done = resdet("check-data", scenes, "--workers", 0)
    assert (done.code, done.err) == (0, "")
    assert "train: 12 images" in done.out
    assert "18 images decoded" in done.out
    assert re.search(r"of \d+ boxes \d+ start at 0, \d+ at 1, \d+ end at the far edge", done.out)


@pytest.mark.parametrize("given", ["folder", "config"])
def test_the_limit_of_pixels(resdet: Command, scenes: Path, tiny_config: Path, given: str) -> None:
    words = [scenes] if given == "folder" else ["--cfg", tiny_config]
    done = resdet("check-data", *words, "--workers", 0, "--max-pixels", 100)
    assert done.code == 3
    assert "is over max_pixels 100" in done.out


def test_a_config_with_an_error(resdet: Command, swapped: Path) -> None:
    done = resdet("check-data", "--cfg", swapped / "tiny.yaml", "--quick")
    assert done.code == 3
    (line,) = done.err.splitlines()
    assert line == f"error: {swapped / 'tiny.yaml'}: 1 error, see above"
    assert "swapped_corners" in done.out
    assert "train_00001.xml" in done.out
    assert "headers only" in done.out
    assert "1 error, 0 warnings, 0 notes: training would stop" in done.out
    assert "VOC files are 1-based" in done.out
    mended = resdet("check-data", "--cfg", swapped / "tiny.yaml", "--quick", "data.on_bad_box=fix")
    assert mended.code == 0
    assert "0 errors, 1 warning, 0 notes: training accepts the data" in mended.out


def _summary(findings: list[Finding], capsys: pytest.CaptureFixture[str]) -> list[str]:
    report = Report("/in", tuple(findings), (), (), (), None, 0, 0.0)
    print_report(report, Path("/in"))
    return capsys.readouterr().out.splitlines()


def test_findings_are_grouped_with_what_settles_them(capsys: pytest.CaptureFixture[str]) -> None:
    boxes = [Finding("no_area", "error", Path(f"/in/{n}.xml"), "why") for n in range(5)]
    long = Finding("tiny_box", "warning", Path("/other/x.xml"), "z" * 999)
    lines = _summary([*boxes, long], capsys)
    at = next(number for number, line in enumerate(lines) if "no_area" in line)
    assert re.fullmatch(r"error +5  no_area  a box without width or height", lines[at])
    shown = [line.strip() for line in lines[at + 1 : at + 6]]
    assert shown[:4] == ["0.xml: why", "1.xml: why", "2.xml: why", "and 2 more"]
    assert shown[4].startswith("-> ") and "data.on_bad_box=drop" in shown[4]
    cut = next(line for line in lines if "/other/x.xml" in line)  # whole names outside the folder
    assert cut.endswith("z…") and len(cut) < 320
    assert "data.on_bad_box=drop settles all errors" in lines


def test_the_summary_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    findings = [
        Finding(f"kind_{kind}", "error", Path(f"{n}.xml"), "why")
        for kind in range(60)
        for n in range(100)
    ]
    lines = _summary(findings, capsys)
    assert len(lines) < 140
    assert "and 35 more kinds; --out DIR writes all" in lines


def test_the_next_command_after_errors_that_a_setting_settles(
    resdet: Command, swapped: Path
) -> None:
    def following(*words: object) -> list[str]:
        *_, last = resdet(*words).out.splitlines()
        assert last.startswith("next: resdet ")
        return shlex.split(last)[2:]

    config = swapped / "tiny.yaml"
    words = following("check-data", "--cfg", config, "--quick")
    assert words == ["check-data", "--cfg", str(config), "--quick", "data.on_bad_box=drop"]
    words = following(*words)
    assert words == ["train-det", "--cfg", str(config), "data.on_bad_box=drop"]
    assert resdet(*words, "--dry-run").code == 0
    words = following("check-data", swapped / "scenes", "--quick")
    assert words == ["check-data", str(swapped / "scenes"), "--write-config", "mine.yaml"]
    mine = swapped / "mine.yaml"
    words = following(*words[:3], str(mine), "--quick")
    assert words == ["check-data", "--cfg", str(mine), "data.on_bad_box=drop"]


def test_the_next_command_after_errors_that_no_setting_settles(
    resdet: Command, swapped: Path
) -> None:
    (swapped / XML).write_text("<annotation>")
    *_, last = resdet("check-data", swapped / "scenes", "--quick").out.splitlines()
    assert last == f"next: resdet check-data {swapped / 'scenes'} --quick --out checked"
    *_, last = resdet(*shlex.split(last)[2:], cwd=swapped).out.splitlines()
    assert last == f"next: resdet check-data {swapped / 'scenes'} --out checked --quick"


@pytest.mark.parametrize("config", ["caltech40_r18.yaml", "pets_r18.yaml", "pets_loc_r18.yaml"])
def test_configs_of_classifiers_and_localizers(
    resdet: Command, shared_data: Path, config: str
) -> None:
    done = resdet("check-data", "--cfg", config, f"data.root={shared_data}", "--quick")
    assert done.code == 0, done.err
    assert re.search(r"train: (1070|237) images", done.out)
    assert re.search(r"val: (357|59) images", done.out)


def test_a_config_of_a_classifier_with_an_error(resdet: Command, tmp_path: Path) -> None:
    for split, name in (("train", "ant"), ("train", "bee"), ("val", "ant"), ("val", "cow")):
        path = tmp_path / "images" / split / name / "a.png"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(path)
    config = tmp_path / "classes.yaml"
    config.write_text(
        "task: classification\ndata:\n  source: {format: image_folder, root: images}\n"
    )
    done = resdet("check-data", "--cfg", config, "--quick")
    assert done.code == 3
    assert "class_not_in_train" in done.out
    held_out = resdet("check-data", "--cfg", config, "--quick", "data.source.val_fraction=0.5")
    assert held_out.code == 0 and "val:" not in held_out.out


def test_the_report_the_page_and_the_cache(resdet: Command, swapped: Path, tmp_path: Path) -> None:
    out = tmp_path / "checked"
    words = ("check-data", swapped / "scenes", "--out", out, "--workers", 0)
    assert resdet(*words).code == 3
    report = json.loads((out / "data_report.json").read_text())
    assert report["counts"]["error"] == {"swapped_corners": 1}
    assert report["images_checked"] == 18
    page = (out / "data_report.html").read_text()
    assert page.count('#error-swapped-corners"') == 1
    assert page.index('id="error-swapped-corners"') < page.index("Images of each class")
    assert len((out / "images.jsonl").read_text().splitlines()) >= 18
    assert resdet(*words).code == 3
    again = json.loads((out / "data_report.json").read_text())
    assert again["findings"] == report["findings"]
    shutil.rmtree(out)
    assert resdet(*words, "--no-cache").code == 3
    assert sorted(path.name for path in out.iterdir()) == ["data_report.html", "data_report.json"]


def test_images_without_annotations(resdet: Command, shared_data: Path, tmp_path: Path) -> None:
    """Files for which Pillow, libtiff and libjpeg print warnings without a file name."""
    folder = tmp_path / "messy"
    shutil.copytree(shared_data / "messy_images", folder)
    done = resdet("check-data", folder, "--workers", 1, "--out", tmp_path / "out")
    assert done.code == 3
    assert re.fullmatch(r"(decoding: .*\n)*error: .*messy: \d+ errors, see above\n", done.err)
    refused = resdet("check-data", folder, "--classes", "cat")
    assert (refused.code, "--classes" in refused.err) == (2, True)


def test_the_class_list_is_written_as_a_config(
    resdet: Command, scenes: Path, tmp_path: Path
) -> None:
    path = tmp_path / "classes.yaml"
    done = resdet("check-data", scenes, "--quick", "--write-classes", path)
    assert done.code == 0, done.err
    expected = '["circle", "cross", "ring", "square", "star", "triangle"]'
    assert path.read_text() == f"data:\n  classes: {expected}\n"


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "give one PATH, or --cfg FILE"),
        (("a", "b"), "give one PATH"),
        (("/nowhere",), "/nowhere: no such folder"),
        (("/nowhere", "--format", "voc"), "/nowhere: no such folder"),
        (("--cfg", "voc_r101", "--format", "voc"), "--format: only for PATH"),
        (("--cfg", "voc_r101", "data.root=/nowhere"), "data.root"),
        ((".", "--workers", "-1"), "--workers: expected 0 or more"),
        ((".", "--format", "voc", "--annotations", "x.json"), "--annotations: not for voc"),
    ],
)
def test_error_messages(resdet: Command, scenes: Path, words: tuple[str, ...], reason: str) -> None:
    done = resdet("check-data", *words, cwd=scenes)
    assert done.code == 2
    assert reason in done.err
    assert "Traceback" not in done.err


# ---------------------------------------------------------------------------------- training


def test_training_stops_at_errors_that_the_check_reports(
    resdet: Command, swapped: Path, tmp_path: Path
) -> None:
    (swapped / "scenes/JPEGImages/val_00002.jpg").write_bytes(b"")
    words = ("train-det", "--cfg", swapped / "tiny.yaml", "--out", tmp_path / "run")
    done = resdet(*words)
    assert done.code == 3
    (line,) = done.err.splitlines()
    assert "data: 1 error (swapped_corners 1): " in line
    assert "train_00001.xml: train_00001.jpg: object 1" in line
    done = resdet(*words, "data.on_bad_box=drop")
    assert done.code == 3
    assert "data: 1 error (unreadable_image 1): " in done.err
    assert "val_00002.jpg: the file is empty" in done.err


def test_resolved_boxes_are_in_the_log_and_the_run_folder(
    resdet: Command, swapped: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = ("train-det", "--cfg", swapped / "tiny.yaml", "--out", run)
    done = resdet(*words, "data.on_bad_box=fix", "train.iterations=1")
    assert done.code == 0, done.err
    assert "boxes fixed 1" in done.out
    assert "found in data.train: swapped_corners 1" in done.out
    report = json.loads((run / "data_report.json").read_text())
    assert report["counts"]["warning"]["swapped_corners"] == 1
    (finding,) = (each for each in report["findings"] if each["kind"] == "swapped_corners")
    assert finding["outcome"] == "fixed"
    assert finding["file"].endswith("train_00001.xml")
    assert [split["images"] for split in report["splits"]] == [12, 6]

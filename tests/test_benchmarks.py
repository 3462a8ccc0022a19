"""The benchmarks run, and the two sides that they compare give the same outputs."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import gpu
import gpu_rows
import pytest
import torch
from PIL import Image
from resdet.detection.config.files import override
from resdet.detection.config.localizer import LocalizerConfig
from resdet.detection.extras import EXTRAS
from resdet.detection.tasks.localizer_network import build_localizer

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
TINY = "--size 96 128 --proposals 10 --rois 8 --repeats 1 --warmup 0 --threads 1"

Run = Callable[..., dict]


@pytest.fixture
def run(resdet: Command, tmp_path: Path) -> Run:
    """The report of ``run(SCRIPT, OPTION...)``."""

    def report(script: str, *options: object) -> dict:
        out = tmp_path / "out.json"
        done = resdet.python(BENCHMARKS / script, *options, "--json", out)
        assert done.returncode == 0, done.stderr
        return json.loads(out.read_text())

    return report


def test_detector_measures_both_sides(run: Run) -> None:
    report = run("detector.py", *TINY.split(), "--depth", 18, "--apart")
    for result in ("inference_s", "train_s", "memory_mb"):
        assert {"ours", "torchvision"} <= set(report[result])
    for result in ("inference_s", "train_s"):
        times = report[result]
        seconds = times["torchvision, memory returned"]["median"] / times["ours"]["median"]
        assert times["ratio, memory returned"]["median"] == seconds > 0
    assert set(report["parts_s"]) == {"trunk", "proposals", "head", "finish"}
    for memory in report["memory_mb"].values():
        assert memory["peak"] > memory["before"] > 0


def test_detector_compares_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    detector, sides_module = map(importlib.import_module, ("detector", "sides"))
    monkeypatch.setattr(sys, "argv", ["detector.py", *f"{TINY} --depth 50".split()])
    args = detector.parse_arguments()
    sides = [sides_module.make_side(name, args) for name in sides_module.SIDES]

    found = detector.compare(sides, precision="fp32")
    assert 0 < found["features"] < 1e-4, "0 means that a tensor was compared with itself"
    assert found["class logits"] < 1e-4 and found["box deltas"] < 1e-4
    assert found["proposals only one has"] == 0 and found["detections only one has"] == 0

    sides[1].model.backbone[1][0].bn1.bias[0] += 0.5
    with pytest.raises(SystemExit, match="disagree"):
        detector.compare(sides, precision="fp32")


def test_int8_measures_every_runtime_that_is_installed(run: Run) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    rows = run("int8.py", *TINY.split(), "--depth", 18, "--classes", 3)["seconds"]
    assert {"ours, fp32", "int8, onnx", "torchvision, fp32", "the same, memory returned"} <= set(
        rows
    )
    for row in rows.values():
        assert row["ours / it, wall"] == pytest.approx(rows["ours, fp32"]["wall"] / row["wall"])


def test_small_data_scores_every_side_alike(resdet: Command, tmp_path: Path) -> None:
    resdet("get-data", "synthetic", "--out", tmp_path, "--train", 12, "--val", 3)
    tiny = ["backbone.width=8", "image.short_side_train=[64]", "image.short_side_test=64"]
    command = [tmp_path / "synthetic", "--cfg", "quickstart_r18.yaml", "--split", "val"]
    command += ["--out", tmp_path / "out", "--sides", "ours", "torchvision", "--minutes", 0.02]
    command += ["--seeds", 0, "--set", *tiny]
    for _ in range(2):  # the second time nothing is trained
        done = resdet.python(BENCHMARKS / "small_data.py", *command)
        assert done.returncode == 0, done.stderr
        rows = json.loads((tmp_path / "out" / "results.json").read_text())
        assert [row["side"] for row in rows] == ["ours", "torchvision"]
        assert all(0 <= row["ap"] <= row["map50"] <= 1 and row["seconds"] > 0 for row in rows)


def test_growth_varies_one_quantity_at_a_time(run: Run, tmp_path: Path) -> None:
    plot = tmp_path / "growth.png"
    tiny = "--depth 18 --around 64 10 1 1 --side 64 --proposals 10 20 --batch 2 --threads 1"
    options = f"{tiny} --classes 3 --repeats 1 --warmup 0 --only proposals batch --plot {plot}"
    rows = run("growth.py", *options.split())["rows"]
    assert [(row["varied"], row["proposals"], row["batch"]) for row in rows] == [
        ("proposals", 10, 1),
        ("proposals", 20, 1),
        ("batch", 10, 2),
    ]
    assert all(row["ours"] > 0 and row["torchvision"] > 0 and row["share"] > 0 for row in rows)
    with Image.open(plot) as drawn:
        assert drawn.width == 2 * drawn.height * 4 / 3


def test_folders_are_run_by_every_side(run: Run) -> None:
    tiny = "--images 1 --size 96 128 --depth 18 --classes 3 --proposals 10 --threads 1 --repeats 1"
    assert set(run("folder_speed.py", *tiny.split())["images_per_second"]) == {
        "resdet infer",
        "torchvision",
    }


def test_improvements_are_compared_with_plain_inference(run: Run) -> None:
    pyramid = "pyramid of five scales"
    tiny = "--depth 18 --size 96 128 --side 96 --classes 3 --repeats 1 --warmup 0 --threads 1"
    report = run("improvements.py", *tiny.split(), "--only", pyramid)
    assert set(report["seconds"]) == set(report["peak_mb"]) == {"plain", pyramid}
    assert all(min(seconds) > 0 for seconds in report["seconds"].values())
    assert report["proposals"] > 20, "otherwise the cost of the regions is not measured"
    assert all(peak > 100 for peak in report["peak_mb"].values())


def test_loader_agrees_with_torchvision(run: Run) -> None:
    options = "--images 6 --size 96 128 --workers 0 2 --repeats 1"
    report = run("loader.py", *options.split())
    agreement = report["agreement"]
    assert agreement["size_px"] == 0 and agreement["boxes_px"] < 1e-3
    assert agreement["pixels_levels"] < 1
    assert set(report["images_per_second"]) == {"0", "2"}
    assert set(report["ms_per_image"]) == {
        "read and decode",
        "resize",
        "flip and augment",
        "checks",
        "collate",
    }


def test_a_classifier_agrees_with_torchvision_and_both_are_measured(run: Run) -> None:
    tiny = "--images 6 --classes 2 --size 64 96 --side 32 --batch 2 --steps 1 --threads 1"
    report = run("classifier.py", *tiny.split(), "--repeats", 1, "--warmup", 0)
    assert 0 < report["agreement"] < 1e-4, "0 means that a tensor was compared with itself"
    for name in ("training", "one_crop", "ten_crop"):
        assert report[name]["ours"]["median"] > 0 and report[name]["torchvision"]["median"] > 0
        assert report[name]["ours / torchvision"]["median"] > 0
    assert 0 < report["training"]["share of data"]["median"] < 1


def test_the_localizers_heads_agree_and_are_measured(run: Run) -> None:
    tiny = "--depth 18 --classes 20 --batch 2 --size 64 --repeats 1 --threads 1"
    report = run("localizer.py", *tiny.split())
    assert set(report["sides"]) == {"ours", "dense"}
    for side in report["sides"].values():
        assert side["peak_mb"] > side["weights_mb"] > 0 and side["seconds"] > 0
        assert side["losses"]["loss_cls"] > 0


def test_gpu_checks_hold_on_a_cpu(run: Run) -> None:
    """Small networks; detectron2's numbers where they are."""
    report = run("gpu.py", "--device", "cpu", "--only", "checks", "--minutes", 60)
    verdicts = {row["name"]: row["verdict"] for row in report["rows"]}
    assert set(verdicts.values()) <= {"ok", "measured", "skipped"}
    assert verdicts["resume, bf16"] == verdicts["large pass, CPU"] == verdicts["RoIPool"] == "ok"
    assert verdicts["order of the shortcut"] == "measured"
    assert verdicts["compiled, default"] == "ok"
    assert report["machine"]["cpu"] and report["settings"]["device"] == "cpu"
    assert all(row["values"].keys() >= row["limits"].keys() for row in report["rows"])


def test_gpu_speed_is_measured_on_both_sides(run: Run) -> None:
    report = run("gpu.py", "--device", "cpu", "--only", "speed", "--minutes", 60)
    rows = {row["name"]: row["values"] for row in report["rows"]}
    assert {row["verdict"] for row in report["rows"]} == {"measured"}
    training = rows["training R18 64x96 b2"]
    assert training["ratio"] > 0 and training["share of peak"] > 0
    for name in ("inference R18 64x96 b1", "training classifier R18 b4", "data pipeline"):
        assert rows[name]["ours images/s"] > 0 and rows[name]["torchvision images/s"] > 0
    assert rows["compiled R18 64x96 b1"]["default images/s"] > 0


def test_gpu_golden_numbers(golden: Path, run: Run) -> None:
    rows = run("gpu.py", "--device", "cpu", "--only", "golden", "--golden", golden)["rows"]
    assert len(rows) == 6 and {row["verdict"] for row in rows} == {"ok"}


def test_a_gpu_check_that_fails_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.json"

    def parts_of(value: float) -> Iterator[gpu_rows.Row]:
        yield gpu_rows.Row("first", {"error": 0.5}, {"error": 0.5})
        written = json.loads(path.read_text())["rows"]
        assert written[-1]["name"] == "first", "written as it comes"
        yield gpu_rows.Row("second", {"error": value}, {"error": 0.5})

    def raising(setup: gpu_rows.Setup) -> Iterator[gpu_rows.Row]:
        yield gpu_rows.Row("third", {"ms": 3.0})
        raise RuntimeError("CUDA error:\nunspecified launch failure")

    def outcome(minutes: float = 60, **parts: gpu_rows.Part) -> tuple[int, list[str]]:
        monkeypatch.setattr(gpu, "PARTS", parts)
        words = ["gpu.py", "--device", "cpu", "--json", str(path), "--minutes", str(minutes)]
        monkeypatch.setattr(sys, "argv", words)
        code = gpu.main()
        return code, [row["verdict"] for row in json.loads(path.read_text())["rows"]]

    assert outcome(parts=lambda setup: parts_of(0.4)) == (0, ["ok", "ok"])
    assert outcome(parts=lambda setup: parts_of(0.6)) == (1, ["ok", "FAILED"])
    assert outcome(parts=lambda setup: parts_of(float("nan"))) == (1, ["ok", "FAILED"])
    assert "FAILED" in capsys.readouterr().out
    found = outcome(broken=raising, parts=lambda setup: parts_of(0.4))
    assert found == (1, ["measured", "FAILED", "ok", "ok"])
    assert "failed: RuntimeError: CUDA error: unspecified launch failure" in capsys.readouterr().out
    assert outcome(0, one=lambda setup: parts_of(0.4)) == (0, ["skipped"])
    clock = SimpleNamespace(perf_counter=iter(range(100)).__next__)
    monkeypatch.setattr(gpu_rows, "time", clock)
    some = outcome(2 / 60, one=lambda setup: parts_of(0.4), two=lambda setup: parts_of(0.4))
    assert some == (0, ["ok", "skipped", "skipped"])


def test_image_memory_reads_each_of_its_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    image_memory = importlib.import_module("image_memory")
    image_memory.write_images(tmp_path / "images", 1000)
    paths = sorted((tmp_path / "images").iterdir())
    assert len(paths) == 10
    assert all(image_memory.decoding_peak(path) > 1e6 for path in paths)


def test_the_server_is_measured_attacked_and_stopped(run: Run) -> None:
    for name in EXTRAS["serve"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[serve]'")
    tiny = "--depth 18 --width 8 --side 64 --images 4 --clients 4 --uploads 36 --repeats 1"
    tiny += " --threads 1"
    report = run("serving.py", *tiny.split())
    assert all(min(rates) > 0 for rates in report["throughput"]["images_per_s"].values())
    assert sum(report["hostile"]["answers"].values()) == 36
    assert report["stop"]["answered"] == 4


def test_exports_are_compared_with_what_was_put_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder of CSV stands for the export of a tool."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    exports = importlib.import_module("exports")
    folder = tmp_path / "tool" / "csv"
    folder.mkdir(parents=True)
    (tmp_path / "tool" / "version.txt").write_text("tool 1.0\n")
    rows = ["image,class,x1,y1,x2,y2"]
    for name, objects in exports.TRUTH.items():
        Image.new("RGB", (exports.WIDTH, exports.HEIGHT)).save(folder / name)
        rows += [f"{name},{','.join(map(str, obj))}" for obj in objects]
    (folder / "x.csv").write_text("\n".join(rows))
    assert exports.read(tmp_path) == 0
    assert capsys.readouterr().out == "tool 1.0\n  csv: csv, 3 images, clean: as put in\n"
    (folder / "x.csv").write_text("\n".join(rows[:-1]))
    assert exports.read(tmp_path) == 1
    assert "differs" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_scale_measures_a_start_its_workers_and_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    scale, scale_data = map(importlib.import_module, ("scale", "scale_data"))
    monkeypatch.setattr(scale_data, "CLASSES", 3)
    scale_data.coco(tmp_path / "coco", images=70, objects=200)
    sizes = {"eval_images": 3, "detections": 30, "images": 50, "folder_images": 20}
    args = argparse.Namespace(scratch=tmp_path, **sizes)

    figures = scale.coco(args)
    assert figures["rss_mb"] > figures["own_mb"] > 10 and figures["cpu_s"] > 0.05
    assert figures["worker_mb"] > 0 and figures["worker_growth_mb"] < 50
    assert scale.sampler(args)["coco_batches_per_s"] > 100
    assert scale.evaluation(args)["pycocotools_s"] > 0
    scale_data.class_folders(tmp_path / "image_folder", images=1001)
    assert len(list((tmp_path / "image_folder" / "train").glob("*/*.JPEG"))) == 1001


def test_operations_and_waits_for_a_gpu_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    operations = importlib.import_module("operations")
    values = torch.arange(6.0)
    found = operations.counted(lambda: (values[values > 2].sum().item(), values.tolist()))
    assert (found["mask"], found["_local_scalar_dense"], found["tolist"]) == (1, 1, 1)
    assert found["synchronisations"] == 3
    words = ["network.depth=18", "network.width=8"]
    localizer = build_localizer(override(LocalizerConfig(), words), operations.CLASSES)
    few, many = (
        operations.step(localizer, operations.draw_batch(images, objects=1)) for images in (1, 4)
    )
    assert few["synchronisations"] == many["synchronisations"] == 3

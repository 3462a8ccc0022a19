"""What infer takes and writes on request: folders, thresholds, classes, crops and formats."""

from __future__ import annotations

import json
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from resdet.detection.predictor import load

CLASSES = ("circle", "cross", "ring", "square", "star", "triangle")


@pytest.fixture(scope="module")
def images(scenes, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("infer") / "in"
    folder.mkdir()
    for path in sorted((scenes / "JPEGImages").iterdir())[:3]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def infer(resdet, tiny_run, images, tmp_path):
    def start(*words: object, code: int = 0):
        done = resdet("infer", "--weights", tiny_run / "weights/best.pt", *words, cwd=tmp_path)
        assert done.code == code, done.out + done.err
        return done

    return start


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "detections.jsonl").open(encoding="utf-8")]


def found(out: Path) -> list[tuple[str, float]]:
    return [(d["label"], d["score"]) for record in lines(out) for d in record["detections"]]


def test_without_out_each_run_has_a_new_folder(infer, images, tmp_path):
    for _ in range(2):
        infer(images, "--no-draw")
    runs = list((tmp_path / "runs/infer").iterdir())
    assert len(runs) == 2 and all(len(lines(run)) == 3 for run in runs)
    assert "--resume: give --out" in infer(images, "--resume", code=2).err


def test_crops_are_the_pixels_of_the_boxes(infer, images, tmp_path):
    infer(images, "--out", "out", "--conf", "0.1", "--save-crop", "--no-draw")
    crops = 0
    for record in lines(tmp_path / "out"):
        pixels = np.asarray(Image.open(images / record["file"]).convert("RGB")).astype(int)
        for detection in record["detections"]:
            x1, y1, x2, y2 = detection["box"]
            expected = pixels[math.floor(y1) : math.ceil(y2), math.floor(x1) : math.ceil(x2)]
            path = tmp_path / "out" / detection["crop"]
            assert path.parent == tmp_path / "out/crops" / detection["label"]
            crop = np.asarray(Image.open(path)).astype(int)
            assert crop.shape == expected.shape
            assert np.abs(crop - expected).mean() < 12  # JPEG
            crops += 1
    assert crops == len(list((tmp_path / "out/crops").rglob("*.jpg"))) > 3


def test_a_threshold_for_each_class(infer, images, tmp_path):
    infer(images, "--out", "all", "--conf", "0.05", "--no-draw")
    every = found(tmp_path / "all")
    label = max(CLASSES, key=lambda name: sum(label == name for label, _ in every))
    scores = sorted(score for name, score in every if name == label)
    gaps = [(after - before, (after + before) / 2) for before, after in pairwise(scores)]
    least = max(gaps)[1]  # records are rounded
    infer(images, "--out", "out", "--conf", "0.05", "--conf", f"{label}={least}", "--no-draw")
    expected = [(n, s) for n, s in every if s >= (least if n == label else 0.05)]
    assert found(tmp_path / "out") == expected and 0 < len(expected) < len(every)
    assert json.loads((tmp_path / "out/meta.json").read_text())["class_thresholds"] == {
        label: least
    }

    infer(images, "--out", "word", "--conf", f"0.05, {label} = {least}", "--no-draw")
    assert found(tmp_path / "word") == expected
    done = infer(images, "--out", "no", "--conf", "circel=0.5", code=2)
    assert "class circel: the model does not know it; did you mean circle?" in done.err
    done = infer(images, "--out", "no", "--conf", "circle=50", code=2)
    assert "score threshold 50.0 of class circle is not between 0 and 1" in done.err
    assert "score threshold 50.0 is not" in infer(images, "--conf", "50", code=2).err
    assert "expected a score such as 0.3" in infer(images, "--conf", "circle", code=2).err


def test_spaces_around_classes(infer, images, tmp_path):
    infer(images, "--out", "out", "--conf", "0.01", "--classes", " circle, star ,", "--no-draw")
    assert {label for label, _ in found(tmp_path / "out")} == {"circle", "star"}
    done = infer(images, "--out", "no", "--classes", "Star", code=2)
    assert "class Star: the model does not know it; did you mean star?" in done.err


def test_one_box_for_one_place(infer, images, tmp_path):
    options = ("--conf", "0", "--no-draw", "test.nms_iou=0.3")
    infer(images, "--out", "classes", *options)
    infer(images, "--out", "agnostic", "--agnostic-nms", *options)
    assert _largest_overlap(tmp_path / "classes") > 0.3 >= _largest_overlap(tmp_path / "agnostic")
    best = [record["detections"][0] for record in lines(tmp_path / "classes")]
    assert [record["detections"][0] for record in lines(tmp_path / "agnostic")] == best
    done = infer(images, "--agnostic-nms", "test.suppress.method=wbf", code=2)
    assert "suppress.class_agnostic is for suppress.method=nms" in done.err


def _largest_overlap(out: Path) -> float:
    largest = 0.0
    for record in lines(out):
        boxes = [detection["box"] for detection in record["detections"]]
        for index, a in enumerate(boxes):
            for b in boxes[:index]:
                width = min(a[2], b[2]) - max(a[0], b[0])
                height = min(a[3], b[3]) - max(a[1], b[1])
                both = max(width, 0) * max(height, 0)
                areas = sum((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
                largest = max(largest, both / (areas - both))
    return largest


@pytest.mark.parametrize("format", ["yolo", "voc", "coco", "csv", "labelstudio", "cvat", "labelme"])
def test_every_format_holds_every_box(infer, images, tmp_path, format):
    infer(images, "--out", "out", "--conf", "0.1", "--format", format, "--no-draw")
    (folder,) = (tmp_path / "out/annotations").iterdir()
    boxes = len(found(tmp_path / "out"))
    assert boxes > 3 and boxes == _boxes_in(folder, format)


def _boxes_in(folder: Path, format: str) -> int:
    text = {path: path.read_text() for path in folder.rglob("*") if path.is_file()}
    if format == "yolo":
        return sum(
            len(each.split("\n")) - 1
            for path, each in text.items()
            if path.parent.name != folder.name and path.suffix == ".txt" and "labels" in path.parts
        )
    if format == "csv":
        rows = "\n".join(each for path, each in text.items() if path.suffix == ".csv")
        return sum(any(name in row for name in CLASSES) for row in rows.split("\n")[1:])
    words = {"voc": "<object>", "cvat": "<box ", "coco": '"bbox"', "labelme": '"points"'}
    words["labelstudio"] = '"rectanglelabels": ['
    return sum(each.count(words[format]) for each in text.values())


UNUSABLE = {
    "missing.png": "no such file",
    "pics.zip": "is an archive: unpack it",
    "list.csv": "a list of images is a .txt file",
    "list.json": "a list of images is a .txt file",
    "https://example.org/a.jpg": "is a URL: download the images",
    "s3://bucket/a.jpg": "give the files, or list them: resdet manifest --help",
    "a.pgn": "did you mean a.png?",
    "a.png,a.png": "separate inputs by spaces",
    "-": "not read from the standard input",
    "nowhere/a.png": "nor is there a folder nowhere",
    "*.PNG": "no images in it",
    "empty": "no images in it",
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_input_that_cannot_be_used_is_an_error(infer, images, tmp_path, name):
    shutil.copy(next(images.iterdir()), tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    for file in ("pics.zip", "list.csv", "list.json"):
        (tmp_path / file).write_bytes(b"PK")
    done = infer("a.png", name, "--out", "out", "--no-draw", code=2)
    assert UNUSABLE[name] in done.err and not (tmp_path / "out").exists()


def test_a_damaged_image_that_was_named_is_not_a_success(infer, images, tmp_path):
    """One in a folder or a list is, unless --strict asks."""
    shutil.copytree(images, tmp_path / "in")
    (tmp_path / "in/photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    (tmp_path / "in/bad.jpg").write_text("<html>")
    good = next(images.iterdir())
    infer(good, tmp_path / "in/photo.heic", "--out", "a", "--no-draw", code=5)
    infer(good, tmp_path / "in/bad.jpg", "--out", "b", "--no-draw", code=5)
    nothing = infer(tmp_path / "in/bad.jpg", "--out", "none", "--no-draw", code=5)
    assert "1 of 1 images done, 0 detections, 1 failed\n" in nothing.out  # without a rate
    assert "failed: bad.jpg" in nothing.out and "next" not in nothing.out
    infer(tmp_path / "in", "--out", "c", "--no-draw")
    (tmp_path / "list.txt").write_text(f"# comment\n\n{good}\nnope.png\n")
    infer(tmp_path / "list.txt", "--out", "d", "--no-draw")
    assert [("error" in record) for record in lines(tmp_path / "d")] == [False, True]


def test_the_limit_of_pixels(infer, images, tmp_path):
    infer(images, "--out", "none", "--no-draw", "--max-pixels", 100, code=5)
    assert all("over max_pixels 100" in record["error"] for record in lines(tmp_path / "none"))
    done = infer(next(images.iterdir()), "--out", "x", "--max-pixels", 0, code=2)
    assert "--max-pixels" in done.err


def test_tiles(infer, images, tiny_run, tmp_path):
    """Of an image that is larger than a tile; the command and the Python interface agree."""
    photos = [np.asarray(Image.open(path)) for path in sorted(images.iterdir())]
    Image.fromarray(np.concatenate([np.concatenate(photos, axis=1)] * 2)).save(tmp_path / "big.png")
    infer("big.png", "--out", "plain", "--conf", "0", "--no-draw")
    infer("big.png", "--out", "out", "--conf", "0", "--tile", "128", "--overlap", "0.3")
    infer("big.png", "--out", "large", "--conf", "0", "--tile", "384", "--no-draw")
    plain, tiled, large = (lines(tmp_path / name) for name in ("plain", "out", "large"))
    assert large[0]["detections"] == plain[0]["detections"]
    assert len(tiled[0]["detections"]) > len(plain[0]["detections"]) == 100
    assert {"tile": 128, "overlap": 0.3}.items() <= json.loads(
        (tmp_path / "out/meta.json").read_text()
    ).items()

    predictor = load(tiny_run / "weights/best.pt").tiled(128, 0.3)
    (found,) = predictor.predict([tmp_path / "big.png"])
    boxes = [each["box"] for each in tiled[0]["detections"]]
    assert np.allclose(found.boxes, boxes, atol=1e-3)
    assert "tiles of 128 px that overlap by 0.3" in predictor.testing

    assert "give --tile" in infer("big.png", "--overlap", "0.3", code=2).err
    assert "the least side is 32" in infer("big.png", "--tile", "8", code=2).err


def test_a_video(infer, images, tiny_run, tmp_path):
    """Each frame is found what its image would be; a cut file and a mistyped one are errors."""
    photos = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(images.iterdir())] * 4
    writer = cv2.VideoWriter(
        str(tmp_path / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, photos[0].shape[1::-1]
    )
    for photo in photos:
        writer.write(np.ascontiguousarray(photo[..., ::-1]))
    writer.release()
    done = infer("clip.avi", "--out", "out", "--conf", "0.1", "--every", "5", "--batch-size", "2")
    rate = re.search(r"1 of 1 videos done, .*, 0 failed, (\S+) frames/s", done.out)
    assert rate and float(rate[1]) > 0
    text = (tmp_path / "out/frames/clip.avi.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert [(one["frame"], one["time"]) for one in found] == [(0, 0), (5, 0.5), (10, 1.0)]
    capture = cv2.VideoCapture(str(tmp_path / "clip.avi"))
    frames = [capture.read()[1] for _ in photos]
    expected = load(tiny_run / "weights/best.pt").predict(
        [np.ascontiguousarray(frames[number][..., ::-1]) for number in (0, 5, 10)],
        score_threshold=0.1,
        batch_size=2,
    )
    for one, each in zip(found, expected, strict=True):
        boxes = [detection["box"] for detection in one["detections"]]
        assert len(boxes) > 1 and np.allclose(boxes, each.boxes, atol=1e-3)
    assert (tmp_path / "out/drawn/clip.avi.mp4").stat().st_size > 1000
    assert json.loads((tmp_path / "out/meta.json").read_text())["every"] == 5

    data = (tmp_path / "clip.avi").read_bytes()
    (tmp_path / "cut.avi").write_bytes(data[: len(data) // 2])
    assert "of 12 frames: it was cut" in infer("cut.avi", "--out", "cut", code=5).out
    webcam = infer("987", "--out", "webcam", code=5).out
    assert "no such webcam" in webcam and "s/s" not in webcam
    image = next(images.iterdir())
    assert "did you mean clip.avi?" in infer("clpi.avi", code=2).err
    assert "need a run each" in infer("clip.avi", image, code=2).err
    assert "--every: is for videos" in infer(image, "--every", "2", code=2).err
    assert "not of videos" in infer("clip.avi", "--format", "coco", code=2).err
    assert "--page: it shows images" in infer("clip.avi", "--page", code=2).err


def test_hidden_images_on_request(infer, images, tmp_path):
    shutil.copytree(images, tmp_path / "in")
    (tmp_path / "in" / "._a.jpg").write_bytes(b"\0\5\x16\7Mac OS X")
    assert "3 of 3 images done" in infer("in", "--no-draw").out
    done = infer("in", "--no-draw", "--include-hidden", code=0)
    assert "4 of 4 images done" in done.out and "failed: ._a.jpg" in done.out


@pytest.mark.parametrize("words", [("--engine", "ray"), ("--actors", 2), ("--parts", "parquet")])
def test_options_of_manifests_are_refused_without_one(infer, images, words):
    done = infer(images, *words, code=2)
    assert "--engine, --actors and --parts: only of a run with --manifest" in done.err


def test_a_line_of_a_list_that_no_file_name_can_be(infer, images, tmp_path):
    long = "x" * 300 + ".jpg"
    (tmp_path / "list.txt").write_text(f"{next(images.iterdir())}\n{long}\n")
    done = infer("list.txt", "--out", "long")
    assert "2 of 2 images done" in done.out and f"failed: {long}: " in done.out
    assert "2 of 2 images done" in infer("list.txt", "--out", "long", "--resume").out

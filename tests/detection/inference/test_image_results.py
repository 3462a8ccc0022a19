"""What every result can do, on those of the detector of spots."""

from __future__ import annotations

import copy
import json
import pickle
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.detection.errors import ConfigError, ImageError
from resdet.detection.inference.draw import draw_detections
from resdet.detection.inference.folder import FolderOptions, run_folder
from resdet.detection.inference.inputs import find_inputs
from resdet.detection.inference.result_image import ResultImage
from resdet.detection.inference.result_types import Detection, DetectionResult
from resdet.detection.structures import Detections

CLASSES = ("cat", "dog <b>")
BOXES = [[1.0, 2.0, 11.0, 12.0], [5.0, 5.0, 25.0, 15.0], [0.5, 0.5, 3.25, 4.0]]


@pytest.fixture
def result() -> DetectionResult:
    """A dog, a cat and a dog in an array of 40 x 30."""
    found = Detections(torch.tensor(BOXES), torch.tensor([0.9, 0.6, 0.3]), torch.tensor([1, 0, 1]))
    pixels = np.arange(30 * 40 * 3, dtype=np.uint8).reshape(30, 40, 3)
    return DetectionResult(found, CLASSES, ResultImage("a.png", (30, 40), kept=pixels))


def test_boxes_scores_labels_and_names(result):
    assert result.boxes.tolist() == BOXES
    assert result.scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert result.labels.tolist() == [1, 0, 1]
    assert result.names == ["dog <b>", "cat", "dog <b>"]
    assert (len(result), result.file, result.size) == (3, "a.png", (30, 40))


def test_iteration_and_indexing(result):
    items = list(result)
    assert items[1] == result[1] == Detection("cat", pytest.approx(0.6), (5, 5, 25, 15), 0)
    assert result[-1] == items[2]
    assert result[np.int64(0)] == result[torch.tensor(0)] == items[0]
    for index in (slice(1, None), [1, 2], torch.tensor([1, 2]), np.array([False, True, True])):
        part = result[index]
        assert isinstance(part, DetectionResult)
        assert list(part) == items[1:]
        assert part.classes == CLASSES
    assert list(result[::-1]) == items[::-1]
    assert list(result[result.scores > 0.5]) == items[:2]
    assert list(result[[]]) == []
    with pytest.raises(IndexError):
        result[3]
    with pytest.raises(IndexError, match="a mask of 2 for 3 detections"):
        result[[True, False]]


def test_filtering(result):
    assert result.filter(score_threshold=0.5).names == ["dog <b>", "cat"]
    assert result.filter(score_threshold=float(result.scores[1])).names == ["dog <b>", "cat"]
    assert result.filter(classes="cat").names == result.filter(classes=["cat"]).names == ["cat"]
    assert len(result.filter(score_threshold=0.7, classes=["cat"])) == 0
    assert len(result.filter(classes=[])) == 0
    assert result.top(1).names == ["dog <b>"]
    with pytest.raises(ConfigError, match=r"class cta: .*did you mean cat"):
        result.filter(classes=["cta"])
    with pytest.raises(ConfigError, match="50 is not between 0 and 1"):
        result.filter(score_threshold=50)
    with pytest.raises(ConfigError, match=r"top\(-1\)"):
        result.top(-1)


def test_an_empty_result(result, tmp_path):
    empty = result[[]]
    assert list(empty) == empty.names == empty.crops() == []
    assert "0 detections" in repr(empty)
    assert empty.to_dict()["detections"] == []
    assert np.array_equal(np.asarray(empty.draw()), result.image.pixels)
    assert "<img" in empty._repr_html_()


def test_the_repr_is_short_and_printable(result):
    lines = repr(result).split("\n")
    assert lines[0] == "DetectionResult: a.png, 40 x 30, 3 detections"
    assert lines[1] == "  dog <b> 0.900  [1.0, 2.0, 11.0, 12.0]"
    many = result[[0] * 500]
    assert repr(many).endswith("  … and 490 more")
    odd = DetectionResult(result.found, ("a\nb", "c"), ResultImage("x\x1b[1m.png", (30, 40)))
    assert repr(odd).count("\n") == 3
    assert "\x1b" not in repr(odd)


def test_notebooks_show_image_and_table(result):
    page = result._repr_html_()
    assert page.count('<img src="data:image/jpeg;base64,') == 1
    assert "dog &lt;b&gt;" in page
    assert "<b>" not in page
    gone = DetectionResult(result.found, CLASSES, ResultImage("no.png", (30, 40)))
    assert "its pixels were not kept" in gone._repr_html_()


def test_drawing_is_that_of_the_command(result, tmp_path):
    expected = draw_detections(result.image.pixels, result.found, CLASSES)
    assert np.array_equal(np.asarray(result.draw()), expected)
    assert not np.array_equal(expected, result.image.pixels)
    path = result.save(tmp_path / "deep" / "a.png")
    assert np.array_equal(np.asarray(Image.open(path)), expected)
    assert Image.open(result.save(str(tmp_path / "a.jpg"))).format == "JPEG"
    with pytest.raises(ConfigError, match="a suffix such as"):
        result.save(tmp_path / "a")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        result.save(tmp_path / "file" / "a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "deep", "file"]


def test_crops_hold_the_pixels_of_the_boxes(result):
    crops = [np.asarray(crop) for crop in result.crops()]
    assert np.array_equal(crops[0], result.image.pixels[2:12, 1:11])
    assert np.array_equal(crops[2], result.image.pixels[0:4, 0:4])  # those covered in part, too


def test_results_of_files_read_them_again(predictor, save, tmp_path):
    path = save(tmp_path / "a.png")
    found = predictor(path, score_threshold=0.1)
    assert found.image.kept is None
    assert len(pickle.dumps(found)) < 5000
    assert np.array_equal(found.image.pixels, np.asarray(Image.open(path)))
    Image.new("RGB", (50, 50)).save(path)
    with pytest.raises(ImageError, match=r"had \(40, 60\) pixels \(h, w\), now \(50, 50\)"):
        found.draw()
    path.unlink()
    with pytest.raises(ImageError, match="no such file"):
        found.draw()


def test_results_can_be_copied_and_pickled(result):
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result))):  # noqa: S301
        assert list(other) == list(result)
        assert np.array_equal(np.asarray(other.draw()), np.asarray(result.draw()))


def test_records_and_tables_are_those_of_infer(predictor, save, tmp_path):
    """From Python and in the files that a run over the same folder writes."""
    pandas = pytest.importorskip("pandas")
    for number in range(3):
        save(tmp_path / "in" / f"{number}.png", red=(1, 2, 9 + number, 30), blue=(30, 3, 40, 9))
    (tmp_path / "in" / "bad.png").write_text("<html>")
    run_folder(
        predictor,
        find_inputs([tmp_path / "in"]),
        tmp_path / "out",
        FolderOptions(0.01, draw=False),
    )
    results = list(predictor.stream(tmp_path / "in", score_threshold=0.01, on_error="return"))
    lines = (tmp_path / "out" / "detections.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    of_files = [[record.pop(name) for name in ("bytes", "modified")] for record in records]
    assert [json.loads(each.to_json()) for each in results] == records
    assert of_files[3][0] == len("<html>")
    assert [each["label"] for each in records[0]["detections"]] == results[0].names
    table = pandas.read_csv(tmp_path / "out" / "detections.csv")
    expected = table[table["error"].isna()].drop(columns="error").reset_index(drop=True)
    found = pandas.concat([each.to_pandas() for each in results[:3]], ignore_index=True)
    pandas.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert [*results[0][[]].to_pandas().columns] == [*expected.columns]


def test_supervision_takes_detections(result):
    supervision = pytest.importorskip("supervision")
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections)
    assert found.xyxy.tolist() == BOXES
    assert found.class_id.tolist() == [1, 0, 1]
    assert found.confidence.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert found.data["class_name"].tolist() == result.names
    assert len(found[found.confidence > 0.5]) == 2
    scene = supervision.BoxAnnotator().annotate(result.image.pixels.copy(), found)
    assert not np.array_equal(scene, result.image.pixels)
    assert len(result[[]].to_supervision()) == 0


@pytest.mark.parametrize(
    ("library", "method"), [("pandas", "to_pandas"), ("supervision", "to_supervision")]
)
def test_a_missing_library_is_named(result, monkeypatch, library, method):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=rf"{method}\(\) needs {library}: pip install {library}"):
        getattr(result, method)()

"""What the page of a detector shows of its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from resdet.detection.errors import ImageError
from resdet.detection.evaluation import error_page
from resdet.detection.evaluation.advice import costliest, doubled
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.evaluation.error_counts import SCORES
from resdet.detection.evaluation.error_page import error_view
from resdet.detection.evaluation.image_records import ImageRecords, read_images
from resdet.detection.evaluation.page import Page, render_page
from resdet.detection.evaluation.report import write_report
from resdet.detection.pages.shots import class_hex
from resdet.detection.structures import Annotation, Detections, Record

CAT, DOG = [0.0, 0, 40, 40], [60.0, 60, 90, 90]
EVIL = "</script><script>alert(1)</script>"


def _record(name: str, boxes: list[list[float]], labels: list[int]) -> Record:
    truth = Annotation(
        torch.tensor(boxes).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        torch.zeros(len(labels), dtype=torch.bool),
    )
    return Record(name, Path(f"/{name}.jpg"), (100, 100), truth)


def _found(*rows: tuple[list[float], int, float]) -> Detections:
    boxes, labels, scores = zip(*rows, strict=True)
    return Detections(
        torch.tensor(boxes), torch.tensor(scores, dtype=torch.float32), torch.tensor(labels)
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ImageRecords:
    """Image a: a cat right, found twice, and a dog missed. b: a dog taken for a cat, a detection of
    nothing. c: all right."""
    folder = tmp_path_factory.mktemp("eval")
    truth = [
        _record("a", [CAT, DOG], [0, 1]),
        _record("b", [DOG], [1]),
        _record("c", [CAT], [0]),
    ]
    found = {
        "a": _found((CAT, 0, 0.9), ([2.0, 2, 40, 40], 0, 0.6)),
        "b": _found((DOG, 0, 0.7), ([0.0, 0, 20, 20], 1, 0.3)),
        "c": _found((CAT, 0, 0.5)),
    }
    evaluation = evaluate(found, truth, ["cat", EVIL], coco=None)
    files = {record.image_id: str(record.path) for record in truth}
    write_report(replace(evaluation, files=files, score_threshold=0.2, resamples=0), folder)
    return read_images(folder)


def _grey(path: Path) -> NDArray[np.uint8]:
    return np.full((1280, 1280, 3), 99, np.uint8)


def test_counts_at_each_score(records: ImageRecords) -> None:
    counts = error_view(records, _grey, 0.5).data["counts"]
    assert counts["objects"][0] == [2, 2, 4]

    def at(score: float) -> dict[str, int]:
        place = SCORES.index(score)
        return {name: rows[0][-1][place] for name, rows in counts["kinds"].items()}

    nothing = dict.fromkeys(counts["kinds"], 0)
    every = {"right": 2, "duplicate": 1, "classification": 1, "background": 1, "missed": 1}
    assert at(0.0) == at(0.3) == nothing | every
    # The dog of b is missed once nothing is said about it.
    assert at(0.8) == nothing | {"right": 1, "missed": 3}
    assert counts["kinds"]["right"][0][0][SCORES.index(0.5)] == 2
    assert counts["kinds"]["missed"][0][1][SCORES.index(0.8)] == 2


def test_counts_by_size(records: ImageRecords) -> None:
    """Small is up to 35 x 35 px: the dogs, and what is found where nothing is; the cats are large.
    A dog taken for a cat has the size of the dog."""
    header = {**records.header, "sizes": [35, 36]}
    sized = replace(records, header=header)
    view = error_view(sized, _grey, 0.5)
    counts = view.data["counts"]
    assert counts["objects"] == [[2, 2, 4], [0, 2, 2], [0, 0, 0], [2, 0, 2]]
    at_zero = {name: [rows[-1][0] for rows in each] for name, each in counts["kinds"].items()}
    assert at_zero["right"] == [2, 0, 0, 2] and at_zero["duplicate"] == [1, 0, 0, 1]
    assert at_zero["classification"] == at_zero["background"] == at_zero["missed"] == [1, 1, 0, 0]
    case = view.data["cases"][[name for name, *_ in view.cases].index("b.jpg")]
    assert [each[6] for each in case["objects"]] == [0]
    assert [each[8] for each in case["detections"]] == [0, 0]


def test_curves_of_the_classes(records: ImageRecords) -> None:
    """Of three cats by score, the second and the third are a double and a dog; then one more."""
    cat, dog = error_view(records, _grey, 0.5).curves
    assert (cat.name, cat.colour) == ("cat", class_hex(0)) and dog.ap == 0
    assert cat.points.split()[0] == "50.0,0.0" and cat.points.split()[-1] == "100.0,50.0"


def test_counts_agree_with_the_operating_points(records: ImageRecords) -> None:
    counts = error_view(records, _grey, 0.5).data["counts"]
    points = json.loads((records.path.parent / "metrics.json").read_text())["operating_points"]
    for point in points["all"]:
        place = SCORES.index(point["score"])
        numbers = {name: rows[0][-1][place] for name, rows in counts["kinds"].items()}
        assert numbers["right"] == point["right"]
        assert sum(numbers.values()) - numbers["missed"] == point["detections"]


def test_boxes_are_in_pixels_of_the_shown_image(records: ImageRecords) -> None:
    view = error_view(records, _grey, 0.5)
    names = [name for name, _, _ in view.cases]
    assert sorted(names) == ["a.jpg", "b.jpg"]  # c has no error
    case = view.data["cases"][names.index("a.jpg")]
    assert case["objects"] == [[0, 0, 20, 20, 0, 0, 1], [30, 30, 45, 45, 1, 0, 0]]
    assert [each[4:6] for each in case["detections"]] == [
        [0, pytest.approx(0.9)],
        [0, pytest.approx(0.6)],
    ]
    assert [each[6:8] for each in case["detections"]] == [["right", 0], ["duplicate", 0]]


def test_images_beyond_the_budget_and_unreadable_ones(
    records: ImageRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_page, "BUDGET", 10)
    first, second = error_view(records, _grey, 0.5).cases
    assert first[2].uri and "for images are spent" in second[2].why

    def refuse(path: Path) -> NDArray[np.uint8]:
        raise ImageError(f"{path}: gone")

    assert all(shot.why.endswith("gone") for *_, shot in error_view(records, refuse, 0.5).cases)


def test_further_classes_and_further_images(
    records: ImageRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_page, "WORST", 1)
    monkeypatch.setattr(error_page, "MORE", 0)
    view = error_view(records, _grey, 0.5)
    assert (len(view.cases), len(view.named), view.hidden) == (1, 1, 0)


def test_names_in_the_data_are_text(records: ImageRecords) -> None:
    page = render_page(Page("x", errors=error_view(records, _grey, 0.5)))
    assert "<script>alert" not in page
    content = page.partition('id="errors">')[2].partition("</script>")[0]
    assert json.loads(content)["classes"] == ["cat", EVIL]


def test_the_advice_is_about_what_costs_most() -> None:
    advice = costliest({"missed": 0.1, "duplicate": 0.25, "background": None})
    assert "duplicate" in advice and "0.250" in advice and "test.nms_iou" in advice
    assert costliest({"missed": 0.0}) == costliest({}) == ""
    advice = costliest({"classification": 0.1}, ["cat as dog (7)", "dog as cat (2)"], 0.25)
    assert "higher; most often, from score 0.25 on, cat as dog (7), dog as cat (2). To do" in advice


def _doubles(folder: Path, *found: tuple[float, float, int]) -> str:
    """What `doubled` says of images with a cat each, found with a score as a cat and with another
    one as a dog, whose box is shifted by some px."""
    truth = [_record(str(number), [CAT], [0]) for number in range(len(found))]
    detections = {
        str(number): _found((CAT, 0, cat), ([float(shift), 0, 40, 40], 1, dog))
        for number, (cat, dog, shift) in enumerate(found)
    }
    evaluation = evaluate(detections, truth, ["cat", "dog"], coco=None)
    write_report(replace(evaluation, score_threshold=0.3, resamples=0), folder)
    return doubled(read_images(folder))


def test_doubles_of_different_classes_name_what_joins_them(tmp_path: Path) -> None:
    four = [(0.9, 0.4, 5)] * 4
    advice = _doubles(tmp_path / "four", *four)
    assert advice.startswith("4 of 4 wrong classes are second boxes of objects that are also found")
    assert "infer --agnostic-nms" in advice and "test.suppress.class_agnostic=true" in advice
    assert "others" not in advice
    # Where the wrong one is surer, suppression would leave it.
    assert "of 1 others it would leave" in _doubles(tmp_path / "a", *four, (0.4, 0.9, 5))
    assert _doubles(tmp_path / "b", *four, *[(0.4, 0.9, 5)] * 4) == ""
    # Few, below the scores that errors count from, or apart.
    assert _doubles(tmp_path / "c", *four[:2]) == ""
    assert _doubles(tmp_path / "d", *[(0.9, 0.2, 5)] * 4) == ""
    assert _doubles(tmp_path / "e", *[(0.9, 0.4, 25)] * 4) == ""


def test_the_counts_of_the_evaluation_are_those_of_the_page(tmp_path: Path) -> None:
    """At the thresholds of the classes, which are different; a class without any counts nothing."""
    truth = [_record("a", [CAT, DOG], [0, 1]), _record("b", [DOG], [1])]
    found = {
        "a": _found((CAT, 0, 0.9), (CAT, 0, 0.8), (DOG, 1, 0.3), (DOG, 0, 0.95)),
        "b": _found((DOG, 0, 0.7), ([0.0, 0, 20, 20], 1, 0.35)),
    }
    evaluation = evaluate(found, truth, ["cat", "dog", "bird"], coco=None)
    own = [float(each) for each in evaluation.analysis.thresholds]
    assert own[0] != own[1]
    write_report(replace(evaluation, resamples=0), tmp_path)
    data = error_view(read_images(tmp_path), _grey, 0.5).data
    assert data["own"] == own and "largest F1" in data["own_words"]
    counted = json.loads((tmp_path / "metrics.json").read_text())["errors"]["counts"]
    assert {name: data["counts"]["kinds"][name][0][-1][-1] for name in counted} == counted
    assert all(len(row) == len(SCORES) + 1 for row in data["counts"]["kinds"]["right"][0])


def test_one_score_for_all_is_named(records: ImageRecords) -> None:
    data = error_view(records, _grey, 0.5).data
    assert data["own"] == [0.2, 0.2] and data["own_words"] == "from 0.2 on, as eval counted"
    older = {name: value for name, value in records.header.items() if name != "score_thresholds"}
    data = error_view(replace(records, header=older), _grey, 0.5).data
    assert data["own"] is None and len(data["counts"]["kinds"]["missed"][0][0]) == len(SCORES)
    assert 'id="own"' not in render_page(
        Page("x", errors=error_view(replace(records, header=older), _grey, 0.5))
    )

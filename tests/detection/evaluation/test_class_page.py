"""What the page of a classifier or localizer shows of its errors."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from resdet.detection.errors import ImageError
from resdet.detection.evaluation import class_page
from resdet.detection.evaluation.class_page import ConfusedPair, ScoreBin, class_view
from resdet.detection.evaluation.classification import evaluate_scores
from resdet.detection.evaluation.image_records import ImageRecords, read_images, records_of
from resdet.detection.evaluation.localization import evaluate_located
from resdet.detection.evaluation.page import Metric, Page, class_table, render_page
from resdet.detection.evaluation.report import write_report
from resdet.detection.structures import Annotation, Detections, Located, Record

EVIL = "<script>alert(1)</script>"
CLASSES = ("ant", "bee", EVIL)
#: The true class of each image, and the scores of the three classes.
SCORES = (
    (0, (0.95, 0.03, 0.02)),
    (0, (0.3, 0.6, 0.1)),
    (0, (0.2, 0.65, 0.15)),
    (1, (0.15, 0.75, 0.1)),
    (1, (0.1, 0.05, 0.85)),
    (2, (0.0, 0.0, 1.0)),
)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> ImageRecords:
    folder = tmp_path_factory.mktemp("eval")
    images = [
        Record(str(n), Path(f"/{n}.jpg"), (9, 9), Annotation.empty(), image_label=label)
        for n, (label, _) in enumerate(SCORES)
    ]
    scores = {str(n): torch.tensor(row) for n, (_, row) in enumerate(SCORES)}
    write_report(evaluate_scores(scores, images, CLASSES), folder)
    return read_images(folder)


def _grey(path: Path) -> NDArray[np.uint8]:
    return np.full((40, 60, 3), 99, np.uint8)


def test_confused_pairs_and_the_matrix(records: ImageRecords) -> None:
    view = class_view(records, _grey)
    pairs = [(each.true, each.predicted, each.count) for each in view.pairs]
    assert pairs == [("ant", "bee", 2), ("bee", EVIL, 1)]
    assert view.pairs[0].share == pytest.approx(2 / 3)
    assert view.advice.startswith("most often confused: 2 images of ant were taken for bee")
    counts = [[count for count, _ in cells] for _, cells in view.matrix]
    assert counts == [[1, 2, 0], [0, 1, 1], [0, 0, 1]]
    assert [share for _, share in view.matrix[1][1]] == [0, 0.5, 0.5]


def test_reliability(records: ImageRecords) -> None:
    view = class_view(records, _grey)
    assert [(each.low, each.count, each.right) for each in view.bins] == [
        (0.6, 2, 0.0),
        (0.7, 1, 1.0),
        (0.8, 1, 0.0),
        (0.9, 2, 1.0),
    ]
    assert view.bins[0].score == pytest.approx(0.625)
    # By hand: (2 * 0.625 + 1 * 0.25 + 1 * 0.85 + 2 * 0.025) / 6
    assert view.gap == pytest.approx(0.4)
    assert view.tendency == "scores are on average 0.30 too high"
    assert class_page.ClassView((), (), (), [ScoreBin(0, 1, 9, 0.5, 0.51)], 0, (), 0).tendency == (
        "scores are on average as high as the share of right answers"
    )


def test_the_advice_names_a_pair_only_where_it_stands_out(records: ImageRecords) -> None:
    view = class_view(records, _grey)
    assert view.advice.startswith("most often confused")
    many = replace(view, wrong=100 * view.pairs[0].count)
    assert many.advice.startswith("no pair of classes stands out") and "curves" in many.advice


def test_the_advice_to_a_classifier_that_gives_one_answer(records: ImageRecords) -> None:
    pairs = [ConfusedPair(true, "bee", 4, 1.0) for true in ("ant", "cat", "dog")]
    view = replace(class_view(records, _grey), pairs=pairs, wrong=13)
    assert view.advice.startswith("12 of the 13 images that it gets wrong, of 3 classes, are taken")
    assert replace(view, pairs=pairs[:2]).advice.startswith("most often confused")
    assert replace(view, wrong=20).advice.startswith("most often confused")


@pytest.mark.parametrize("others", [23, 40])
def test_the_advice_counts_all_pairs_of_many_classes(others: int, tmp_path: Path) -> None:
    classes = ["bee", *(f"other{n}" for n in range(others))]
    images, scores = [], {}
    for n, label in enumerate([*range(1, others + 1)] * 2 + [1] * 3):
        name, answer = str(n), 2 if n >= 2 * others else 0
        none = Annotation.empty()
        images.append(Record(name, Path(f"/{n}.jpg"), (9, 9), none, image_label=label))
        scores[name] = torch.eye(others + 1)[answer]
    write_report(evaluate_scores(scores, images, classes), tmp_path)
    view = class_view(read_images(tmp_path), _grey)
    assert view.pairs[0].predicted == "other1"  # the most frequent pair has another answer
    assert view.advice.startswith(
        f"{2 * others} of the {2 * others + 3} images that it gets wrong, of {others} classes, are "
        "taken for bee"
    )
    page = render_page(Page("x", confusions=view))
    table = page.split("<h2>Confused classes</h2>")[1].split("</table>")[0]
    assert table.count("<tr>") == 1 + 20


def test_errors_are_better_the_smaller_they_are(records: ImageRecords) -> None:
    assert Metric("top1_error", 0.8, "share").is_error
    assert not Metric("voc_ap50", 0.8, "AP").is_error
    page = render_page(Page("x", confusions=class_view(records, _grey)))
    assert re.search(r"<h3>ant, taken for bee</h3>", page)


def test_pairs_lead_to_their_first_example(records: ImageRecords) -> None:
    view = class_view(records, _grey)
    page = render_page(Page("x", confusions=view))
    for (true, predicted), anchor in view.shown.items():
        assert (true, predicted) in {(pair.true, pair.predicted) for pair in view.pairs}
        assert f'id="{anchor}"' in page and f'href="#{anchor}"' in page
    assert view.shown


def test_the_surest_wrong_answers_come_first(
    records: ImageRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = class_view(records, _grey).examples
    assert [each.shot.caption for each in examples] == ["4.jpg", "2.jpg", "1.jpg"]
    assert [name for name, _, right in examples[0].predicted if right] == ["bee"]
    monkeypatch.setattr(class_page, "OF_CLASS", 1)
    assert [each.true for each in class_view(records, _grey).examples] == ["bee", "ant"]

    def refuse(path: Path) -> NDArray[np.uint8]:
        raise ImageError(f"{path}: gone")

    assert class_view(records, refuse).examples[0].shot.why == "/4.jpg: gone"


def test_a_localizer_has_no_confusions() -> None:
    entry = {
        "image": "a",
        "file": None,
        "wrong": 1,
        "label": 0,
        "values": {"true_class_error": 1.0, "mean_true_class_iou": 0.25},
    }
    header = {"task": "localization", "classes": ["cat"]}
    view = class_view(records_of(Path("x"), header, [entry]), _grey)
    assert (view.pairs, view.matrix, view.bins, view.tendency) == ([], (), [], "")
    (example,) = view.examples
    assert example.words == "box of the true class: IoU 0.25"
    assert example.shot.why == "the evaluation does not know its file"


def test_a_localizer_shows_its_boxes_the_farthest_first() -> None:
    nothing: dict[str, list] = {"boxes": [], "labels": [], "kinds": []}
    near_box = {"boxes": [[0, 0, 30, 40]], "labels": [0], "kinds": ["localization"]}
    entries = [
        {
            "image": name,
            "file": f"/{name}.jpg",
            "wrong": 1,
            "label": 0,
            "values": {"true_class_error": 1.0, "mean_true_class_iou": overlap},
            "objects": {"boxes": [[0, 0, 60, 40]]},
            "true_class": found,
            "predicted": {"labels": [0], "scores": [0.1 + overlap]},  # the nearest: surest
        }
        for name, overlap, found in (("near", 0.4, near_box), ("far", 0.0, nothing))
    ]
    header = {"task": "localization", "classes": ["cat"]}
    view = class_view(records_of(Path("x"), header, entries), _grey)
    far, near = (example.shot for example in view.examples)
    assert [(mark.name, mark.width) for mark in far.marks] == [("cat", 60)]
    named = [(mark.name, mark.width) for mark in near.marks]
    assert named == [("cat", 60), ("wrong place", 30)]
    assert view.advice.startswith("1 of 2 wrong boxes are far from the object")


def test_the_boxes_of_a_localizer(tmp_path: Path) -> None:
    """Objects, the box of the true class, and a first prediction of another class; a box that is
    not finite is left out."""
    truth = Annotation(torch.tensor([[10.0, 10, 30, 30]]), torch.tensor([0]), torch.zeros(1).bool())
    images = [Record(n, Path(f"/{n}.jpg"), (40, 60), truth, image_label=0) for n in ("a", "b")]
    box, odd = torch.tensor([[10.0, 10, 30, 20]]), torch.tensor([[float("nan"), 0, 9, 9]])
    one, label = torch.ones(1), torch.tensor([0])
    found = {
        "a": Located(Detections(box, one, label + 1), Detections(box - 5, one, label)),
        "b": Located(Detections(box, one, label), Detections(odd, one, label)),
    }
    write_report(evaluate_located(found, images, CLASSES), tmp_path)
    view = class_view(read_images(tmp_path), _grey)
    (first, second) = sorted(view.examples, key=lambda each: each.shot.caption)
    assert first.words == "box of the true class: wrong place, IoU 0.14"
    names = [(mark.name, mark.style, mark.x) for mark in first.shot.marks]
    assert names == [
        ("ant", "dashed", 10.0),
        ("wrong place", "", 5.0),
        ("wrong class: bee", "", 10.0),
    ]
    _, over, under = first.shot.marks
    assert (over.label_y, under.label_y) == (19, 36)  # below its box, not on the other
    assert [mark.name for mark in second.shot.marks] == ["ant"]
    assert [(pair.true, pair.predicted) for pair in view.pairs] == [("ant", "bee")]
    html = render_page(Page("run", confusions=view))
    assert "Dashed: the annotated objects" in html and html.count("<rect x=") >= 4


def test_the_page_of_a_classifier(records: ImageRecords) -> None:
    rows = [{"name": "ant", "top1_error": 0.25}, {"name": EVIL, "top1_error": 0.5}]
    page = Page(
        "run",
        [Metric("top1_error", 0.5, "share of the images", 0.125, 0.875)],
        class_table(rows, {}),
        confusions=class_view(records, _grey),
    )
    html = render_page(page)
    assert "<script>alert" not in html
    order = ("0.500", "0.125 to 0.875", "Images that it gets wrong", "Confused")
    at = [html.index(text) for text in order]
    assert at == sorted(at)
    assert page.headline is not None and page.headline.name == "top1_error"
    assert [row[0] for row in page.per_class.rows] == [EVIL, "ant"]  # the worst first
    assert len(re.findall(r"data:image/jpeg", html)) == 3

"""The page of a comparison: its verdict, the images that differ, and its filters in a browser."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from resdet.detection.errors import ImageError
from resdet.detection.evaluation import compare_page
from resdet.detection.evaluation.compare_page import render_comparison
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.evaluation.image_records import ImageRecords, records_of
from resdet.detection.evaluation.paired import compare_records
from resdet.detection.structures import Annotation, Detections, Record
from resdet.tests.detection.evaluation.test_paired import scored
from resdet.tests.detection.pages.test_browser import SET, _open

CAT, DOG = [0.0, 0, 30, 30], [40.0, 40, 70, 70]
EVIL = "<script>alert(1)</script>"


def _grey(path: Path) -> Any:
    return np.full((80, 80, 3), 128, np.uint8)


def _records(found: dict[str, list[tuple[list[float], int, float]]]) -> ImageRecords:
    """Three images of 80x80, each with a cat and a dog."""
    truth = Annotation(torch.tensor([CAT, DOG]), torch.tensor([0, 1]), torch.tensor([False, False]))
    detections = {}
    for name, rows in found.items():
        boxes, labels, scores = zip(*rows, strict=True)
        detections[name] = Detections(
            torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels)
        )
    images = [Record(name, Path(f"/{name}.jpg"), (80, 80), truth) for name in found]
    evaluation = evaluate(detections, images, ["cat", EVIL], coco=None)
    files = {record.image_id: str(record.path) for record in images}
    evaluation = replace(evaluation, files=files, score_threshold=0.5)
    header = {"task": "detection", "classes": ["cat", EVIL], **evaluation.image_header()}
    return records_of(Path("images.json"), header, evaluation.image_entries())


@pytest.fixture(scope="module")
def pair() -> tuple[ImageRecords, ImageRecords]:
    """The second one loses the dog of a, finds that of b, and is as good on c. A detection of a
    low score does not count."""
    both = [(CAT, 0, 0.9), (DOG, 1, 0.8)]
    first = {"a": both, "b": [(CAT, 0, 0.9), (DOG, 1, 0.1)], "c": both}
    second = {"a": [(CAT, 0, 0.9), (DOG, 0, 0.6)], "b": both, "c": both}
    return _records(first), _records(second)


def _page(pair: tuple[ImageRecords, ImageRecords], read: Any = _grey) -> str:
    return render_comparison(compare_records(*pair, resamples=50), *pair, read)


def test_both_sides_of_the_images_that_differ(pair: tuple[ImageRecords, ImageRecords]) -> None:
    text = _page(pair)
    data = json.loads(text.partition('id="changes">')[2].partition("</script>")[0])
    worse, better = data["cases"]
    assert [each[4:] for each in worse[0]] == [[0, 0.9, "right", 0], [1, 0.8, "right", 1]]
    assert [each[4:] for each in worse[1]] == [[0, 0.9, "right", 0], [0, 0.6, "classification", 1]]
    assert [each[4:] for each in better[0]] == [[0, 0.9, "right", 0], [1, None, "missed", 1]]
    assert "On 1 images the second one makes more errors, on 1 fewer, on 1 as many" in text
    assert "do not tell which one is better" in text and EVIL not in text


def test_images_that_cannot_be_read_and_the_bound(
    pair: tuple[ImageRecords, ImageRecords], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Any:
        raise ImageError(f"{path}: gone")

    assert _page(pair, refuse).count("cannot be shown: /") == 2
    monkeypatch.setattr(compare_page, "CHANGED", 0)
    monkeypatch.setattr(compare_page, "MAX_NAMED", 1)
    assert "1 further images that differ, 1 more with --out" in _page(pair)


def test_classifiers_show_the_answers_of_both(browser: Any, tmp_path: Path) -> None:
    pair = scored([1, 0, 0]), scored([0, 1, 0])
    for records, answers in zip(pair, ([1, 0, 0], [0, 1, 0]), strict=True):
        for entry, label in zip(records.images, answers, strict=True):
            entry["predicted"] = {"labels": [label, 1 - label], "scores": [0.7, 0.3]}  # type: ignore[index]
            entry["file"] = f"{entry['image']}.jpg"  # type: ignore[index]
    (tmp_path / "page.html").write_text(_page(pair))
    _open(browser, tmp_path / "page.html", 390)
    case = browser.find_element("css selector", ".case").text.splitlines()
    assert case[0] == "1.jpg: cat: 0 → 1 error"
    assert case[1:4] == ["first", "cat (right) 0.700", "dog 0.300"]
    assert case[4:] == ["second", "dog 0.700", "cat (right) 0.300"]
    browser.execute_script(SET, "class", "1")
    assert browser.find_element("id", "visible").text == "0 of 0 images shown"


STATE = """
return [...document.querySelectorAll(".case")].filter((each) => !each.hidden).map((each) => [
  each.querySelector("h3").textContent,
  ...[...each.querySelectorAll(".wrong")].map((each) => each.textContent)])
"""


@pytest.mark.parametrize("width", [390, 2000])
def test_filters(
    browser: Any, pair: tuple[ImageRecords, ImageRecords], tmp_path: Path, width: int
) -> None:
    (tmp_path / "page.html").write_text(_page(pair))
    _open(browser, tmp_path / "page.html", width)
    worse = ["a.jpg: 0 → 1 error", "nothing wrong", "1 wrong class"]
    better = ["b.jpg: 1 → 0 errors", "1 missed", "nothing wrong"]
    assert browser.execute_script(STATE) == [worse, better]
    browser.execute_script(SET, "change", "better")
    assert browser.execute_script(STATE) == [better]
    browser.execute_script(SET, "change", "")
    browser.execute_script(SET, "kind", "classification")
    assert browser.execute_script(STATE) == [worse]
    browser.execute_script(SET, "kind", "")
    browser.execute_script(SET, "class", "0")
    assert browser.execute_script(STATE) == [worse]  # a dog taken for a cat
    assert browser.get_log("browser") == []

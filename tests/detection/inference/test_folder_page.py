"""The page of a run over images: order, counts, bounds, and its controls in a browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resdet.datasets.image import read_image
from resdet.detection.inference import folder_page
from resdet.detection.inference.folder_page import doubt, write_folder_page
from resdet.detection.inference.records import append_record, write_meta
from resdet.tests.detection.pages.test_browser import SET, _open

EVIL = "</script><script>alert(1)</script>"


def _detection(label: str, score: float) -> dict[str, Any]:
    return {"label": label, "score": score, "box": [10, 10, 40, 30]}


def _write(folder: Path, records: list[dict[str, Any]], name: str = "detections") -> Path:
    """The page of the records, whose images of 80x60 exist."""
    folder.mkdir(exist_ok=True)
    meta = {"format": "resdet", "classes": ["cat", EVIL], "score_threshold": 0.2}
    write_meta(folder, meta)
    sources = {}
    for record in records:
        path = folder / record["file"]
        if "error" not in record:
            Image.fromarray(np.full((60, 80, 3), 128, np.uint8)).save(path)
            record |= {"width": 80, "height": 60}
        append_record(folder / f"{name}.jsonl", record)
        sources[record["file"]] = path
    return write_folder_page(folder, sources, lambda path: read_image(path).pixels)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a: sure; b: unsure of two; c: nothing found; d: damaged."""
    records = [
        {"file": "a.png", "detections": [_detection("cat", 0.9)], "drawn": "drawn/a #1.jpg"},
        {"file": "b.png", "detections": [_detection("cat", 0.6), _detection(EVIL, 0.3)]},
        {"file": "c.png", "detections": []},
        {"file": "d.png", "error": "empty file"},
    ]
    return _write(tmp_path_factory.mktemp("found"), records)


def _data(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8").partition('id="results">')[2]
    data: dict[str, Any] = json.loads(text.partition("</script>")[0])
    return data


def test_doubt_is_the_variance_of_the_number_of_right_results() -> None:
    assert doubt({"detections": [_detection("cat", 0.5), _detection("cat", 1.0)]}) == 0.25
    assert doubt({"classes": [{"score": 0.9}, {"score": 0.1}]}) == pytest.approx(0.09)
    assert doubt({"file": "a", "detections": []}) == 0


def test_counts_of_each_class_and_score(page: Path) -> None:
    data = _data(page)
    assert [[row[5] for row in each] for each in data["cases"]] == [[0.6, 0.3], [0.9], []]
    cats, others, both = (np.array(row) for row in data["counts"]["found"])
    assert [cats[place] for place in (0, 60, 61, 90, 91)] == [2, 2, 1, 1, 0]
    assert [others[place] for place in (30, 31)] == [1, 0]
    assert (both == cats + others).all()
    assert [data["counts"]["in"][2][place] for place in (0, 61)] == [2, 1]  # images with any
    text = page.read_text(encoding="utf-8")
    assert EVIL not in text and 'href="drawn/a%20%231.jpg"' in text
    assert "1 of 4 images could not be used" in text and "empty file" in text


def test_names_are_within_the_common_folder(tmp_path: Path) -> None:
    """The whole path is a tooltip; lines end after separators alone."""
    (tmp_path / "found/work/in/day_1").mkdir(parents=True)
    records = [
        {"file": "work/in/day_1/a<b.png", "detections": [_detection("cat", 0.9)]},
        {"file": "work/in/c.png", "detections": []},
    ]
    text = _write(tmp_path / "found", records).read_text(encoding="utf-8")
    assert '<h3 title="work/in/day_1/a&lt;b.png">day_<wbr>1/<wbr>a&lt;b.png</h3>' in text
    assert '<h3 title="work/in/c.png">c.png</h3>' in text
    assert "Names are those in work/<wbr>in/." in text and "Kept was" not in text


def test_scores_by_class_are_told(tmp_path: Path) -> None:
    _write(tmp_path / "found", [{"file": "a.png", "detections": [_detection("cat", 0.9)]}])
    meta = {"classes": ["cat", "dog"], "score_threshold": 0.2, "class_thresholds": {"cat": 0.75}}
    write_meta(tmp_path / "found", meta)
    page = write_folder_page(tmp_path / "found", {}, lambda path: read_image(path).pixels)
    assert "Kept was what scores at least, by class: cat 0.75; dog 0.2." in page.read_text()


def test_the_best_box_of_a_localizer_is_shown(tmp_path: Path) -> None:
    found = [_detection(EVIL, 0.3), _detection("cat", 0.6)]
    _write(tmp_path / "found", [{"file": "a.png", "detections": found}])
    sources = {"a.png": tmp_path / "found/a.png"}
    page = write_folder_page(
        tmp_path / "found", sources, lambda path: read_image(path).pixels, located=True
    )
    data, text = _data(page), page.read_text(encoding="utf-8")
    assert [[row[4:] for row in each] for each in data["cases"]] == [[[0, 0.6]]]
    assert data["counts"]["found"][2][0] == 1
    assert text.index("<li>cat ") < text.index("<li>&lt;/script&gt;")


def test_the_page_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The least certain image, that of a class it lacks, two by name, and one more."""
    for name, value in {"UNSURE": 1, "MORE": 1, "MAX_NAMED": 2}.items():
        monkeypatch.setattr(folder_page, name, value)
    records: list[dict[str, Any]] = [
        {"file": f"{number}.png", "detections": [_detection("cat", 0.5 + number / 10)]}
        for number in range(4)
    ]
    records.append({"file": "4.png", "detections": [_detection(EVIL, 0.99)]})
    page = _write(tmp_path / "out", records)
    assert [each[0][5] for each in _data(page)["cases"]] == [0.5, 0.99]
    assert "2 further images, 1 more in detections.jsonl" in page.read_text(encoding="utf-8")


def test_the_page_of_a_classifier(tmp_path: Path, browser: Any) -> None:
    ranked = [{"label": "cat", "score": 0.7}, {"label": EVIL, "score": 0.3}]
    page = _write(tmp_path / "out", [{"file": "a.png", "classes": ranked}], "classes")
    _open(browser, page, 390)
    answers = browser.find_element("css selector", ".answers").text
    assert answers.split() == ["cat", "0.70", EVIL, "0.30"]
    browser.execute_script(SET, "score", "80")
    assert browser.find_element("id", "found").text == "0"


def test_a_classifier_whose_images_all_failed(tmp_path: Path) -> None:
    failed = [{"file": f"{number}.png", "error": "empty file"} for number in range(201)]
    text = _write(tmp_path / "out", failed, "classes").read_text(encoding="utf-8")
    assert "best classes in" in text and "classes.jsonl" in text
    assert "labelme" not in text and "detections.jsonl" not in text


def test_counts_of_all_classes_say_so(
    tmp_path: Path, browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a page of many classes has no counts of the chosen one."""
    monkeypatch.setattr(folder_page, "MAX_CLASSES", 1)
    records = [{"file": "a.png", "detections": [_detection("cat", 0.9), _detection(EVIL, 0.8)]}]
    _open(browser, _write(tmp_path / "out", records), 800)
    every = browser.find_element("id", "every")
    assert not every.is_displayed()
    browser.execute_script(SET, "class", "0")
    assert (every.is_displayed(), browser.find_element("id", "found").text) == (True, "2")


#: The names of the shown images with the number of boxes of each.
STATE = """
return [...document.querySelectorAll(".case")].filter((each) => !each.hidden).map((each) => [
  each.querySelector("h3").textContent, each.querySelectorAll("svg rect").length])
"""


@pytest.mark.parametrize("width", [390, 2000])
def test_slider_filter_and_order(browser: Any, page: Path, width: int) -> None:
    _open(browser, page, width)

    def numbers() -> list[str]:
        return [browser.find_element("id", name).text for name in ("found", "in", "from")]

    assert numbers() == ["3", "2", "0.20"]
    assert browser.execute_script(STATE) == [["b.png", 2], ["a.png", 1], ["c.png", 0]]
    browser.execute_script(SET, "order", "fewest")
    assert browser.execute_script(STATE) == [["c.png", 0], ["a.png", 1], ["b.png", 2]]
    browser.execute_script(SET, "score", "50")
    assert numbers() == ["2", "2", "0.50"]
    browser.execute_script(SET, "order", "name")
    assert browser.execute_script(STATE) == [["a.png", 1], ["b.png", 1], ["c.png", 0]]
    browser.find_element("css selector", '.legend [data-class="1"]').click()
    assert numbers() == ["0", "0", "0.50"] and browser.execute_script(STATE) == []
    browser.execute_script(SET, "score", "25")
    assert browser.execute_script(STATE) == [["b.png", 1]]
    browser.find_element("css selector", '.legend [data-class="1"]').click()
    assert numbers() == ["3", "2", "0.25"]
    assert browser.get_log("browser") == []

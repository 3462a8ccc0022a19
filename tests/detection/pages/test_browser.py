"""The pages in a real browser: no error on the console, and controls that do what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.datasets.checks.report import write_check_page
from resdet.datasets.findings import Finding
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.evaluation.page import render_page
from resdet.detection.evaluation.report import write_report
from resdet.detection.structures import Annotation, Detections, Record
from resdet.tests.datasets.checks.test_report import _image, _report
from resdet.tools.run_page import build_page


def _open(browser: Any, path: Path, width: int) -> None:
    """Open the page; nothing may be wrong, and nothing may be wider than the window."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    browser.get_log("browser")
    browser.get(path.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.get_log("browser") == []


@pytest.fixture(scope="module")
def errors_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of 80x80. 0: a cat, found twice, and a dog, missed. 1: a dog taken for a cat by
    0.6, and nothing found where there is nothing."""
    folder = tmp_path_factory.mktemp("evaluated")
    cat, dog = [0.0, 0, 30, 30], [40.0, 40, 70, 70]
    objects = {"0": ([cat, dog], [0, 1]), "1": ([dog], [1])}
    found = {"0": ([cat, cat], [0, 0], [0.9, 0.4]), "1": ([dog, cat], [0, 1], [0.6, 0.2])}
    records = []
    for name, (boxes, labels) in objects.items():
        path = folder / f"{name}.png"
        Image.fromarray(np.full((80, 80, 3), 128, np.uint8)).save(path)
        ignore = torch.zeros(len(labels), dtype=torch.bool)
        truth = Annotation(torch.tensor(boxes), torch.tensor(labels), ignore)
        records.append(Record(name, path, (80, 80), truth))
    detections = {
        name: Detections(torch.tensor(boxes), torch.tensor(scores), torch.tensor(labels))
        for name, (boxes, labels, scores) in found.items()
    }
    evaluation = evaluate(detections, records, ["cat", "dog"], coco=None)
    files = {record.image_id: str(record.path) for record in records}
    write_report(replace(evaluation, files=files, resamples=0), folder)
    page = folder / "page.html"
    page.write_text(render_page(build_page(folder)))
    return page


SET = """
const [id, value] = arguments;
const control = document.getElementById(id);
control.value = value;
control.dispatchEvent(new Event("input"));
"""
#: For each shown image its name and words, and the number of boxes on its two sides.
STATE = """
return [...document.querySelectorAll(".case")].filter((each) => !each.hidden).map((each) => [
  each.querySelector("h3").textContent,
  ...[...each.querySelectorAll("svg")].map((svg) => svg.querySelectorAll("rect").length)])
"""


def _numbers(browser: Any) -> list[str]:
    return [
        browser.execute_script("return document.getElementById(arguments[0]).textContent", name)
        for name in ("shown-score", "precision", "recall")
    ]


def test_the_slider_redraws_and_counts_again(browser: Any, errors_page: Path) -> None:
    _open(browser, errors_page, 1400)
    # At first the errors that the evaluation counted, from 0.9 on, the score of both classes.
    assert browser.execute_script("return document.getElementById('own').checked")
    assert _numbers(browser) == ["…", "1.000", "0.333"]
    assert sorted(browser.execute_script(STATE)) == [
        ["0.png: 1 missed", 2, 2],
        ["1.png: 1 missed", 1, 1],
    ]
    browser.execute_script(SET, "score", "0")
    assert not browser.execute_script("return document.getElementById('own').checked")
    assert _numbers(browser) == ["0.00", "0.250", "0.333"]
    assert sorted(browser.execute_script(STATE)) == [
        ["0.png: 1 missed, 1 duplicate", 2, 3],
        ["1.png: 1 wrong class, 1 on background", 1, 2],
    ]
    browser.execute_script(SET, "score", "50")
    assert _numbers(browser) == ["0.50", "0.500", "0.333"]
    browser.execute_script(SET, "score", "80")
    assert _numbers(browser) == ["0.80", "1.000", "0.333"]
    assert sorted(browser.execute_script(STATE)) == [
        ["0.png: 1 missed", 2, 2],
        ["1.png: 1 missed", 1, 1],
    ]
    assert browser.get_log("browser") == []


def test_filters_show_what_they_name(browser: Any, errors_page: Path) -> None:
    _open(browser, errors_page, 390)
    browser.execute_script(SET, "score", "0")
    browser.execute_script(SET, "kind", "duplicate")
    assert browser.execute_script(STATE) == [["0.png: 1 duplicate", 2, 1]]
    browser.execute_script(SET, "kind", "")
    browser.execute_script(SET, "class", "1")
    assert _numbers(browser) == ["0.00", "0.000", "0.000"]  # of dogs
    assert sorted(browser.execute_script(STATE)) == [
        ["0.png: 1 missed", 1, 1],
        ["1.png: 1 wrong class, 1 on background", 1, 2],
    ]
    browser.execute_script(SET, "kind", "localization")
    assert browser.execute_script(STATE) == []


def test_sizes_and_numbers_lead_to_their_images(browser: Any, errors_page: Path) -> None:
    """All objects are small; the confusion matrix has a dog that was taken for a cat."""
    from selenium.webdriver.common.by import By

    _open(browser, errors_page, 1400)
    browser.execute_script(SET, "score", "0")
    browser.execute_script(SET, "size", "3")
    assert browser.execute_script(STATE) == [] and _numbers(browser)[1:] == ["-", "-"]
    browser.execute_script(SET, "size", "1")
    assert len(browser.execute_script(STATE)) == 2
    legend = browser.find_element(By.CSS_SELECTOR, '.legend [data-pick-kind="duplicate"]')
    legend.click()
    assert browser.execute_script(STATE) == [["0.png: 1 duplicate", 2, 1]]
    assert legend.get_attribute("aria-pressed") == "true"
    legend.click()
    assert len(browser.execute_script(STATE)) == 2
    browser.find_element(By.CSS_SELECTOR, '.matrix [data-pick-kind="classification"]').click()
    assert _numbers(browser)[0] == "0.25"  # the matrix is of these detections
    assert browser.execute_script(STATE) == [["1.png: 1 wrong class", 1, 1]]
    browser.find_element(By.CSS_SELECTOR, '[data-pick-class="0"]:not([data-pick-kind])').click()
    assert browser.execute_script("return document.getElementById('kind').value") == ""
    assert browser.get_log("browser") == []


def test_images_are_enlarged_and_stepped_through(browser: Any, errors_page: Path) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    _open(browser, errors_page, 1400)
    frame = browser.find_element(By.CSS_SELECTOR, ".frame")
    frame.send_keys(Keys.ENTER)
    dialog = browser.find_element(By.TAG_NAME, "dialog")
    assert dialog.is_displayed() and "1 of 2" in dialog.text
    assert dialog.find_element(By.TAG_NAME, "img").size["width"] > frame.size["width"]
    browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "2 of 2" in dialog.text
    browser.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()


@pytest.mark.parametrize("width", [390, 2000])
def test_the_page_of_a_check(browser: Any, tmp_path: Path, width: int) -> None:
    from selenium.webdriver.common.by import By

    image = _image(tmp_path)
    faults = [("tiny_box", "warning", 3), ("no_area", "error", 1), ("x" * 200, "note", 2)]
    findings = [
        Finding(kind, severity, image, "why", image=image, box=(9, 9, 9, 9))
        for kind, severity, count in faults
        for _ in range(count)
    ]
    write_check_page(_report(*findings), tmp_path / "page.html", "resdet " + "word" * 100)
    _open(browser, tmp_path / "page.html", width)
    table = browser.find_element(By.CSS_SELECTOR, "table.sortable")

    def counts() -> list[str]:
        return [row.text for row in table.find_elements(By.CSS_SELECTOR, "tbody td:nth-child(3)")]

    heading = table.find_element(By.CSS_SELECTOR, "th.number button")
    heading.click()
    assert counts() == ["3", "2", "1"]
    heading.click()
    assert counts() == ["1", "2", "3"]

"""The page in a real browser: dropped, pasted and chosen images, filters, downloads, a phone."""

from __future__ import annotations

import base64
import json
import re
import time

import cv2
import numpy as np
import pytest
from resdet.detection.inference.predictor import Predictor
from resdet.tests.detection.inference.conftest import CLASSES, SpotFinder
from resdet.tests.detection.serving.conftest import png, serving


def test_the_page_needs_nothing_from_elsewhere(spots):
    for path in ("/", "/page.css", "/page.js"):
        answer = spots.get(path)
        assert answer.status_code == 200
        assert not re.search(r"https?://|//[a-z]+\.|@import|innerHTML", answer.text)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
    assert not re.search(r"<style|<script>|\son\w+=|style=", spots.get("/").text)


@pytest.fixture
def page(browser, spots):
    wide = {"width": 1200, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", wide)
    browser.get(f"http://127.0.0.1:{spots.port}/")
    browser.get_log("browser")
    yield browser
    # No error, nothing that the policy forbade; DEBUG are Chromium's recommendations, which vary.
    assert [line for line in browser.get_log("browser") if line["level"] != "DEBUG"] == []


#: Hands the page an image as a drop or a paste does.
GIVE = """
const bytes = Uint8Array.from(atob(arguments[1]), letter => letter.charCodeAt(0));
const data = new DataTransfer();
data.items.add(new File([bytes], arguments[2], {type: "image/png"}));
const given = {bubbles: true, cancelable: true, dataTransfer: data, clipboardData: data};
const event = arguments[0] === "drop" ? new DragEvent("drop", given)
    : new ClipboardEvent("paste", given);
document.body.dispatchEvent(event);
"""


def give(page, how: str, content: bytes, name: str) -> None:
    page.execute_script(GIVE, how, base64.b64encode(content).decode(), name)


def until(condition):
    """The first true value of ``condition``."""
    for _ in range(500):
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def text(page, name: str) -> str:
    return page.find_element("id", name).text


def status(page, wanted: str) -> None:
    until(lambda: wanted in text(page, "status"))


def two_spots() -> bytes:
    """A red spot that covers a sixth of the image, and a blue one of half its size."""
    pixels = np.full((120, 180, 3), 90, dtype=np.uint8)
    pixels[10:70, 20:80] = (20, 20, 250)  # BGR
    pixels[80:110, 100:160] = (250, 20, 20)
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_an_image_is_dropped_filtered_and_saved(page, tmp_path):
    from selenium.webdriver.common.keys import Keys

    until(lambda: "2 classes" in text(page, "model"))
    give(page, "drop", two_spots(), "two.png")
    status(page, "two.png: 0 of 2 detections")  # none scores 0.5
    score = page.find_element("id", "score")
    score.send_keys(Keys.HOME)
    status(page, "two.png: 2 detections")
    rows = [row.text for row in page.find_elements("css selector", "#rows tr")]
    assert [row.rpartition(" 0.")[0] for row in rows] == list(CLASSES)
    edge = "return [...canvas.getContext('2d').getImageData(50, 10, 1, 1).data]"
    assert page.execute_script(edge)[:3] not in ([250, 20, 20], [90, 90, 90])
    score.send_keys(Keys.ARROW_RIGHT * 12)
    status(page, "two.png: 1 of 2 detections")
    assert text(page, "least") == "0.12"

    folder = {"behavior": "allow", "downloadPath": str(tmp_path)}
    page.execute_cdp_cmd("Browser.setDownloadBehavior", folder)
    page.find_element("id", "json").click()
    saved = until(lambda: list(tmp_path.glob("two.json")))
    found = json.loads(saved[0].read_text(encoding="utf-8"))
    assert [each["label"] for each in found["detections"]] == [CLASSES[0]]
    assert (found["file"], found["width"], found["height"]) == ("two.png", 180, 120)
    page.find_element("id", "png").click()
    drawn = until(lambda: list(tmp_path.glob("two-drawn.png")))
    pixels = cv2.imdecode(np.frombuffer(drawn[0].read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (120, 180, 3)
    assert pixels[95, 130].tolist() == [250, 20, 20]  # the image, and no box around it
    assert pixels[40, 20].tolist() not in ([20, 20, 250], [90, 90, 90])

    red, blue = page.find_elements("css selector", "#boxes input")[::-1]
    red.click()
    status(page, "two.png: 0 of 2 detections")
    score.send_keys(Keys.HOME)
    status(page, "two.png: 1 of 2 detections")
    page.find_element("id", "none").click()
    assert not blue.is_selected()
    status(page, "two.png: 0 of 2 detections")
    page.find_element("id", "all").click()
    status(page, "two.png: 2 detections")


def test_images_are_pasted_and_chosen_among(page, tmp_path):
    give(page, "paste", two_spots(), "pasted.png")
    status(page, "pasted.png: ")
    path = tmp_path / "chosen.png"
    path.write_bytes(png())
    page.find_element("id", "files").send_keys(str(path))
    status(page, "chosen.png: ")
    images = page.find_element("id", "images")
    assert [each.text for each in images.find_elements("tag name", "option")] == [
        "pasted.png",
        "chosen.png",
    ]
    images.send_keys("p")  # the first letter of an entry selects it
    status(page, "pasted.png: ")
    assert page.execute_script("return [canvas.width, canvas.height]") == [180, 120]
    wide = page.execute_script("return canvas.clientWidth")
    page.find_element("id", "in").click()
    assert page.execute_script("return canvas.clientWidth") == pytest.approx(wide * 1.25, abs=1)
    assert text(page, "zoom") == "125 %"
    page.find_element("id", "fit").click()
    assert page.execute_script("return canvas.clientWidth") == wide


def test_a_bad_image_is_told(browser, spots):
    browser.get(f"http://127.0.0.1:{spots.port}/")
    give(browser, "drop", two_spots()[:-80], "cut.png")
    status(browser, "cut.png: truncated")
    assert not browser.find_element("id", "result").is_displayed()
    browser.get_log("browser")  # says that the server answered 422


def test_the_page_fits_a_phone(page):
    phone = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    give(page, "drop", two_spots(), "two.png")
    status(page, "two.png: ")
    widths = "return [document.documentElement.scrollWidth, innerWidth]"
    assert page.execute_script(widths) == [360, 360]
    places = "return ['view', 'side'].map(id => document.getElementById(id).offsetTop)"
    view, side = page.execute_script(places)
    assert side > view


def test_keyboard_and_screen_reader(page):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    give(page, "drop", two_spots(), "two.png")
    status(page, "two.png: ")
    page.find_element("id", "score").send_keys(Keys.HOME)
    status(page, "2 detections")
    page.execute_script("document.getElementById('files').focus()")
    order = []
    for _ in range(13):
        ActionChains(page).send_keys(Keys.TAB).perform()
        order.append(page.execute_script("return document.activeElement.id"))
    assert order[:5] == ["out", "in", "fit", "frame", "score"]
    assert order[5:] == ["", "", "all", "none", "json", "png", "", ""]  # classes; rows
    ActionChains(page).send_keys(Keys.ENTER).perform()  # the second row's button
    chosen = page.find_elements("css selector", "[aria-pressed=true]")
    assert [each.text for each in chosen] == [CLASSES[1]]

    nodes = page.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    names: dict[str, list[str]] = {}
    for node in nodes:
        role = node.get("role", {}).get("value")
        names.setdefault(role, []).append(node.get("name", {}).get("value", ""))
    for role in ("button", "slider", "checkbox", "image", "status"):
        assert names[role], role
        assert role == "status" or all(names[role]), (role, names[role])
    assert "180 by 120 pixels, 2 detections: red spot 0.17, blå fläck 0.08" in names["image"][0]
    assert any(name.startswith("Minimum score") for name in names["slider"])


def test_the_token_is_asked_for(browser):
    with serving(Predictor(SpotFinder(), classes=CLASSES), token="s3cret") as served:  # noqa: S106
        browser.get(f"http://127.0.0.1:{served.port}/")
        token = until(lambda: [e for e in browser.find_elements("id", "token") if e.is_displayed()])
        token[0].send_keys("s3cret\n")
        until(lambda: "2 classes" in text(browser, "model"))
        assert not browser.find_element("id", "access").is_displayed()
        give(browser, "drop", two_spots(), "two.png")
        status(browser, "two.png: ")
    browser.get_log("browser")  # says that the server answered 401

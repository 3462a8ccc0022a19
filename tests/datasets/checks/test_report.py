"""The HTML report: self-contained, complete, and all names escaped."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest
from resdet.datasets.checks.check import Report
from resdet.datasets.checks.examples import ClassExamples, Exhibits
from resdet.datasets.checks.report import render_check_page, write_check_page
from resdet.datasets.checks.statistics import AnchorFit, ClassCounts, Histogram, SplitCounts
from resdet.datasets.coordinates import EdgeCounts
from resdet.datasets.findings import Finding
from resdet.datasets.records import RawObject
from resdet.detection.errors import ConfigError

HOSTILE = """<script>alert("1")</script>'&"""
#: Elements that HTML does not close.
VOID = {"meta", "img"}


class _Elements(HTMLParser):
    """Tags with their attributes; fails on tags that do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _report(*findings: Finding, name: str = "cat") -> Report:
    return Report(
        title=f"set of {name}",
        findings=findings,
        splits=(SplitCounts(name, 3, 1, 4, 0), SplitCounts("val", 1, 0, 2, 0)),
        classes=(ClassCounts(name, (3, 2)), ClassCounts("dog", (1, 0))),
        histograms=(Histogram(f"sizes of {name}", "px", (0.0, 16.0, 32.0), (5, 1)),),
        anchors=AnchorFit((128.0,), (0.5, 1.0), 600, 1000, 16, 6, 3, (32.0, 128.0), 1),
        images_checked=4,
        seconds=1.25,
    )


def _image(folder: Path, name: str = "a.png", size: tuple[int, int] = (300, 400)) -> Path:
    path = folder / name
    path.write_bytes(cv2.imencode(".png", np.full((*size, 3), 255, np.uint8))[1].tobytes())
    return path


def _images(page: str) -> list[np.ndarray]:
    uris = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [
        cv2.imdecode(np.frombuffer(base64.b64decode(uri), np.uint8), cv2.IMREAD_COLOR_RGB)
        for uri in uris
    ]


def test_the_page_is_one_file_that_loads_nothing(tmp_path: Path) -> None:
    image = _image(tmp_path)
    finding = Finding("no_area", "error", image, "no area", image=image, box=(9, 9, 9, 9))
    out = tmp_path / "out"
    out.mkdir()
    write_check_page(_report(finding), out / "report.html")
    assert [path.name for path in out.iterdir()] == ["report.html"]
    page = _Elements((out / "report.html").read_text("utf-8"))
    for tag, attributes in page.seen:
        assert tag not in ("link", "iframe", "object")
        assert tag != "script" or not attributes
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")


def test_the_policy_allows_exactly_the_page_s_style_and_script() -> None:
    page = render_check_page(_report()).replace("&#39;", "'").replace("&#43;", "+")
    for tag, name in (("style", "style-src"), ("script", "script-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in page


def test_names_are_escaped(tmp_path: Path) -> None:
    image = _image(tmp_path, HOSTILE.replace("/", "_"))
    finding = Finding("bad", "error", Path(HOSTILE), HOSTILE, HOSTILE, image)
    gone = Finding(HOSTILE, "note", Path(HOSTILE), HOSTILE, image=tmp_path / HOSTILE)
    page = _Elements(render_check_page(_report(finding, gone, name=HOSTILE)))
    assert sum(tag == "script" for tag, _ in page.seen) == 1
    assert page.text.count(HOSTILE) >= 8


def test_a_name_that_is_not_valid_text_can_be_written(tmp_path: Path) -> None:
    write_check_page(
        _report(Finding("bad", "note", Path("\udcff.jpg"), "odd")), tmp_path / "a.html"
    )
    assert "\\udcff.jpg" in (tmp_path / "a.html").read_text("utf-8")


def test_meaning_of_kinds_and_coordinate_base(tmp_path: Path) -> None:
    image = _image(tmp_path)
    plain = _Elements(render_check_page(_report())).text
    assert "0-based" not in plain and "Coordinate base" not in plain
    finding = Finding("tiny_box", "warning", image, "small", image=image, box=(9, 9, 9, 9))
    report = replace(_report(finding), edges=EdgeCounts(90, 0, 12, 7, 5))
    text = _Elements(render_check_page(report)).text
    assert "a box side of one pixel or less, possibly a stray click" in text
    assert "add 1\nto left and top" in text
    assert "Of 90 boxes 0 start at -1, 12 at 0 and 7 at 1" in text


def test_numbers_and_kinds(tmp_path: Path) -> None:
    findings = [Finding("odd_thing", "note", Path(f"{n}.xml"), "odd") for n in range(1003)]
    findings.append(Finding("bad_thing", "error", Path("x.xml"), "reason of it", "object 2 (cat)"))
    text = _Elements(render_check_page(_report(*findings))).text
    assert "1 error" in text and "0 warnings" in text and "1003 notes" in text
    assert "x.xml: object 2 (cat): reason of it" in text
    assert text.index("bad thing") < text.index("odd thing")
    assert "999.xml: odd" in text and "1000.xml: odd" not in text
    assert "and 3 more" in text
    assert "3 of 6 objects" in text and "it would be 1" in text


def _rects(page: str, style: str) -> list[list[float]]:
    """(x, y, width, height) of the boxes of a style."""
    found = re.findall(rf'<g class="mark {style}">.*?<rect ([^>]*)>', page)
    return [
        list(map(float, re.findall(r'(?:x|y|width|height)="([-\d.]+)"', each))) for each in found
    ]


def test_an_image_shows_the_box_of_the_finding_and_its_objects(tmp_path: Path) -> None:
    image = _image(tmp_path, size=(720, 960))
    box, other = (100.0, 50.0, 300.0, 250.0), (400.0, 400.0, 500.0, 600.0)
    finding = Finding("no_area", "error", image, "why", image=image, box=box)
    objects = {image: (RawObject("cat", box), RawObject(HOSTILE, other))}
    exhibits = Exhibits(objects=objects, labels={"cat": 0, HOSTILE: 1})
    page = render_check_page(replace(_report(finding), exhibits=exhibits))
    (shot,) = _images(page)
    assert shot.shape == (360, 480, 3)  # half as large
    assert _rects(page, "thick") == [[50, 25, 100, 100]]
    assert _rects(page, "") == [[200, 200, 50, 100]]
    text = _Elements(page).text
    assert HOSTILE in text
    assert "data.on_bad_box=drop" in text


def test_both_images_of_a_pair_are_shown(tmp_path: Path) -> None:
    copy, original = _image(tmp_path, "copy.png"), _image(tmp_path, "original.png")
    finding = Finding("same_image", "warning", copy, "as", image=copy, original=original)
    page = render_check_page(_report(finding))
    assert len(_images(page)) == 2
    captions = re.findall(r"<figcaption>(\w+.png[^<]*)<", page.partition('class="pair"')[2])
    assert captions == ["copy.png: as", "original.png"]


def test_images_of_each_class_are_shown_without_findings(tmp_path: Path) -> None:
    paths = tuple(_image(tmp_path, f"{number}.png") for number in range(3))
    classes = (ClassExamples("cat", 0, paths[:2]), ClassExamples(HOSTILE, 1, paths[2:]))
    boxes = {path: (RawObject("cat", (1.0, 2.0, 30.0, 40.0)),) for path in paths}
    exhibits = Exhibits(classes, boxes, {"cat": 0, HOSTILE: 1}, ((400, 300, 3),), ((0, 1), (2, 4)))
    page = render_check_page(replace(_report(), exhibits=exhibits), "resdet train-det --cfg a b")
    assert len(_images(page)) == 3 and len(_rects(page, "")) == 3
    text = _Elements(page).text
    assert "No findings" in text and "Training accepts these data" in text
    assert "resdet train-det --cfg a b" in text and HOSTILE in text
    assert re.findall(r'fill-opacity="([\d.]+)"', page) == ["0.25", "0.50", "1.00"]
    assert "<title>400 x 300: 3</title>" in page


def test_classes_with_one_image_each_are_together(tmp_path: Path) -> None:
    paths = [_image(tmp_path, f"{number}.png") for number in range(2)]
    classes = tuple(
        ClassExamples(name, n, (path,))
        for n, (name, path) in enumerate(zip(("cat", "dog"), paths, strict=True))
    )
    page = render_check_page(replace(_report(), exhibits=Exhibits(classes)))
    assert page.count('class="gallery"') == 1 and "dog: 1.png" in page
    assert " of 2 classes" not in page  # none is hidden
    page = render_check_page(replace(_report(), exhibits=Exhibits(classes[:1])))
    assert "1 of 2 classes" in page


def test_images_beyond_the_budget_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [_image(tmp_path, f"{number}.png") for number in range(3)]
    findings = [Finding("bad", "error", path, "why", image=path) for path in paths]
    monkeypatch.setattr("resdet.datasets.checks.report.BUDGET", 1000)
    page = render_check_page(_report(*findings))
    assert len(_images(page)) == 1
    text = _Elements(page).text
    assert "2.png: why" in text and text.count("for images are spent") == 2


@pytest.mark.parametrize(
    "box",
    [
        (float("nan"), 0.0, 5.0, float("inf")),
        (-1e30, -1e30, 1e30, 1e30),
        (50.0, 50.0, 50.0, 50.0),
        (90.0, 80.0, 20.0, 10.0),
        None,
    ],
)
def test_any_box_can_be_shown(
    box: tuple[float, float, float, float] | None, tmp_path: Path
) -> None:
    image = _image(tmp_path, size=(100, 100))
    finding = Finding("bad_box", "error", image, "why", image=image, box=box)
    assert len(_images(render_check_page(_report(finding)))) == 1


def test_an_image_that_cannot_be_decoded_shows_the_reason(tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"<html>")
    finding = Finding("undecodable_image", "error", broken, "why", image=broken)
    page = render_check_page(_report(finding))
    assert _images(page) == []
    assert "cannot be shown: not an image" in _Elements(page).text


def test_at_most_twelve_images_of_a_kind_and_each_once(tmp_path: Path) -> None:
    paths = [_image(tmp_path, f"{number}.png", (20, 30)) for number in range(20)]
    findings = [Finding("bad", "error", path, "why", image=path) for path in paths + paths]
    assert len(_images(render_check_page(_report(*findings)))) == 12


def test_an_empty_report() -> None:
    report = Report("nothing", (), (), (), (), None, 0, 0.0)
    assert "No findings" in _Elements(render_check_page(report)).text


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        write_check_page(_report(), tmp_path / "absent" / "a.html")

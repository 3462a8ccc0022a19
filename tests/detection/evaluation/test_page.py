"""The HTML page of a run: complete, escaped and self-contained."""

from __future__ import annotations

import base64
import hashlib
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from resdet.detection.evaluation.page import (
    HEADLINES,
    ClassTable,
    Metric,
    Page,
    PageSection,
    class_table,
    render_page,
)
from resdet.detection.pages.shots import Shot

EVIL = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>&amp;"
VOID = {"meta", "img", "br", "link", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, and the text; elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.style = self.script = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1:] == ["style"]:
            self.style += data
        elif self._open[-1:] == ["script"]:
            self.script += data
        elif data.strip():
            self.words.append(data.strip())

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}


def make_image(caption: str = "a.jpg") -> Shot:
    return Shot.inline(caption, np.full((40, 60, 3), 200, np.uint8), max_side=100)


def full_page(name: str) -> Page:
    rows = [
        {"name": name, "objects": 3, "voc_ap50": 0.25},
        {"name": "other", "objects": 0, "voc_ap50": None},
        {"name": "best", "objects": 7, "voc_ap50": 0.75},
    ]
    return Page(
        title=name,
        metrics=[Metric("voc_ap50", 0.5, f"area {name}"), Metric("coco_ap", None, name)],
        per_class=class_table(rows, {"objects": name}),
        notes=[name],
        facts=[(name, name)],
        details=[(name, name)],
        sections=[PageSection(name, [make_image(name)], text=name, small=True)],
        files=[(name, name)],
    )


def test_names_are_data() -> None:
    page = Reader(render_page(full_page(EVIL)))
    harmless = Reader(render_page(full_page("name")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in harmless.elements]
    assert sum(tag == "script" for tag, _ in page.elements) == 1
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert page.words.count(EVIL) == harmless.words.count("name")
    assert page.words.count(EVIL) >= 8


def test_the_page_needs_nothing_from_outside() -> None:
    page = Reader(render_page(full_page("x")))
    assert page.tags().isdisjoint({"link", "iframe", "object", "base", "form"})
    for _, attributes in page.elements:
        assert "href" not in attributes
        assert "style" not in attributes  # the policy would not let it work
        assert (attributes.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg")
    assert "url(" not in page.style
    assert "@import" not in page.style


def test_the_policy_forbids_all_but_style_script_and_inline_images() -> None:
    page = Reader(render_page(full_page("x")))
    (policy,) = [
        attributes["content"]
        for tag, attributes in page.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    digest, script = (
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (page.style, page.script)
    )
    assert policy is not None
    assert [part.strip() for part in policy.split(";")] == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        f"script-src 'sha256-{script}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert "color-scheme: light dark" in page.style
    assert "{#" not in page.style and "{{" not in page.style


def test_the_headline_is_map_with_its_definition() -> None:
    words = Reader(render_page(full_page("x"))).words
    at = words.index("0.500")
    assert words[at : at + 3] == ["0.500", "voc_ap50", f": {HEADLINES['voc_ap50'][2]}"]
    assert "-" in words  # the COCO AP is not defined


def test_classes_stand_best_first_and_undefined_ones_last() -> None:
    page = Reader(render_page(full_page("x")))
    at = [page.words.index(name) for name in ("best", "other")]
    assert page.words[at[0] : at[0] + 3] == ["best", "7", "0.750"]
    assert page.words[at[1] : at[1] + 3] == ["other", "0", "-"]
    assert [a["value"] for tag, a in page.elements if tag == "meter"] == ["0.75", "0.25"]


def test_rows_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(ValueError, match="same keys"):
        class_table([{"name": "a", "x": 1}, {"name": "b"}], {})
    with pytest.raises(ValueError, match="'name'"):
        class_table([{"x": 1}], {})
    assert class_table([], {}) == ClassTable()
    rows = [{"name": "a", "x": None, "ilsvrc_ap": None}, {"name": "b", "x": 1, "ilsvrc_ap": None}]
    assert class_table(rows, {}).columns == ["class", "x"]  # what was not measured is left out


def test_images_are_inlined_and_not_larger_than_asked() -> None:
    pixels = np.zeros((300, 600, 3), np.uint8)
    pixels[:, :300] = (250, 10, 10)
    inlined = Shot.inline("x", pixels, max_side=200)
    assert (inlined.width, inlined.height) == (200, 100)
    data = base64.b64decode(inlined.uri.removeprefix("data:image/jpeg;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert image.size == (200, 100)
        red, green, _ = np.asarray(image.convert("RGB"))[50, 50]
    assert red > 230
    assert green < 30
    small = Shot.inline("x", pixels[:20, :20], max_side=200)
    assert (small.width, small.height) == (20, 20)


def test_an_empty_page_is_a_page() -> None:
    page = Reader(render_page(Page(title="nothing")))
    assert page.words == ["Report: nothing", "Report: nothing"]
    assert page.tags().isdisjoint({"table", "img", "h2"})

"""The rules for bad boxes: what is rounding, what is clipped, and what a command keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.bad_boxes import resolve_boxes
from resdet.datasets.catalog import label_images
from resdet.datasets.formats.values import Values
from resdet.datasets.formats.yolo_text import format_line, read_labels
from resdet.datasets.records import RawBox, RawImage, RawObject

HEIGHT, WIDTH = 100, 4000


def image_with(*boxes: RawBox, size: tuple[int, int] = (HEIGHT, WIDTH)) -> RawImage:
    objects = tuple(RawObject("cat", box) for box in boxes)
    return RawImage("a", Path("a.jpg"), size, objects, Path("a.xml"))


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((0, 0, 50, 100), ""),
        ((-0.99, 0, 50, 100), "rounded_box"),
        ((0, -0.99, 50, 100.99), "rounded_box"),
        ((0, 0, 4003.9, 100), "rounded_box"),  # 0.1 % of 4000
        ((0, 0, 4004, 100), "partly_outside"),
        ((0, 0, 50, 101), "partly_outside"),
        ((-4, 0, 50, 100), "partly_outside"),
        # Less than half inside, yet by less than a pixel.
        ((-0.9, 10, 0.5, 60), "rounded_box"),
    ],
)
def test_what_is_rounding(box: RawBox, kind: str) -> None:
    split = label_images([image_with(box)], classes=["cat"])
    assert [finding.kind for finding in split.findings] == [kind] * bool(kind)
    x1, y1, x2, y2 = split.records[0].annotation.boxes[0].tolist()
    assert 0 <= x1 < x2 <= WIDTH and 0 <= y1 < y2 <= HEIGHT
    if kind == "rounded_box":
        assert [finding.severity for finding in split.findings] == ["note"]


def test_one_note_for_all_that_was_rounded() -> None:
    images = [image_with((-0.5, 0, 50, 100), (0, 0, 60, 100.5)), image_with((0, 0, 50, 50))]
    _, [note] = resolve_boxes(images, "error")
    assert note.reason.startswith("2 boxes leave their image by less than 1 px or 0.1% of its side")


def test_a_box_outside_by_less_than_a_pixel_has_nothing_left() -> None:
    split = label_images([image_with((WIDTH, 0, WIDTH + 0.5, 50))], classes=["cat"])
    assert [(f.kind, f.severity) for f in split.findings] == [("outside_image", "error")]


@pytest.mark.parametrize("policy", ["error", "drop", "clip", "fix"])
def test_right_boxes_stay_to_the_last_digit(policy: str) -> None:
    exact = (0.1, 0.2, 30.3000001, 40.4)
    images, findings = resolve_boxes([image_with(exact)], policy)  # type: ignore[arg-type]
    assert images[0].objects[0].box == exact and findings == []


def test_policies_for_commands() -> None:
    swapped, gone, half = (50, 5, 10, 50), (-30, 0, -10, 10), (-30, 0, 10, 10)
    image = image_with(swapped, gone, half, (-20, 0, 60, 10))
    kept = {
        policy: [obj.box for obj in resolve_boxes([image], policy)[0][0].objects]  # type: ignore[arg-type]
        for policy in ("drop", "clip", "fix")
    }
    clipped = (0, 0, 60, 10)
    assert kept == {
        "drop": [clipped],
        "clip": [(0, 0, 10, 10), clipped],
        "fix": [(10, 5, 50, 50), clipped],
    }


edges = st.floats(0, 1, allow_subnormal=False)


@given(
    horizontal=st.tuples(edges, edges),
    vertical=st.tuples(edges, edges),
    height=st.integers(20, 9000),
    width=st.integers(20, 9000),
)
def test_six_decimals_of_yolo_are_no_finding(
    tmp_path_factory: pytest.TempPathFactory,
    horizontal: tuple[float, float],
    vertical: tuple[float, float],
    height: int,
    width: int,
) -> None:
    """Every box that is inside when written is inside, for training, when read again."""
    (x1, x2), (y1, y2) = sorted(horizontal), sorted(vertical)
    if (x2 - x1) * width < 2 or (y2 - y1) * height < 2:
        return
    fractions = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    line = " ".join(["0", *(f"{value:.6f}" for value in fractions)])
    path = tmp_path_factory.getbasetemp() / "labels.txt"
    path.write_text(line)
    objects, faults, _ = read_labels(path, (height, width), {0: "cat"}, Values(texts=True))
    image = RawImage("a", Path("a.jpg"), (height, width), tuple(objects), path)
    findings = label_images([image], classes=["cat"]).findings
    assert faults == [] and {finding.severity for finding in findings} <= {"note"}
    assert len(objects) == 1 and format_line(objects[0], 0, (height, width))

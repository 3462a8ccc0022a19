"""Names become the right labels, and no box is silently changed or lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.bad_boxes import ROUNDING_PIXELS
from resdet.datasets.catalog import assemble, describe
from resdet.datasets.records import RawBox, RawImage, RawObject
from resdet.detection.errors import DataError
from resdet.tests.datasets.formats.sources import read

NAN, INF = float("nan"), float("inf")


def _image(*objects: RawObject, image_id: str = "a", size: tuple[int, int] = (50, 100)) -> RawImage:
    source = Path(f"Annotations/{image_id}.xml")
    return RawImage(image_id, Path(f"JPEGImages/{image_id}.jpg"), size, objects, source)


def _boxed(box: RawBox) -> RawImage:
    return _image(RawObject("dog", (1, 2, 3, 4)), RawObject("dog", box))


def test_labels_follow_the_class_list() -> None:
    image = _image(
        RawObject("cat", (0, 0, 10, 10)),
        RawObject("dog", (0, 0, 100, 50), ignore=True),
        RawObject("tree", (NAN, 0, 0, 0)),  # left out on purpose, so its box does not matter
    )
    split = assemble([image], classes=["dog", "cat"], ignore_classes=["tree"])
    (record,) = split.records
    assert split.classes == ("dog", "cat")
    assert (record.image_id, record.size, record.path) == ("a", (50, 100), image.path)
    assert record.annotation.labels.tolist() == [1, 0]
    assert record.annotation.ignore.tolist() == [False, True]
    assert record.annotation.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 100, 50]]
    assert split.problems == ()


def test_classes_from_the_data_are_sorted() -> None:
    names = ["zebra", "Ant", "tree", "dog", "zebra"]
    image = _image(*(RawObject(name, (0, 0, 1, 1)) for name in names))
    split = assemble([image], classes=None, ignore_classes=["tree"])
    assert split.classes == ("Ant", "dog", "zebra")
    assert split.records[0].annotation.labels.tolist() == [2, 0, 1, 2]


def test_images_without_objects_stay() -> None:
    split = assemble([_image(), _image(image_id="b")], classes=["dog"])
    assert [len(record.annotation) for record in split.records] == [0, 0]
    assert split.records[0].annotation.boxes.shape == (0, 4)
    assert list(assemble([], classes=["dog"]).records) == []


@pytest.mark.parametrize(
    ("written", "near"),
    [("Dining Table", "diningtable"), ("dinning_table", "diningtable"), ("DOG", "dog")],
)
def test_unknown_names_are_an_error_with_the_nearest(written: str, near: str) -> None:
    unknown = RawObject(written, (0, 0, 1, 1))
    with pytest.raises(DataError) as caught:
        assemble([_image(unknown, unknown)], classes=["dog", "diningtable"])
    assert f"Annotations/a.xml: '{written}': '{written}' x2 (first in a.jpg)" in str(caught.value)
    assert f"did you mean '{near}'?" in str(caught.value)
    with pytest.raises(DataError, match=r"list; data\.ignore_classes leaves a class out$"):
        assemble([_image(unknown)], classes=["zebra"])


def test_class_lists_that_contradict_themselves() -> None:
    for classes, ignored, reason in (
        (["dog", "dog"], [], "listed twice: dog"),
        (["dog"], ["dog"], "both in classes and ignore_classes"),
        ([], [], "no classes"),
        (None, [], "no classes"),
    ):
        with pytest.raises(DataError, match=reason):
            assemble([_image()], classes=classes, ignore_classes=ignored)


def test_an_id_used_twice_is_an_error() -> None:
    with pytest.raises(DataError, match=r"1 error \(image_id_twice 1\).*image a: .* twice: JPEG"):
        assemble([_image(), _image(image_id="b"), _image()], classes=["dog"])


# box, reason, and what becomes of it under drop, clip and fix; the image is 100 wide, 50 high
BAD: list[tuple[RawBox, str, object, object, object]] = [
    ((NAN, 0, 1, 1), "non-finite", None, "error", "error"),
    ((0, 0, INF, 1), "non-finite", None, "error", "error"),
    ((0, 0, 1e39, 1), "non-finite", None, "error", "error"),  # infinite as float32
    ((5, 5, 5, 9), "no area", None, "error", "error"),
    ((5, 5, 5 + 1e-9, 9), "no area", None, "error", "error"),  # equal as float32
    ((9, 5, 2, 7), "swapped", None, "error", [2, 5, 9, 7]),
    ((200, 9, 210, 2), "swapped", None, "error", "error"),
    ((104, 9, 90, 2), "swapped", None, "error", [90, 2, 100, 9]),
    ((100, 0, 120, 10), "outside", None, "error", "error"),
    ((90, 0, 130, 10), "25.0% inside", None, [90, 0, 100, 10], "error"),
]
#: At least half inside: cut under every policy.
OVERSHOOT: list[tuple[RawBox, list[float]]] = [
    ((90, 0, 110, 10), [90, 0, 100, 10]),
    ((-1, -1, 100, 50), [0, 0, 100, 50]),
    ((0, 0, 101, 51), [0, 0, 100, 50]),
]


@pytest.mark.parametrize(("box", "reason"), [case[:2] for case in BAD])
def test_bad_boxes_are_an_error_that_names_the_object(box: RawBox, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        assemble([_boxed(box)], classes=["dog"])
    assert "1 error (" in str(caught.value)
    assert "Annotations/a.xml: a.jpg: object 2 (dog): box (" in str(caught.value)


@pytest.mark.parametrize(
    ("box", "policy", "outcome"),
    [
        (case[0], policy, outcome)
        for case in BAD
        for policy, outcome in zip(("drop", "clip", "fix"), case[2:], strict=True)
    ],
)
def test_bad_boxes_under_each_policy(box: RawBox, policy: str, outcome: object) -> None:
    if outcome == "error":
        with pytest.raises(DataError, match="object 2"):
            assemble([_boxed(box)], classes=["dog"], on_bad_box=policy)
        return
    split = assemble([_boxed(box)], classes=["dog"], on_bad_box=policy)
    kept = [[1, 2, 3, 4]] if outcome is None else [[1, 2, 3, 4], outcome]
    assert split.records[0].annotation.boxes.tolist() == kept
    (problem,) = split.problems
    assert "object 2 (dog)" in problem
    assert problem.endswith({"drop": "dropped", "clip": "clipped", "fix": "fixed"}[policy])


@pytest.mark.parametrize("policy", ["error", "drop", "clip", "fix"])
@pytest.mark.parametrize(("box", "expected"), OVERSHOOT)
def test_small_overshoot_is_clipped_and_counted(
    box: RawBox, expected: list[float], policy: str
) -> None:
    split = assemble([_boxed(box)], classes=["dog"], on_bad_box=policy)
    assert split.records[0].annotation.boxes[1].tolist() == expected
    assert len(split.problems) == 1
    assert split.problems[0].endswith("clipped")


_side = st.floats(width=32) | st.floats(-200, 200, width=32)


@given(
    st.lists(st.tuples(_side, _side, _side, _side), max_size=6),
    st.sampled_from(["error", "drop", "clip", "fix"]),
)
def test_every_accepted_box_lies_inside_and_the_rest_is_counted(
    boxes: list[RawBox], policy: str
) -> None:
    image = _image(*(RawObject("dog", box) for box in boxes))
    try:
        split = assemble([image], classes=["dog"], on_bad_box=policy)
    except DataError:
        assert policy != "drop"
        return
    kept = split.records[0].annotation.boxes
    x1, y1, x2, y2 = kept.unbind(1)
    assert torch.all((x1 >= 0) & (x1 < x2) & (x2 <= 100) & (y1 >= 0) & (y1 < y2) & (y2 <= 50))
    assert len(kept) == len(boxes) - sum(line.endswith("dropped") for line in split.problems)
    # Less than a pixel outside is rounding: one note for all such boxes, and no problem.
    near = [(kept - torch.tensor(box)).abs().amax(dim=1) <= ROUNDING_PIXELS for box in boxes]
    assert sum(bool(each.any()) for each in near) >= len(boxes) - len(split.problems)


def test_the_banner() -> None:
    dog, far = RawObject("dog", (0, 0, 1, 1)), RawObject("cat", (500, 0, 510, 9))
    crowd = RawObject("dog", (0, 0, 101, 9), ignore=True)
    images = [_image(dog, crowd), _image(dog, far, image_id="b"), _image(image_id="c")]
    images[0] = replace(images[0], left_out=2)
    split = assemble(images, classes=["cat", "dog"], on_bad_box="drop")
    assert describe(split) == (
        "images: 3 (with objects 2, empty 1, skipped 0), objects: 3 (cat 0, dog 3), "
        "of these ignored 1, difficult left out 2, boxes clipped 1, boxes dropped 1"
    )


def test_bccd_is_clean_when_pixels_count_from_one(shared_data: Path) -> None:
    root = shared_data / "bccd"
    split = assemble(read("voc", root, "trainval") + read("voc", root, "test"), classes=None)
    assert split.problems == ()
    assert describe(split).startswith(
        "images: 364 (with objects 364, empty 0, skipped 0), "
        "objects: 4888 (Platelets 361, RBC 4155, WBC 372)"
    )
    one_pixel = next(r for r in split.records if r.image_id == "BloodImage_00343").annotation.boxes
    assert [180, 328, 181, 329] in one_pixel.tolist()


def test_bccd_has_two_boxes_without_area_when_pixels_count_from_zero(shared_data: Path) -> None:
    root = shared_data / "bccd"
    images = read("voc", root, "trainval", coordinates="zero_based")
    images += read("voc", root, "test", coordinates="zero_based")
    with pytest.raises(DataError, match=r"2 errors .*BloodImage_00338.*BloodImage_00343"):
        assemble(images, classes=None)
    split = assemble(images, classes=None, on_bad_box="drop")
    assert sum(line.endswith("no area: dropped") for line in split.problems) == 2
    assert sum(len(record.annotation) for record in split.records) == 4886

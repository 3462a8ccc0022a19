"""The error types of TIDE: by hand, and against a brute force that knows no arrays."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from resdet.detection.evaluation.coco import coco_scores
from resdet.detection.evaluation.columns import Columns, gather
from resdet.detection.evaluation.error_types import ERRORS, KINDS, error_types
from resdet.detection.structures import Annotation, Detections, Record

Box = tuple[float, float, float, float]
#: (box, label, ignore) and (box, label, score).
Truth = list[tuple[Box, int, bool]]
Found = list[tuple[Box, int, float]]


def columns(images: list[tuple[Truth, Found]], classes: int = 2) -> Columns:
    records, found = [], {}
    for number, (objects, detections) in enumerate(images):
        annotation = Annotation(
            torch.tensor([box for box, _, _ in objects]).float().reshape(-1, 4),
            torch.tensor([label for _, label, _ in objects], dtype=torch.int64),
            torch.tensor([ignore for _, _, ignore in objects], dtype=torch.bool),
        )
        records.append(Record(str(number), Path(f"{number}.jpg"), (300, 300), annotation))
        found[str(number)] = Detections(
            torch.tensor([box for box, _, _ in detections]).float().reshape(-1, 4),
            torch.tensor([score for _, _, score in detections]).float(),
            torch.tensor([label for _, label, _ in detections], dtype=torch.int64),
        )
    return gather(found, records, classes)


#: A cat of 10 x 10, a dog of 10 x 10 far from it.
CAT: tuple[Box, int, bool] = ((0, 0, 10, 10), 0, False)
DOG: tuple[Box, int, bool] = ((50, 50, 60, 60), 1, False)


def kinds(objects: Truth, detections: Found) -> list[str]:
    return [list(KINDS)[kind] for kind in error_types(columns([(objects, detections)])).kinds]


@pytest.mark.parametrize(
    ("kind", "box", "label"),
    [
        ("right", (0, 0, 10, 10), 0),
        ("right", (0, 0, 10, 5), 0),  # an IoU of exactly 0.5
        ("localization", (0, 0, 10, 4), 0),
        ("localization", (0, 0, 10, 1), 0),  # exactly 0.1
        ("background", (0, 0, 10, 0.9), 0),
        ("classification", (0, 0, 10, 6), 1),
        ("both", (0, 0, 10, 4), 1),
        ("background", (100, 100, 110, 110), 1),
    ],
)
def test_each_type_by_hand(kind: str, box: Box, label: int) -> None:
    assert kinds([CAT, DOG], [(box, label, 0.9)]) == [kind]


def test_the_second_detection_of_an_object_is_a_duplicate() -> None:
    box = (0.0, 0.0, 10.0, 8.0)
    assert kinds([CAT], [(box, 0, 0.5), (CAT[0], 0, 0.4)]) == ["right", "duplicate"]
    # By score, not by position; and the other object of its class is free to be taken.
    assert kinds([CAT], [(box, 0, 0.4), (CAT[0], 0, 0.5)]) == ["duplicate", "right"]
    near = ((0.0, 2.0, 10.0, 12.0), 0, False)
    assert kinds([CAT, near], [(CAT[0], 0, 0.9), (CAT[0], 0, 0.8)]) == ["right", "right"]


def test_objects_to_be_ignored() -> None:
    crowd = ((0.0, 0.0, 100.0, 100.0), 0, True)
    inside = (CAT[0], 0, 0.9)
    assert kinds([crowd], [inside, (CAT[0], 1, 0.8)]) == ["ignored", "background"]
    assert kinds([crowd, CAT], [inside, (CAT[0], 0, 0.8)]) == ["right", "ignored"]
    errors = error_types(columns([([crowd], [inside])]))
    assert not errors.missed(torch.zeros(2).numpy()).any()


def test_missed_objects_and_thresholds() -> None:
    found: Found = [((0, 0, 10, 4), 0, 0.7), (CAT[0], 0, 0.3)]
    errors = error_types(columns([([CAT, DOG], found)]))

    def counts(threshold: float) -> dict[str, int]:
        thresholds = torch.full((2,), threshold).double().numpy()
        return {n: int(c.sum()) for n, c in errors.counts(thresholds).items() if c.sum()}

    assert counts(0.0) == {"localization": 1, "missed": 1}  # the dog
    # Above its right detection the cat is not found, but the other detection is about it.
    assert counts(0.5) == {"localization": 1, "missed": 1}
    assert counts(0.8) == {"missed": 2}
    assert counts(math.nan) == {"missed": 2}
    assert errors.found_by.tolist() == [1, -1]


def test_costs_by_hand() -> None:
    """One cat is found behind a background detection, one is not found at all."""
    other = ((20.0, 20.0, 30.0, 30.0), 0, False)
    found: Found = [((70, 70, 80, 80), 0, 0.9), (CAT[0], 0, 0.8)]
    errors = error_types(columns([([CAT, other], found)], classes=1))
    # Precision 1/2 up to the recall 1/2: 51 of the 101 recalls.
    own = 51 * 0.5 / 101
    costs = errors.costs()
    assert costs["background"] == pytest.approx(51 / 101 - own)
    assert costs["missed"] == pytest.approx(0.5 - own)  # 101 recalls at precision 1/2
    assert [costs[name] for name in ERRORS if name not in ("background", "missed")] == [0] * 4


def test_nothing_at_all() -> None:
    nothing = error_types(columns([], classes=3))
    assert {n: c.tolist() for n, c in nothing.counts(torch.zeros(3).double().numpy()).items()} == {
        name: [0, 0, 0] for name in ERRORS
    }
    assert all(math.isnan(cost) for cost in nothing.costs().values())
    only_found = error_types(columns([([], [(CAT[0], 0, 0.5)])]))
    assert list(KINDS)[only_found.kinds[0]] == "background"


# ----------------------------------------------------------------------------- brute force


@dataclass
class Guess:
    box: Box
    label: int
    score: float
    kind: str = ""
    target: int = -1


def overlap(a: Box, b: Box) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def typed(objects: Truth, found: Found) -> tuple[list[Guess], set[int]]:
    """TIDE's definitions, one sentence after the other; also the missed objects."""
    guesses, free = [Guess(*each) for each in found], set(range(len(objects)))
    for guess in sorted(guesses, key=lambda each: -each.score):
        ious = [overlap(guess.box, box) for box, _, _ in objects]
        own = [place for place, obj in enumerate(objects) if obj[1] == guess.label]
        others = [place for place in range(len(objects)) if place not in own]
        fit = [place for place in own if place in free and ious[place] >= 0.5]
        same = max(own, key=lambda place: ious[place], default=-1)
        other = max(others, key=lambda place: ious[place], default=-1)
        if fit:
            guess.kind, guess.target = "right", max(fit, key=lambda place: ious[place])
            free.discard(guess.target)
        elif own and 0.1 <= ious[same] < 0.5:
            guess.kind, guess.target = "localization", same
        elif others and ious[other] >= 0.5:
            guess.kind, guess.target = "classification", other
        elif own and ious[same] >= 0.5:
            guess.kind, guess.target = "duplicate", same
        elif max(ious, default=0) < 0.1:
            guess.kind = "background"
        else:
            guess.kind, guess.target = "both", other
    about = {each.target for each in guesses if each.kind in ("localization", "classification")}
    return guesses, free - about


@st.composite
def scenes(draw: st.DrawFn) -> tuple[Truth, Found]:
    side = st.sampled_from([2, 4, 5, 8, 10])
    start = st.integers(0, 6)

    def box() -> Box:
        x, y = draw(start), draw(start)
        return float(x), float(y), float(x + draw(side)), float(y + draw(side))

    truth: Truth = [(box(), draw(st.integers(0, 1)), False) for _ in range(draw(st.integers(0, 4)))]
    scores = draw(st.permutations(range(1, 9)))
    found: Found = [
        (box(), draw(st.integers(0, 1)), scores[place] / 8)
        for place in range(draw(st.integers(0, 8)))
    ]
    return truth, found


@given(scenes())
@settings(max_examples=200)
def test_as_the_brute_force(scene: tuple[Truth, Found]) -> None:
    truth, found = scene
    errors = error_types(columns([scene]))
    guesses, missed = typed(truth, found)
    assert [list(KINDS)[kind] for kind in errors.kinds] == [guess.kind for guess in guesses]
    assert errors.targets.tolist() == [guess.target for guess in guesses]
    every = torch.full((2,), -1.0).double().numpy()
    assert set(errors.missed(every).nonzero()[0].tolist()) == missed


@given(scenes(), st.integers(1, 8))
@settings(max_examples=100)
def test_kinds_hold_for_every_threshold(scene: tuple[Truth, Found], least: int) -> None:
    """Without the detections below a score, the others have the same kinds."""
    truth, found = scene
    whole = error_types(columns([scene]))
    kept = [row for row, each in enumerate(found) if each[2] >= least / 8]
    part = error_types(columns([(truth, [found[row] for row in kept])]))
    assert part.kinds.tolist() == whole.kinds[kept].tolist()
    at = torch.full((2,), least / 8).double().numpy()
    assert part.missed(at).tolist() == whole.missed(at).tolist()


def test_costs_are_rises_of_pycocotools_ap() -> None:
    """AP before and after mending by hand, both of pycocotools."""
    random = np.random.default_rng(5)

    def jittered(box: Box) -> Box:
        x, y = (random.uniform(-4, 4) for _ in range(2))
        return box[0] + x, box[1] + y, box[2] + x, box[3] + y

    images: list[tuple[Truth, Found]] = []
    for _ in range(30):
        places = [random.uniform(0, 60) for _ in range(4)]
        truth: Truth = [((x, x, x + 20, x + 20), int(random.integers(2)), False) for x in places]
        found: Found = [
            (jittered(box), label if random.random() < 0.7 else 1 - label, random.random())
            for box, label, _ in truth * 2
        ]
        found.append(((200, 200, 210, 210), 0, random.random()))
        images.append((truth, found))

    def ap(changed: list[tuple[Truth, Found]]) -> float:
        return coco_scores(columns(changed)).metrics["coco_ap50"]

    costs = error_types(columns(images)).costs()
    assert min(costs.values()) >= 0 and sum(cost > 0.001 for cost in costs.values()) >= 5
    for name in ("background", "duplicate", "both"):
        dropped = []
        for truth, found in images:
            guesses, _ = typed(truth, found)
            kept = [each for each, guess in zip(found, guesses, strict=True) if guess.kind != name]
            dropped.append((truth, kept))
        assert ap(dropped) - ap(images) == pytest.approx(costs[name], abs=1e-6), name
    mended: list[tuple[Truth, Found]] = []
    for truth, found in images:
        guesses, missed = typed(truth, found)
        mended.append(([obj for n, obj in enumerate(truth) if n not in missed], found))
    assert ap(mended) - ap(images) == pytest.approx(costs["missed"], abs=1e-6)

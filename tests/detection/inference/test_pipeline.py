"""The prediction pipeline: neutral options, combinations of options, a step-by-step reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from resdet.datasets.loading.transforms import EvalTransform, make_sample
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.errors import DataError
from resdet.detection.evaluation.prediction import autocast
from resdet.detection.inference.pipeline import Pipeline, restore
from resdet.detection.ops.nms import suppress
from resdet.detection.predictor import load
from resdet.detection.structures import Annotation, Batch, Detections, Geometry
from resdet.detection.tasks.checkpoints import load_members, read_checkpoint
from resdet.detection.tasks.detector import DETECTION, Detector
from resdet.detection.tasks.detector_network import build_detector, build_pipeline

CLASSES = ("cat", "dog", "owl")
OPTIONS: dict[str, dict[str, Any]] = {
    "refine": {"refine": {"rounds": 1}},
    "vote": {"vote": {"iou": 0.5}},
    "soft": {"suppress": {"method": "soft_nms"}},
    "fusion": {"suppress": {"method": "wbf"}},
    "flip": {"flip": True},
    "scales": {"scales": (64, 96)},
    "pyramid": {"pyramid": (48, 64, 96), "pyramid_region": 32.0},
    "context": {},  # of the network
    "ensemble": {},  # of several
}
#: The partner in an ensemble has settings of testing of its own.
PARTNER = {"scales": (56, 72, 80), "pyramid": (40, 80), "pyramid_region": 24.0}
#: All pairs but that of two methods of suppression, and all together.
TOGETHER = [pair for pair in combinations(OPTIONS, 2) if pair != ("soft", "fusion")]
TOGETHER += [tuple(name for name in OPTIONS if name != "fusion")]


def detector(
    *,
    seed: int = 0,
    depth: int = 18,
    test: dict[str, Any] | None = None,
    classes: tuple[str, ...] = CLASSES,
    context: bool = False,
    side: int = 64,
) -> Detector:
    config = DetectorConfig.model_validate(
        {
            "image": {"short_side_test": side, "long_side_max": 2 * side},
            "backbone": {"depth": depth, "width": 8, "norm": "group", "frozen_stages": 0},
            "rpn": {
                "channels": 8,
                "anchor_sizes": (16.0, 32.0),
                "pre_nms_test": 100,
                "post_nms_test": 20,
            },
            "roi": {"pool_size": 7, "tail_stride": 1, "context": context},
            "train": {"seed": seed},
            "test": test or {},
        }
    )
    model = build_detector(config, len(classes))
    # Of the size that training gives them; as initialised, all boxes would be their proposals.
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.roi_head.box_deltas.weight, std=0.3)
    torch.nn.init.normal_(model.roi_head.cls_logits.weight, std=0.5)
    return Detector(model.eval(), config, classes)


def switched(names: Sequence[str], *, partner: dict[str, Any] | None = None) -> list[Detector]:
    """A detector or an ensemble with these options; the partner has another depth, size and
    context."""
    test: dict[str, Any] = {}
    for name in names:
        test |= OPTIONS[name]
    lead = detector(test=test, context="context" in names)
    if "ensemble" not in names:
        return [lead]
    own = PARTNER if partner is None else partner
    return [lead, detector(seed=1, depth=34, context=True, side=80, test=own)]


def loaded(*paths: Path) -> list[Detector]:
    return load_members([read_checkpoint(path, DETECTION) for path in paths])


def described(*members: Detector) -> str:
    return DETECTION.describe_testing(members, build_pipeline(members))


def make_images(count: int = 2) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    rough = random.integers(0, 256, (count, 12, 20, 3), dtype=np.uint8)
    return [cv2.resize(one, (100 + 10 * i, 80)) for i, one in enumerate(rough)]


def found(
    one: Detector | list[Detector], images: Sequence[np.ndarray] | None = None
) -> list[Detections]:
    members = one if isinstance(one, list) else [one]
    return run(build_pipeline(members), make_images() if images is None else images)


def run(pipeline: Pipeline, images: Sequence[np.ndarray]) -> list[Detections]:
    samples = [
        make_sample(pixels, Annotation.empty(), pipeline.transforms, image_id=str(number))
        for number, pixels in enumerate(images)
    ]
    return pipeline.predict(Batch.collate(samples))


def expect_equal(ours: list[Detections], expected: list[Detections]) -> None:
    for one, other in zip(ours, expected, strict=True):
        assert len(one) > 10
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-6, atol=1e-4)


@torch.no_grad()
def stage_by_stage(one: Detector) -> list[Detections]:
    """The detections of one network: its stages, threshold and NMS one after the other."""
    transform = EvalTransform(64, 128)
    samples = [make_sample(p, Annotation.empty(), [transform], image_id="") for p in make_images()]
    batch = Batch.collate(samples)
    features = one.model.extract(batch.images, batch.sizes)
    proposals = one.model.propose(features, batch.sizes)
    scored = one.model.score(features, proposals, batch.sizes)
    return [
        suppress(restore(*image, score_threshold=0.0), nms_iou=0.5, max_detections=100)
        for image in zip(*scored, batch.geometries, strict=True)
    ]


@pytest.fixture(scope="module")
def baseline() -> dict[bool, list[Detections]]:
    """What the network itself finds, with and without context."""
    return {context: stage_by_stage(detector(context=context)) for context in (False, True)}


def test_restore_by_hand() -> None:
    """Undo scale 2 (y) and 4 (x) and the flip; empty and not finite boxes are no objects."""
    geometry = Geometry((50, 100), scale=(2.0, 4.0), flipped=True)
    probs = torch.tensor([[0.6, 0.1, 0.3], [0.05, 0.8, 0.15], [0.5, 0.5, 0.0]])
    nothing = [9.0, 9.0, 9.0, 30.0]
    boxes = torch.tensor(
        [
            [[40.0, 20.0, 80.0, 60.0], [0.0, 0.0, 400.0, 100.0]],
            [[1.0, 1.0, 2.0, 2.0], [0.0, 0.0, 4.0, 2.0]],
            [nothing, [1.0, 1.0, float("nan"), 2.0]],
        ]
    )
    found = restore(probs, boxes, geometry, score_threshold=0.1)
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.6, 0.8])
    assert found.boxes.tolist() == [[80.0, 10.0, 90.0, 30.0], [99.0, 0.0, 100.0, 1.0]]


@pytest.mark.parametrize("context", [False, True])
@pytest.mark.parametrize(
    "neutral",
    [
        {},
        {"refine": {"rounds": 0}},
        {"scales": (64,)},
        {"pyramid": (64,)},
        {"vote": {"iou": 1.0}},
        {"scales": (64,), "pyramid": (64,), "flip": False, "vote": {"iou": 1.0}},
    ],
)
def test_neutral_options_change_nothing(
    neutral: dict[str, Any], context: bool, baseline: dict[bool, list[Detections]]
) -> None:
    expect_equal(found(detector(test=neutral, context=context)), baseline[context])


@pytest.mark.parametrize("context", [False, True])
def test_a_network_twice_is_that_network(
    context: bool, baseline: dict[bool, list[Detections]]
) -> None:
    """Both propose the same, both score it the same; NMS takes one of each pair."""
    one = detector(context=context)
    expect_equal(found([one, detector(context=context)]), baseline[context])


@pytest.mark.parametrize("test", [{}, {"vote": {"iou": 1.0}}, OPTIONS["scales"], OPTIONS["flip"]])
def test_a_round_that_moves_nothing_changes_nothing(test: dict[str, Any]) -> None:
    """Regions that stay where they are get the same score again; NMS takes one of each pair."""
    results = []
    for rounds in (0, 1):
        one = detector(test=test | {"refine": {"rounds": rounds}})
        torch.nn.init.zeros_(one.model.roi_head.box_deltas.weight)
        results.append(found(one))
    expect_equal(*results)


@pytest.mark.parametrize(
    ("names", "precision"),
    [
        *((names, "fp32") for names in TOGETHER),
        *(((name,), "bf16") for name in OPTIONS),
        (("pyramid", "context"), "bf16"),
        (TOGETHER[-1], "bf16"),
    ],
)
def test_options_combine(names: tuple[str, ...], precision: str) -> None:
    with autocast(torch.device("cpu"), precision):
        results = found(switched(names))
    for detections, image in zip(results, make_images(), strict=True):
        height, width = image.shape[:2]
        assert 0 < len(detections) <= 100
        assert detections.boxes.isfinite().all() and detections.scores.isfinite().all()
        assert (detections.boxes >= -1e-3).all()
        limit = torch.tensor([width, height, width, height]) + 1e-3
        assert (detections.boxes <= limit).all()
        assert (detections.scores[:-1] >= detections.scores[1:]).all()


class ReferenceView:
    """One network's map of one view of an image; all boxes are in original pixels."""

    def __init__(self, one: Detector, pixels: np.ndarray, side: int, flipped: bool) -> None:
        self.model, self.flipped = one.model, flipped
        image, _, geometry = EvalTransform(side, 2 * side, flipped)(pixels, Annotation.empty())
        self.size, self.width = [tuple(image.shape[:2])], pixels.shape[1]
        self.factors = torch.tensor(geometry.scale)[[1, 0, 1, 0]]
        self.features = one.model.extract(image.permute(2, 0, 1)[None], self.size)

    def flip(self, boxes: torch.Tensor) -> torch.Tensor:
        x1, y1, x2, y2 = boxes.unbind(-1)
        kept = (x1, y1, x2, y2)
        return torch.stack((self.width - x2, y1, self.width - x1, y2) if self.flipped else kept, -1)

    def here(self, boxes: torch.Tensor) -> list[torch.Tensor]:
        return [self.flip(boxes) * self.factors]

    def proposals(self) -> torch.Tensor:
        return self.flip(self.model.propose(self.features, self.size)[0] / self.factors)

    def roi_features(self, box: torch.Tensor) -> torch.Tensor:
        return self.model.roi_head.roi_features(self.features, self.here(box), self.size)

    def scored(
        self, boxes: torch.Tensor, levels: Sequence[ReferenceView], region_side: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """With a pyramid each region by itself, on the two levels next to its side in pixels."""
        if not levels:
            probs, moved = self.model.score(self.features, self.here(boxes), self.size)
        else:
            features = []
            for box in boxes.split(1):
                side = float((box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1])) ** 0.5
                far = [
                    abs(np.log(side * float(one.factors[:2].prod()) ** 0.5 / region_side))
                    for one in levels
                ]
                lower = min(range(len(levels) - 1), key=lambda k: far[k] + far[k + 1])
                pair = levels[lower].roi_features(box), levels[lower + 1].roi_features(box)
                features.append(torch.stack(pair).amax(dim=0))
            probs, moved = self.model.score_features(
                torch.cat(features), self.here(boxes), self.size
            )
        return probs[0], self.flip(moved[0] / self.factors)


def candidates_step_by_step(members: list[Detector], image: np.ndarray) -> Detections:
    """The procedure of appendix B as a plain loop over passes, rounds, networks and regions."""
    test, parts = members[0].config.test, []
    tests = [m.config.test for m in members]
    scales = [m.config.test.scales or (m.config.image.short_side_test,) for m in members]
    for flipped in (False, True) if any(t.flip for t in tests) else (False,):
        for index in range(max(map(len, scales))):
            views, levels = [], []
            for m, own in zip(members, scales, strict=True):
                side, turned = own[min(index, len(own) - 1)], flipped and m.config.test.flip
                views.append(ReferenceView(m, image, side, turned))
                pyramid = m.config.test.pyramid
                levels.append([ReferenceView(m, image, s, turned) for s in pyramid])
            regions = torch.cat([view.proposals() for view in views])
            for _ in range(1 + test.refine.rounds):
                scored = [
                    view.scored(regions, own, one.pyramid_region)
                    for view, own, one in zip(views, levels, tests, strict=True)
                ]
                probs, boxes = (sum(part) / len(members) for part in zip(*scored, strict=True))
                for region in range(len(regions)):
                    parts += [(boxes[region, k], probs[region, k], k) for k in range(3)]
                regions = torch.stack(
                    [b[p[:3].argmax()] for p, b in zip(probs, boxes, strict=True)]
                )
    boxes, scores, labels = zip(*parts, strict=True)
    return Detections(torch.stack(boxes), torch.stack(scores), torch.tensor(labels))


@torch.no_grad()
@pytest.mark.parametrize("names", TOGETHER, ids="+".join)
def test_candidates_are_those_of_the_procedure_step_by_step(names: tuple[str, ...]) -> None:
    members, image = switched(names), make_images()[1]
    expected = candidates_step_by_step(members, image)
    solid = (expected.boxes[:, 2:] - expected.boxes[:, :2] > 0).all(dim=1)
    pipeline = build_pipeline(members)
    pipeline.suppress = lambda candidates: candidates
    (ours,) = run(pipeline, [image])
    torch.testing.assert_close(ours.boxes, expected.boxes[solid], rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(ours.scores, expected.scores[solid], rtol=1e-3, atol=1e-5)
    assert torch.equal(ours.labels, expected.labels[solid])


@pytest.mark.parametrize("names", [(), TOGETHER[-1]], ids="+".join)
def test_images_of_a_batch_do_not_affect_each_other(names: tuple[str, ...]) -> None:
    """Of one size, so that neither is padded: group norm would see the padding."""
    one = switched(names, partner={})
    both = [make_images()[0], np.ascontiguousarray(make_images()[0][::-1])]
    alone = [found(one, [image])[0] for image in both]
    for mine, other in zip(found(one, both), alone, strict=True):
        torch.testing.assert_close(mine.scores, other.scores, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine.boxes, other.boxes, rtol=1e-3, atol=1e-2)
    assert not torch.allclose(alone[0].boxes[:5], alone[1].boxes[:5], atol=1.0)


def test_the_flipped_pass_uses_the_flipped_image() -> None:
    """The detections in an image and in the flipped image are each other's flipped boxes."""
    one = detector(test={"flip": True})
    image = make_images()[0]
    width = image.shape[1]
    both = [found(one, [p])[0] for p in (image, np.ascontiguousarray(image[:, ::-1]))]
    x1, y1, x2, y2 = both[1].boxes.unbind(1)
    flipped = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    torch.testing.assert_close(both[0].scores, both[1].scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[0].boxes, flipped, rtol=1e-3, atol=1e-2)


def test_each_scale_is_extracted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    one = detector(test={"scales": (64, 96), "pyramid": (64, 96), "flip": True})
    extract, seen = one.model.extract, []

    def counted(images: torch.Tensor, sizes: list[tuple[int, int]]) -> torch.Tensor:
        seen.append(tuple(sizes))
        return extract(images, sizes)

    monkeypatch.setattr(one.model, "extract", counted)
    found(one)
    assert len(seen) == 4  # two sizes, two orientations


@pytest.mark.parametrize("test", [{}, {**OPTIONS["pyramid"], **OPTIONS["refine"], "flip": True}])
def test_nothing_to_find(test: dict[str, Any]) -> None:
    one = detector(test=test)
    one.model.select.keywords["min_size"] = 1e6
    assert [len(detections) for detections in found(one)] == [0, 0]


def test_training_mode_is_refused() -> None:
    one = detector()
    one.model.train()
    with pytest.raises(RuntimeError, match="eval"):
        found(one)


def test_the_testing_in_words() -> None:
    text = described(*switched(TOGETHER[-1]))
    for words in (
        "ensemble of 2: (1) shorter side 64, 96, flipped too, regions on the pyramid 48, 64, 96",
        "(2) shorter side 56, 72, 80, regions on the pyramid 40, 80; ",
        "flipped",
        "pyramid 48, 64, 96",
        "context",
        "1 round",
        "soft_nms with sigma 0.5",  # test.nms_iou is not used
        "voting at 0.5",
    ):
        assert words in text
    plain = described(detector())
    assert plain == "shorter side 64; nms at 0.5"
    linear = {"suppress": {"method": "linear_soft_nms"}, "vote": {"iou": 0.8, "score": "average"}}
    text = described(detector(test=linear), detector(context=True))
    assert text == (
        "shorter side 64; ensemble of 2; global context; linear_soft_nms at 0.5; "
        "box voting at 0.8, mean score"
    )


# ---------------------------------------------------------------------------- from files


def saved(one: Detector, path: Path) -> Path:
    identity = {"config": one.config.model_dump(mode="json"), "classes": list(one.classes)}
    save_checkpoint(path, {"model": one.model.state_dict(), "step": 1, **identity})
    return path


def test_classes_of_members_are_reordered_to_those_of_the_first(tmp_path: Path) -> None:
    """A network whose classes are listed in another order finds the same under the same names."""
    first, second = detector(), detector(seed=1, depth=34)
    paths = [saved(first, tmp_path / "a.pt"), saved(second, tmp_path / "b.pt")]
    shuffled = replace(second, classes=("owl", "cat", "dog"))
    other = saved(shuffled, tmp_path / "c.pt")
    joint = loaded(paths[0], other)
    assert [one.classes for one in joint] == [CLASSES, CLASSES]
    # As if the second's rows had been stored in the first's order: cat is row 1 of (owl, cat, dog).
    logits = joint[1].model.roi_head.cls_logits.weight
    stored = second.model.roi_head.cls_logits.weight
    torch.testing.assert_close(logits, stored[[1, 2, 0, 3]])
    predictor = load([paths[0], other])
    for image in make_images():
        expect_equal(predictor.predict([image]), found(joint, [image]))
    assert "ensemble of 2" in predictor.testing


def test_each_member_is_tested_as_its_own_file_says(tmp_path: Path) -> None:
    """Two files with other sizes of testing, by hand: the union of the proposals of each on its own
    image, the mean of their scores and boxes, one NMS. An override is for all of them."""
    image, sides = make_images()[1], (64, 80)
    members = [detector(), detector(seed=1, side=80, test={"scales": (80,), "max_detections": 7})]
    paths = [saved(one, tmp_path / f"{number}.pt") for number, one in enumerate(members)]
    with torch.no_grad():
        views = [
            ReferenceView(*pair, False) for pair in zip(members, [image] * 2, sides, strict=True)
        ]
        regions = torch.cat([view.proposals() for view in views])
        probs, boxes = zip(*(view.scored(regions, [], 0.0) for view in views), strict=True)
    size = Geometry(image.shape[:2], (1.0, 1.0), flipped=False)
    joined = restore(sum(probs) / 2, sum(boxes) / 2, size, score_threshold=0.0)
    expected = suppress(joined, nms_iou=0.5, max_detections=100)
    predictor = load(paths)
    (ours,) = predictor.predict([image])
    assert torch.equal(ours.labels, expected.labels)
    torch.testing.assert_close(ours.scores, expected.scores, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ours.boxes, expected.boxes, rtol=1e-4, atol=1e-3)
    assert predictor.testing == (
        "ensemble of 2: (1) shorter side 64 (2) shorter side 80; nms at 0.5"
    )
    same = load(paths, overrides=["test.scales=[48]"])
    assert same.testing == "shorter side 48; ensemble of 2; nms at 0.5"
    assert same.pipeline.transforms == (EvalTransform(48, 96),)


def test_members_of_other_classes_are_refused(tmp_path: Path) -> None:
    one = saved(detector(), tmp_path / "a.pt")
    two = saved(detector(classes=("cat", "dog", "emu")), tmp_path / "b.pt")
    with pytest.raises(DataError) as caught:
        loaded(one, two)
    message = str(caught.value)
    assert "a.pt" in message and "b.pt" in message and "emu" in message and "owl" in message

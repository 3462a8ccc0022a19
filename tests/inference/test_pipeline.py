"""Every option of testing that does nothing changes nothing, and all of them combine."""

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
from resdet.datasets import transforms
from resdet.datasets.transforms import make_sample
from resdet.detection.build import Detector, build_model, build_pipeline, describe_testing
from resdet.detection.engine.checkpoint import save_checkpoint
from resdet.detection.errors import DataError
from resdet.detection.predictor import load
from resdet.detection.schema import DetectorConfig
from resdet.detection.stored import load_detectors
from resdet.detection.structures import Annotation, Batch, Detections

CLASSES = ("cat", "dog", "owl")
OPTIONS: dict[str, dict[str, Any]] = {
    "refine": {"refine": {"rounds": 1}},
    "vote": {"vote": {"iou": 0.5}},
    "soft": {"suppress": {"method": "soft_nms"}},
    "flip": {"flip": True},
    "scales": {"scales": (64, 96)},
    "pyramid": {"pyramid": (48, 64, 96), "pyramid_region": 32.0},
}


def detector(
    *,
    seed: int = 0,
    depth: int = 18,
    test: dict[str, Any] | None = None,
    classes: tuple[str, ...] = CLASSES,
    context: bool = False,
) -> Detector:
    config = DetectorConfig.model_validate(
        {
            "image": {"short_side_test": 64, "long_side_max": 128},
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
    model = build_model(config, len(classes))
    # Of the size that training gives them; as initialised, all boxes would be their proposals.
    torch.manual_seed(seed)
    torch.nn.init.normal_(model.roi_head.box_deltas.weight, std=0.3)
    torch.nn.init.normal_(model.roi_head.cls_logits.weight, std=0.5)
    return Detector(model.eval(), config, classes)


def pictures(count: int = 2) -> list[np.ndarray]:
    random = np.random.default_rng(5)
    rough = random.integers(0, 256, (count, 12, 20, 3), dtype=np.uint8)
    return [cv2.resize(one, (100 + 10 * i, 80)) for i, one in enumerate(rough)]


def found(one: Detector, images: Sequence[np.ndarray] | None = None) -> list[Detections]:
    pipeline = build_pipeline(one)
    samples = [
        make_sample(picture, Annotation.empty(), pipeline.transforms, image_id=str(number))
        for number, picture in enumerate(pictures() if images is None else images)
    ]
    return pipeline.predict(Batch.collate(samples))


def expect_equal(ours: list[Detections], expected: list[Detections]) -> None:
    for one, other in zip(ours, expected, strict=True):
        assert len(one) > 10
        assert torch.equal(one.labels, other.labels)
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.boxes, other.boxes, rtol=1e-6, atol=1e-4)


@pytest.fixture(scope="module")
def baseline() -> list[Detections]:
    one = detector()
    plain = transforms.TestTransform(64, 128)
    samples = [make_sample(p, Annotation.empty(), [plain], image_id="") for p in pictures()]
    return one.model.predict(Batch.collate(samples))


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
def test_an_option_that_does_nothing_changes_nothing(
    neutral: dict[str, Any], baseline: list[Detections]
) -> None:
    expect_equal(found(detector(test=neutral)), baseline)


def test_a_network_twice_is_that_network(baseline: list[Detections]) -> None:
    """Both propose the same, both score it the same; NMS takes one of each pair."""
    expect_equal(found(replace(detector(), others=(detector(),))), baseline)


@pytest.mark.parametrize("names", [*combinations(OPTIONS, 2), tuple(OPTIONS)])
@pytest.mark.parametrize("members", [1, 2])
def test_options_combine(names: tuple[str, ...], members: int) -> None:
    test: dict[str, Any] = {}
    for name in names:
        test |= OPTIONS[name]
    others = tuple(detector(seed=k, depth=34, context=True) for k in range(1, members))
    results = found(replace(detector(test=test), others=others))
    for detections, picture in zip(results, pictures(), strict=True):
        height, width = picture.shape[:2]
        assert 0 < len(detections) <= 100
        assert detections.boxes.isfinite().all() and detections.scores.isfinite().all()
        assert (detections.boxes >= -1e-3).all()
        limit = torch.tensor([width, height, width, height]) + 1e-3
        assert (detections.boxes <= limit).all()
        assert (detections.scores[:-1] >= detections.scores[1:]).all()


def test_the_mirrored_pass_sees_the_mirrored_picture() -> None:
    """What is found in a picture and in its mirror image is each other's mirror image."""
    one = detector(test={"flip": True})
    picture = pictures()[0]
    width = picture.shape[1]
    both = [found(one, [p])[0] for p in (picture, np.ascontiguousarray(picture[:, ::-1]))]
    x1, y1, x2, y2 = both[1].boxes.unbind(1)
    mirrored = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    torch.testing.assert_close(both[0].scores, both[1].scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both[0].boxes, mirrored, rtol=1e-3, atol=1e-2)


def test_each_size_is_extracted_once(monkeypatch: pytest.MonkeyPatch) -> None:
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
    one.model.select_test.keywords["min_size"] = 1e6
    assert [len(detections) for detections in found(one)] == [0, 0]


def test_training_mode_is_refused() -> None:
    one = detector()
    one.model.train()
    with pytest.raises(RuntimeError, match="eval"):
        found(one)


def test_what_is_on_is_told() -> None:
    test = {name: value for option in OPTIONS.values() for name, value in option.items()}
    text = describe_testing(replace(detector(test=test, context=True), others=(detector(),)))
    for words in (
        "shorter side 64, 96",
        "ensemble of 2",
        "mirrored",
        "pyramid 48, 64, 96",
        "context",
        "1 round",
        "soft_nms",
        "voting at 0.5",
    ):
        assert words in text
    plain = describe_testing(detector())
    assert plain == "shorter side 64; nms at 0.5"


# ---------------------------------------------------------------------------- from files


def saved(one: Detector, path: Path) -> Path:
    identity = {"config": one.config.model_dump(mode="json"), "classes": list(one.classes)}
    save_checkpoint(path, {"model": one.model.state_dict(), "step": 1, **identity})
    return path


def test_members_are_brought_into_the_order_of_the_first(tmp_path: Path) -> None:
    """A network whose classes are listed in another order finds the same under the same names."""
    first, second = detector(), detector(seed=1, depth=34)
    paths = [saved(first, tmp_path / "a.pt"), saved(second, tmp_path / "b.pt")]
    shuffled = replace(second, classes=("owl", "cat", "dog"))
    other = saved(shuffled, tmp_path / "c.pt")
    joint = load_detectors([paths[0], other])
    assert joint.classes == CLASSES and len(joint.others) == 1
    # As if the second's rows had been stored in the first's order: cat is row 1 of (owl, cat, dog).
    logits = joint.others[0].model.roi_head.cls_logits.weight
    stored = second.model.roi_head.cls_logits.weight
    torch.testing.assert_close(logits, stored[[1, 2, 0, 3]])
    predictor = load([paths[0], other])
    for picture in pictures():
        expect_equal(predictor.predict([picture]), found(joint, [picture]))
    assert "ensemble of 2" in predictor.testing


def test_members_of_other_classes_are_refused(tmp_path: Path) -> None:
    one = saved(detector(), tmp_path / "a.pt")
    two = saved(detector(classes=("cat", "dog", "emu")), tmp_path / "b.pt")
    with pytest.raises(DataError) as caught:
        load_detectors([one, two])
    message = str(caught.value)
    assert "a.pt" in message and "b.pt" in message and "emu" in message and "owl" in message

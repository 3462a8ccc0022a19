"""Evaluation of a detector: class names, difficult objects, truncated images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from resdet.datasets.catalog import DataSplit
from resdet.detection.config.files import load_config
from resdet.detection.engine.distributed import Group
from resdet.detection.errors import DataError, ImageError
from resdet.detection.models import compiled
from resdet.detection.structures import Detections, Record
from resdet.detection.tasks.base import Part
from resdet.detection.tasks.checkpoints import load_members, read_checkpoint
from resdet.detection.tasks.detector import DETECTION, Detector
from resdet.detection.tasks.detector_network import build_detector
from resdet.detection.tasks.eval_split import read_eval_split
from torch import Tensor

ALONE = Group(0, 1, torch.device("cpu"))
SORTED = ("circle", "cross", "ring", "square", "star", "triangle")
SHUFFLED = ("triangle", "ring", "circle", "star", "cross", "square")


def detector(config: Path, *overrides: str, classes: tuple[str, ...] = SORTED) -> Detector:
    settings = load_config(config, overrides)
    return Detector(build_detector(settings, len(classes)).eval(), settings, classes)


def load(path: Path, *overrides: str) -> Detector:
    (one,) = load_members([read_checkpoint(path, DETECTION)], overrides=overrides)
    return one


def detect(one: Detector, split: DataSplit) -> dict[str, Detections] | None:
    return DETECTION.predict_split(DETECTION.pipeline([one]), one.config, split, ALONE)


def eval_split(one: Detector, part: Part) -> DataSplit:
    return read_eval_split(DETECTION, one, part)


def scores(found: Mapping[str, Detections], split: DataSplit, one: Detector, **options: bool):
    return DETECTION.evaluate(found, split, one.config, **options)


def names(record: Record, classes: tuple[str, ...]) -> list[str]:
    return [classes[label] for label in record.annotation.labels.tolist()]


def truth(record: Record) -> Detections:
    annotation = record.annotation
    return Detections(annotation.boxes, torch.ones(len(annotation)), annotation.labels)


# ---------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("own", [True, False])
def test_labels_are_in_the_detectors_order(tiny_config: Path, own: bool) -> None:
    """Whether the config names the classes, in another order, or leaves them to the data."""
    overrides = [] if own else ["data.classes=null"]
    ordered = eval_split(detector(tiny_config, *overrides), "val")
    shuffled = read_eval_split(
        DETECTION, detector(tiny_config, *overrides, classes=SHUFFLED), "val"
    )
    assert (ordered.classes, shuffled.classes) == (SORTED, SHUFFLED)
    assert len(ordered.records) == 6
    for one, other in zip(ordered.records, shuffled.records, strict=True):
        assert names(one, SORTED) == names(other, SHUFFLED) != []
        assert torch.equal(one.annotation.boxes, other.annotation.boxes)


def test_train_and_val_are_other_images(tiny_config: Path) -> None:
    one = detector(tiny_config)
    train, val = eval_split(one, "train"), eval_split(one, "val")
    assert (len(train.records), len(val.records)) == (12, 6)
    assert {record.image_id for record in train.records}.isdisjoint(
        record.image_id for record in val.records
    )


def test_a_class_that_the_data_lack_is_no_error(tiny_config: Path) -> None:
    more = (*SORTED, "unicorn")
    split = read_eval_split(
        DETECTION, detector(tiny_config, "data.classes=null", classes=more), "val"
    )
    assert split.classes == more


def test_unknown_classes_are_refused(tiny_config: Path) -> None:
    with pytest.raises(DataError) as caught:
        eval_split(detector(tiny_config, classes=("circle", "dog")), "val")
    message = str(caught.value)
    assert "['circle', 'dog']" in message and str(list(SORTED)) in message
    assert "too many ['dog']" in message and "\n" not in message
    fewer = detector(tiny_config, "data.classes=null", classes=SORTED[1:])
    with pytest.raises(DataError, match=r"\.xml: 'circle': 'circle' x\d+ \(first in "):
        eval_split(fewer, "val")


@pytest.mark.parametrize("policy", ["exclude", "ignore", "include"])
def test_difficult_objects_are_ignored_whatever_training_did(
    tiny_config: Path, policy: str
) -> None:
    files = sorted((tiny_config.parent / "scenes" / "Annotations").glob("train_*.xml"))
    texts = [path.read_text() for path in files]
    records = read_eval_split(
        DETECTION, detector(tiny_config, f"data.difficult={policy}"), "train"
    ).records
    ignored = [int(record.annotation.ignore.sum()) for record in records]
    assert ignored == [text.count("<difficult>1</difficult>") for text in texts]
    assert [len(record.annotation) for record in records] == [t.count("<object>") for t in texts]
    assert sum(ignored) > 0


# ---------------------------------------------------------------------------------- scores


def test_every_image_is_scored_whatever_the_batch(learned_run: Path) -> None:
    one = load(learned_run / "weights" / "best.pt")
    split = eval_split(one, "val")
    found = detect(one, split)
    assert found is not None and set(found) == {record.image_id for record in split.records}
    evaluation = scores(found, split, one)
    assert evaluation.images == 6 and evaluation.notes == ()
    assert evaluation.metrics["voc_ap50"] > 0
    threes = load(learned_run / "weights" / "best.pt", "test.batch_size=3")
    again = detect(threes, split)
    assert again is not None
    for name, detections in found.items():
        torch.testing.assert_close(again[name].scores, detections.scores, rtol=1e-3, atol=1e-4)


def test_the_truth_scores_one(tiny_config: Path) -> None:
    one = detector(tiny_config, classes=SHUFFLED)
    split = eval_split(one, "val")
    evaluation = DETECTION.evaluate(
        {r.image_id: truth(r) for r in split.records}, split, one.config
    )
    assert evaluation.metrics["voc_ap50"] == evaluation.metrics["coco_ap"] == pytest.approx(1)
    voc = DETECTION.evaluate(
        {r.image_id: truth(r) for r in split.records}, split, one.config, coco=None
    )
    assert voc.metrics["voc_ap50"] == pytest.approx(1) and "coco_ap" not in voc.metrics


def test_a_truncated_image_is_an_error_or_left_out_with_a_note(
    tiny_config: Path, copied: Path
) -> None:
    image = copied / "scenes" / "JPEGImages" / "val_00002.jpg"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    strict = detector(copied / tiny_config.name)
    split = eval_split(strict, "val")
    with pytest.raises(ImageError, match=r"val_00002\.jpg"):
        detect(strict, split)

    lenient = detector(copied / tiny_config.name, "data.on_truncated=skip")
    with pytest.warns(UserWarning, match=r"val_00002\.jpg.*left out"):
        found = detect(lenient, split)
    assert found is not None and len(found) == 5
    evaluation = scores(found, split, lenient)
    assert evaluation.images == 5
    assert any("1 of 6 images skipped" in note for note in evaluation.notes)
    # Its objects are not missed ones: the truth of the others alone is perfect.
    perfect = {r.image_id: truth(r) for r in split.records if r.image_id in found}
    assert scores(perfect, split, lenient).metrics["voc_ap50"] == pytest.approx(1)
    with pytest.raises(DataError):
        scores(found, split, strict)


# ---------------------------------------------------------------------------------- compiled


def test_compiled_it_learns_the_same(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's tracing alone: its code for a processor takes minutes to make."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")

    def step(setting: str) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
        one = detector(tiny_config, "backbone.norm=batch", f"train.compile={setting}")
        DETECTION.prepare_model(one, ALONE)
        batch = DETECTION.first_batch(one.config, eval_split(one, "train"), None)
        losses = one.model.train()(batch)
        torch.stack(list(losses.values())).sum().backward()
        return losses, {name: tensor.grad for name, tensor in one.model.named_parameters()}

    losses, gradients = step("false")
    found, other = step("true")
    from torch._dynamo.utils import counters  # late: it takes seconds

    assert counters["frames"]["ok"] >= 2  # the trunk and a block
    torch.testing.assert_close(found, losses)
    assert other.keys() == gradients.keys()
    torch.testing.assert_close(other, gradients)

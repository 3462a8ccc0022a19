"""The whole detector: losses, seeds, padding, extremes, detections, and overfitting an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.models.faster_rcnn import LOSSES, FasterRCNN
from resdet.detection.models.rpn import RpnTargets
from resdet.detection.structures import Batch, Detections, Record, Sample
from torch import Tensor

Model = Callable[..., FasterRCNN]
Image = Callable[..., Sample]
Detect = Callable[..., list[Detections]]
TWO = [(10.0, 12.0, 42.0, 44.0), (60.0, 30.0, 110.0, 80.0)]


@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
@pytest.mark.parametrize("boxes", [TWO, []])
def test_losses_and_gradients_are_finite(
    norm: str, boxes: list[tuple[float, ...]], tiny: Model, squares: Image
) -> None:
    model = tiny(backbone={"norm": norm}).train()
    losses = model(Batch.collate([squares(boxes), squares(boxes, seed=1)]))
    assert tuple(losses) == LOSSES
    total = torch.stack(list(losses.values())).sum()
    assert total.isfinite()
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    if not boxes:
        assert losses["loss_rpn_box"].item() == losses["loss_box"].item() == 0


def test_an_image_without_samples_has_zero_losses(tiny: Model, squares: Image) -> None:
    """No anchor fits inside, all proposals are ignored: every count is zero."""
    model = tiny(
        rpn={"anchor_sizes": (256.0,), "border_anchors": "drop", "normalizer": "sampled"},
        roi={"negative_iou_low": 0.1},
    )
    losses = model.train()(Batch.collate([squares([])]))
    torch.stack(list(losses.values())).sum().backward()
    assert [loss.item() for loss in losses.values()] == [0.0] * 4


def test_losses_are_the_same_in_both_modes(tiny: Model, squares: Image) -> None:
    model, batch = tiny(), Batch.collate([squares(TWO)])
    with torch.no_grad():
        training, evaluation = model.train()(batch), model.eval()(batch)
    assert training == evaluation


def test_sampling_depends_on_the_seed_of_an_image_and_not_on_its_batch(
    tiny: Model, squares: Image
) -> None:
    model = tiny().eval()
    images = [squares(TWO, seed=seed) for seed in (3, 4)]

    def sampled(samples: list[Sample]) -> list[list[Tensor]]:
        seen = []
        original = model.criterion

        def recorded(*args: object, **settings: object) -> RpnTargets:
            seen.append(original.rpn_targets(*args, **settings))
            return seen[-1]

        model.criterion = replace(original, rpn_targets=recorded)
        try:
            with torch.no_grad():
                model(Batch.collate(samples))
        finally:
            model.criterion = original
        return [[target.positives, target.negatives] for target in seen]

    together, swapped = sampled(images), sampled(images[::-1])
    alone = sampled(images[:1]) + sampled(images[1:])
    for first, second, third in zip(together, swapped[::-1], alone, strict=True):
        for a, b, c in zip(first, second, third, strict=True):
            assert torch.equal(a, b)
            assert torch.equal(a, c)
    assert not torch.equal(together[0][1], together[1][1])
    # The loss of two images is the mean of theirs.
    with torch.no_grad():
        parts = [model(Batch.collate([image])) for image in images]
        both = model(Batch.collate(images))
    for name in ("loss_rpn_cls", "loss_rpn_box"):
        mean = (parts[0][name] + parts[1][name]) / 2
        torch.testing.assert_close(both[name], mean, rtol=1e-4, atol=1e-6)


def test_proposals_do_not_depend_on_the_other_images(tiny: Model, squares: Image) -> None:
    model = tiny().eval()
    images = [squares(TWO, seed=3), squares([TWO[1]], seed=4), squares([], seed=5)]

    def propose(samples: list[Sample]) -> list[Tensor]:
        batch = Batch.collate(samples)
        with torch.no_grad():
            return model.propose(model.extract(batch.images, batch.sizes), batch.sizes)

    for alone, together in zip(images, propose(images), strict=True):
        torch.testing.assert_close(propose([alone])[0], together, atol=1e-3, rtol=1e-4)


def test_padding_keeps_everything_inside_and_leaves_far_features_alone(
    tiny: Model, squares: Image, detect: Detect
) -> None:
    """Near its right and bottom border a padded image sees what earlier layers made of the padding
    where alone it sees zeros, so only cells far from the border can be equal."""
    model = tiny(backbone={"norm": "frozen"}).eval()
    small, large = squares(TWO, seed=3), squares([], size=(320, 512), seed=4)
    with torch.no_grad():
        batch = Batch.collate([small, large])
        padded = model.extract(batch.images, batch.sizes)
        alone = model.extract(small.image.permute(2, 0, 1)[None], [(96, 128)])
        proposals = model.propose(padded, batch.sizes)[0]
    detections = detect(model, [small, large])
    torch.testing.assert_close(padded[0, :, :1, :1], alone[0, :, :1, :1], atol=1e-3, rtol=1e-2)
    for boxes in (proposals, detections[0].boxes):
        assert len(boxes)
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([128.0, 96.0, 128.0, 96.0])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_detections_are_limited_and_sorted_for_every_image(
    tiny: Model, squares: Image, detect: Detect
) -> None:
    found = detect(tiny().eval(), [squares(TWO), squares([])], limit=7)
    assert [len(detections) for detections in found] == [7, 7]
    for detections in found:
        assert (detections.scores[:-1] >= detections.scores[1:]).all()
        assert not detections.boxes.requires_grad


def test_nothing_above_the_threshold_or_proposed(
    tiny: Model, squares: Image, detect: Detect
) -> None:
    samples = [squares(TWO), squares([])]
    assert [len(found) for found in detect(tiny().eval(), samples, threshold=1.0)] == [0, 0]
    model = tiny(rpn={"min_size": 5000.0}).eval()
    assert [len(found) for found in detect(model, samples)] == [0, 0]
    with torch.no_grad():
        losses = model.train()(
            Batch.collate(samples)
        )  # ground truth alone is left to the region head
    assert all(loss.isfinite() for loss in losses.values())
    assert float(losses["loss_cls"]) > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", ["frozen", "batch", "group"])
def test_losses_and_boxes_are_float32_under_autocast(
    norm: str, dtype: torch.dtype, tiny: Model, squares: Image, detect: Detect
) -> None:
    model = tiny(backbone={"norm": norm}).train()
    batch = Batch.collate([squares(TWO)])
    with torch.no_grad():
        exact = model(batch)
    with torch.autocast("cpu", dtype=dtype):
        losses = model(batch)
        (found,) = detect(model.eval(), [squares(TWO)])
    torch.stack(list(losses.values())).sum().backward()
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert (found.boxes.dtype, found.scores.dtype) == (torch.float32, torch.float32)
    for name in ("loss_rpn_cls", "loss_rpn_box"):
        torch.testing.assert_close(losses[name], exact[name], rtol=0.05, atol=0.01)


def test_anchors_and_random_weights_come_from_the_config(tiny: Model) -> None:
    first, second = tiny(train={"seed": 1}), tiny(train={"seed": 1})
    other = tiny(train={"seed": 2})
    state = second.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in first.state_dict().items())
    assert not torch.equal(first.rpn_head.conv.weight, other.rpn_head.conv.weight)
    assert not any("cells" in name for name in state)


@pytest.mark.parametrize(("norm", "context"), [("batch", False), ("group", False), ("group", True)])
def test_it_overfits_one_image(
    norm: str, context: bool, tiny: Model, squares: Image, detect: Detect
) -> None:
    model = tiny(backbone={"norm": norm}, roi={"context": context}, train={"seed": 3})
    sample = squares(TWO)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [120])
    for step in range(160):
        losses = model.train()(Batch.collate([replace(sample, seed=step)]))
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        schedule.step()
    (found,) = detect(model.eval(), [sample])
    record = Record(sample.image_id, Path("image.png"), (96, 128), sample.annotation)
    scores = evaluate({record.image_id: found}, [record], ("red", "blue"))
    assert scores.metrics["voc_ap50"] == 1.0
    assert scores.metrics["coco_ap"] > 0.5

"""How views, stages, networks and classifiers are put together into one box for each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from resdet.datasets.loading.crops import CentreCrop, FullImage
from resdet.detection.inference.classify import ClassifierMember, ScorePipeline
from resdet.detection.inference.localize import (
    Chooser,
    ImageLocator,
    Judge,
    LocationPipeline,
    Proposer,
)
from resdet.detection.ops.anchors import AnchorGrid
from resdet.detection.ops.boxes import iou
from resdet.detection.structures import Batch, Geometry
from torch import Tensor, nn

#: An image of 60 x 80 with one bright block.
OBJECT = torch.tensor([[20.0, 15.0, 50.0, 40.0]])


def make_image() -> np.ndarray:
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[15:40, 20:50] = 255
    return pixels


class SeesBright(nn.Module):
    """Stage one that is right: the bounds of what is bright, for every class.

    Beside it come boxes ``wrong``, all with their scores; ``seen`` collects the views.
    """

    def __init__(
        self, score: float = 0.9, wrong: Sequence[tuple[float, tuple[float, ...]]] = ()
    ) -> None:
        super().__init__()
        self.anchors = AnchorGrid(torch.zeros(1, 4), 16)
        self.confidence, self.wrong = score, wrong
        self.seen: list[tuple[int, ...]] = []

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.seen.append(tuple(images.shape))
        y, x = torch.nonzero(images[0, 0] > 127, as_tuple=True)
        own = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]).float()
        boxes = torch.stack([own, *(torch.tensor(box) for _, box in self.wrong)])
        scores = torch.tensor([self.confidence, *(score for score, _ in self.wrong)])
        return scores.expand(len(labels), -1), boxes.expand(len(labels), -1, -1)


class JudgesBright(nn.Module):
    """Stage two: the share of the region that is bright, and the bounds of what is."""

    def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        inner = images[:, 0, 8:-8, 8:-8] > 127
        boxes = []
        for image in images[:, 0] > 127:
            y, x = torch.nonzero(image, as_tuple=True)
            bounds = (x.min(), y.min(), x.max() + 1, y.max() + 1) if len(x) else (0, 0, 1, 1)
            boxes.append(torch.tensor([float(side) for side in bounds]))
        return inner.float().mean(dim=(1, 2)), torch.stack(boxes)


class Knows(nn.Module):
    """A classifier whose answer does not depend on the image."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.answer = torch.tensor(probabilities).log()

    def logits(self, images: Tensor) -> Tensor:
        return self.answer.expand(len(images), -1)


def chooser(*probabilities: float, order: Sequence[int]) -> Chooser:
    views = ClassifierMember(Knows(*probabilities), (CentreCrop(32, 24),))  # type: ignore[arg-type]
    return Chooser(ScorePipeline([views]), torch.tensor(order))


DENSE = (FullImage(30), FullImage(60), FullImage(90))


@pytest.mark.parametrize(
    "crops", [(FullImage(60),), DENSE, (FullImage(60, flipped=True),), (CentreCrop(60, 60),)]
)
def test_what_is_seen_in_a_view_lies_where_it_is_in_the_image(
    crops: tuple[FullImage, ...],
) -> None:
    found = LocationPipeline([Proposer(SeesBright(), crops)]).locate(make_image(), 3)
    assert found.true_class.labels.tolist() == [3] and len(found.predicted) == 0
    assert iou(found.true_class.boxes, OBJECT).item() > 0.95


def test_the_best_of_all_views_and_networks_is_taken() -> None:
    far = (0.99, (0.0, 0.0, 10.0, 10.0))
    sure, unsure = SeesBright(0.7, [far]), SeesBright(0.5)
    alone = LocationPipeline([Proposer(unsure, DENSE)]).locate(make_image(), 0)
    assert iou(alone.true_class.boxes, OBJECT).item() > 0.95
    both = LocationPipeline([Proposer(unsure, DENSE), Proposer(sure, DENSE)]).locate(
        make_image(), 0
    )
    assert both.true_class.scores.item() == pytest.approx(0.99)
    assert iou(both.true_class.boxes, OBJECT).item() == 0
    assert [shape[2] for shape in sure.seen] == [30, 60, 90]


def test_neighbours_vote_on_the_best_box() -> None:
    """Two boxes, of 0.75 and 0.25: the mean of their right sides is 50 - 0.25 x 4."""
    network = SeesBright(0.75, [(0.25, (20.0, 15.0, 46.0, 40.0)), (0.7, (0.0, 0.0, 9.0, 9.0))])
    pipeline = LocationPipeline([Proposer(network, (FullImage(60),))], vote_iou=0.5)
    found = pipeline.locate(make_image(), 0).true_class
    assert found.boxes.tolist() == [[20.0, 15.0, pytest.approx(49.0), 40.0]]
    assert found.scores.tolist() == [0.75]


def test_one_network_twice_is_itself() -> None:
    one = Proposer(SeesBright(), DENSE)
    for judges in ([], [Judge(JudgesBright(), 48, 8)]):
        alone = LocationPipeline([one], judges).locate(make_image(), 1)
        twice = LocationPipeline([one, one], judges * 2).locate(make_image(), 1)
        torch.testing.assert_close(alone.true_class.boxes, twice.true_class.boxes)
        torch.testing.assert_close(alone.true_class.scores, twice.true_class.scores)


def test_stage_two_mends_what_stage_one_likes_better() -> None:
    """Stage one is surer of a loose box and of a corner; stage two of what is all bright, and finds
    the object's bounds in it."""
    wrong = [(0.95, (10.0, 10.0, 60.0, 50.0)), (0.97, (60.0, 0.0, 80.0, 10.0))]
    first = Proposer(SeesBright(0.5, wrong), (FullImage(60),))
    before = LocationPipeline([first]).locate(make_image(), 0).true_class
    assert iou(before.boxes, OBJECT).item() == 0
    for at_once in (1, 64):
        pipeline = LocationPipeline(
            [first], [Judge(JudgesBright(), 48, 8)], regions_at_once=at_once
        )
        after = pipeline.locate(make_image(), 0).true_class
        assert iou(after.boxes, OBJECT).item() > 0.9 and after.scores.item() > 0.95


def test_proposals_are_the_best_that_do_not_overlap() -> None:
    near = (0.8, (21.0, 15.0, 50.0, 40.0))
    others = [(0.1 * place, (5.0 * place, 0.0, 5.0 * place + 5, 5.0)) for place in range(1, 7)]
    first = Proposer(SeesBright(0.9, [near, *others]), (FullImage(60),))
    found = LocationPipeline([first], count=3).propose(make_image(), 0)
    assert found.tolist() == [OBJECT[0].tolist(), [30.0, 0.0, 35.0, 5.0], [25.0, 0.0, 30.0, 5.0]]


# ------------------------------------------------------------------------------------- classes


def test_the_most_likely_classes_are_located_in_their_order() -> None:
    """Classifier's classes a, b, c; the localizer calls them b, c, a."""
    names = chooser(0.2, 0.5, 0.3, order=[1, 2, 0])
    pipeline = LocationPipeline([Proposer(SeesBright(), DENSE)], chooser=names, top=2)
    found = pipeline.locate(make_image(), 2)
    assert found.predicted.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.predicted.scores, torch.tensor([0.5, 0.3]))
    assert found.true_class.labels.tolist() == [2]
    assert found.true_class.scores.item() == pytest.approx(0.9)
    assert iou(found.predicted.boxes, OBJECT).min() > 0.95
    unknown = pipeline.locate(make_image())
    assert len(unknown.true_class) == 0 and unknown.predicted.labels.tolist() == [0, 1]


def test_fewer_classes_than_asked_for() -> None:
    names = chooser(0.6, 0.4, order=[0, 1])
    pipeline = LocationPipeline([Proposer(SeesBright(), DENSE)], chooser=names, top=5)
    assert pipeline.locate(make_image()).predicted.labels.tolist() == [0, 1]


def test_nothing_usable_gives_no_box() -> None:
    class Nowhere(SeesBright):
        def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones(len(labels), 2), torch.zeros(len(labels), 2, 4)

    names = chooser(0.6, 0.4, order=[0, 1])
    for judges in ([], [Judge(JudgesBright(), 48, 8)]):
        found = LocationPipeline([Proposer(Nowhere(), DENSE)], judges, names).locate(
            make_image(), 1
        )
        assert len(found.predicted) == 0 and len(found.true_class) == 0


def test_a_predictor_gets_the_images_of_a_padded_batch() -> None:
    names = chooser(0.6, 0.4, order=[0, 1])
    locator = ImageLocator(LocationPipeline([Proposer(SeesBright(), DENSE)], chooser=names))
    images = torch.zeros(2, 3, 60, 100, dtype=torch.uint8)
    images[0, :, :, :80] = torch.from_numpy(make_image()).permute(2, 0, 1)
    images[1, :, 5:10, 90:100] = 255
    sizes = [(60, 80), (60, 100)]
    batch = Batch(images, sizes, [], [Geometry(size) for size in sizes], ["a", "b"], [0, 0])
    first, second = locator.to(torch.device("cpu")).eval().predict(batch)
    assert iou(first.boxes[:1], OBJECT).item() > 0.95
    assert iou(second.boxes[:1], torch.tensor([[90.0, 5.0, 100.0, 10.0]])).item() > 0.8

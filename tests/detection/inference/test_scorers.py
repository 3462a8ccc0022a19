"""Pyramid, maxout and ensembles, on scorers whose answers are known."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.detection.inference.scorers import (
    EnsembleScorer,
    FeatureMap,
    NetworkScorer,
    Scored,
    adjacent_scales,
    reframe,
    regressed,
    score_refined,
)
from resdet.detection.structures import Geometry
from torch import Tensor, nn

BASE = Geometry((300, 400), (2.0, 2.0))
#: 200, 400, 600, 800, 1000 on the shorter side of 300.
LEVELS = [Geometry((300, 400), (k * 2 / 3, k * 2 / 3)) for k in (1, 2, 3, 4, 5)]


def square(side: float) -> list[float]:
    return [10.0, 20.0, 10.0 + side, 20.0 + side]


@pytest.mark.parametrize(
    ("side", "lower"),
    [
        # At 200 .. 1000 a base side of 600 becomes 200, 400, 600, 800, 1000: 224 lies in between
        # the first two. One of 60 becomes 20 .. 100, nearest are the last two.
        (600, 0),
        (60, 3),
        (1e4, 0),
        (0.1, 3),
        # 336 becomes 112, 224, 336, 448, 560. By ratio 336 is nearer to 224 than 112 is.
        (336, 1),
        # 168 becomes 56, 112, 168, 224, 280: 280 is nearer to 224 than 168 is.
        (168, 3),
    ],
)
def test_adjacent_scales_by_hand(side: float, lower: int) -> None:
    found = adjacent_scales(torch.tensor([square(side)]), LEVELS, BASE, 224.0)
    assert found.tolist() == [lower]


def test_adjacent_scales_use_the_area_and_accept_one_level() -> None:
    long = torch.tensor([[0.0, 0.0, 1200.0, 300.0]])  # sqrt(1200 x 300) = 600
    assert adjacent_scales(long, LEVELS, BASE, 224.0).tolist() == [0]
    assert adjacent_scales(long, LEVELS[:1], BASE, 224.0).tolist() == [0]
    assert adjacent_scales(torch.zeros(0, 4), LEVELS, BASE, 224.0).tolist() == []


@given(st.floats(1, 1000), st.integers(2, 5))
def test_larger_regions_never_go_to_larger_scales(side: float, count: int) -> None:
    boxes = torch.tensor([square(side), square(side * 1.5)])
    small, large = adjacent_scales(boxes, LEVELS[:count], BASE, 224.0).tolist()
    assert 0 <= large <= small <= count - 2


def test_reframe_scales_and_flips() -> None:
    flipped = Geometry((300, 400), (0.5, 0.5), flipped=True)
    box = torch.tensor([[20.0, 40.0, 60.0, 80.0]])  # 10, 20, 30, 40 in the image
    assert reframe(box, BASE, BASE) is box
    assert reframe(box, BASE, flipped).tolist() == [[185.0, 10.0, 195.0, 20.0]]
    torch.testing.assert_close(reframe(reframe(box, BASE, flipped), flipped, BASE), box)


# ---------------------------------------------------------------------------------- pyramid


class LevelHead(nn.Module):
    """Describes a region by its level and by its own corner there: (level, -level, x1)."""

    def roi_features(
        self, features: Tensor, boxes: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Tensor:
        joined = torch.cat(list(boxes))
        level = features.flatten()[0].expand(len(joined))
        return torch.stack([level, -level, joined[:, 0]], dim=1)


class LevelModel(nn.Module):
    """``score_features`` hands the vectors through, so that a test sees them."""

    def __init__(self) -> None:
        super().__init__()
        self.roi_head = LevelHead()

    def score_features(
        self, vectors: Tensor, regions: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> Scored:
        counts = [len(boxes) for boxes in regions]
        return list(vectors.split(counts)), [boxes[:, None] for boxes in regions]


def level_map(number: int, geometries: Sequence[Geometry]) -> FeatureMap:
    sizes = [(int(300 * g.scale[0]), int(400 * g.scale[1])) for g in geometries]
    return FeatureMap(torch.full((len(geometries), 1, 1, 1), float(number)), sizes, geometries)


def test_each_region_gets_the_maximum_of_its_two_scales() -> None:
    pyramid = [level_map(k, [level, level]) for k, level in enumerate(LEVELS)]
    scorer = NetworkScorer(LevelModel(), level_map(9, [BASE, BASE]), pyramid, region_side=224.0)
    regions = [torch.tensor([square(600), square(60)]), torch.tensor([square(336)])]
    vectors, _ = scorer.score(regions)
    # The corner at x = 10 of the base view, 5 in the image, is larger on the larger scale.
    corner = [5.0 * k * 2 / 3 for k in (1, 2, 3, 4, 5)]
    torch.testing.assert_close(
        vectors[0], torch.tensor([[1.0, 0.0, corner[1]], [4.0, -3.0, corner[4]]])
    )
    torch.testing.assert_close(vectors[1], torch.tensor([[2.0, -1.0, corner[2]]]))


def test_a_pyramid_without_regions() -> None:
    scorer = NetworkScorer(
        LevelModel(), level_map(9, [BASE]), [level_map(k, [g]) for k, g in enumerate(LEVELS)]
    )
    probs, boxes = scorer.score([torch.zeros(0, 4)])
    assert (len(probs[0]), len(boxes[0])) == (0, 0)


# --------------------------------------------------------------------- ensembles, refinement


class Fixed:
    """Proposes ``boxes``; every region moves by ``step`` and gets the probabilities ``probs``."""

    def __init__(
        self, boxes: Tensor, probs: list[float], step: float, geometry: Geometry = BASE
    ) -> None:
        self.boxes, self.probs, self.step = boxes, torch.tensor(probs), step
        self.geometries = [geometry]
        self.seen: list[Tensor] = []

    def propose(self) -> list[Tensor]:
        return [self.boxes]

    def score(self, regions: Sequence[Tensor]) -> Scored:
        self.seen.append(regions[0])
        moved = torch.stack([regions[0], regions[0] + self.step], dim=1)
        return [self.probs.expand(len(regions[0]), -1)], [moved]


ONE = torch.tensor([square(10)])
TWO = torch.tensor([square(20), square(30)])


def test_an_ensemble_joins_proposals_and_averages_scores_and_boxes() -> None:
    half = Geometry((300, 400), (1.0, 1.0))
    first, second = Fixed(ONE, [0.2, 0.4, 0.4], 4.0), Fixed(TWO / 2, [0.6, 0.0, 0.4], 8.0, half)
    ensemble = EnsembleScorer([first, second])
    (proposals,) = ensemble.propose()
    torch.testing.assert_close(proposals, torch.cat([ONE, TWO]))
    (probs,), (boxes,) = ensemble.score([proposals])
    torch.testing.assert_close(probs, torch.tensor([0.4, 0.2, 0.4]).expand(3, -1))
    # The second network moves by 8 of its own pixels, which are 16 at the first one's base view.
    torch.testing.assert_close(boxes[:, 1], proposals + (4 + 16) / 2)
    torch.testing.assert_close(second.seen[0], proposals / 2)


def test_an_ensemble_without_proposals() -> None:
    none = torch.zeros(0, 4)
    ensemble = EnsembleScorer(
        [Fixed(none, [0.5, 0.5, 0.0], 1.0), Fixed(none, [0.5, 0.5, 0.0], 1.0)]
    )
    (probs,), (boxes,) = ensemble.score(ensemble.propose())
    assert (probs.shape, boxes.shape) == ((0, 3), (0, 2, 4))


def test_regressed_takes_the_box_of_the_likeliest_class_but_never_the_background() -> None:
    probs = torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.1, 0.6]])
    boxes = torch.arange(16.0).reshape(2, 2, 4)
    assert regressed(probs, boxes).tolist() == [[4.0, 5.0, 6.0, 7.0], [8.0, 9.0, 10.0, 11.0]]


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_each_round_pools_from_the_last_boxes_and_keeps_the_old(rounds: int) -> None:
    scorer = Fixed(TWO, [0.1, 0.6, 0.3], 5.0)
    (probs,), (boxes,) = score_refined(scorer, scorer.propose(), rounds=rounds)
    assert len(probs) == len(boxes) == 2 * (rounds + 1)
    for k, pooled in enumerate(scorer.seen):
        torch.testing.assert_close(pooled, TWO + 5.0 * k)
        torch.testing.assert_close(boxes[2 * k : 2 * k + 2, 1], TWO + 5.0 * (k + 1))


def test_refinement_without_regions() -> None:
    none = torch.zeros(0, 4)
    (probs,), (boxes,) = score_refined(Fixed(none, [0.5, 0.5, 0.0], 1.0), [none], rounds=2)
    assert (probs.shape, boxes.shape) == ((0, 3), (0, 2, 4))

"""Best anchors against an exhaustive search, suggested sizes, counts and histograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.catalog import assemble
from resdet.datasets.checks.statistics import (
    DEFAULT_ANCHORS,
    AnchorFit,
    Anchors,
    anchor_ious,
    anchor_shapes,
    count_classes,
    count_splits,
    fit_anchors,
    size_histograms,
)
from resdet.datasets.image import CROP_RULES, DEFAULT_RULES
from resdet.datasets.record_columns import Records
from resdet.datasets.records import RawBox, RawImage, RawObject
from resdet.detection.config.classifier import ClassifierConfig
from resdet.detection.config.data_rules import anchors_in_training, image_rules
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import read_config
from resdet.detection.ops.anchors import cell_anchors, grid_anchors
from resdet.detection.structures import Annotation, Record
from torchvision.ops import box_iou

SIZES, RATIOS = (32.0, 128.0), (0.5, 1.0, 2.0)


def _image(*boxes: RawBox, size: tuple[int, int] = (240, 320), ignore: bool = False) -> RawImage:
    objects = tuple(RawObject("dog", box, ignore) for box in boxes)
    return RawImage(f"{boxes}{size}{ignore}", Path("a.jpg"), size, objects, Path("a.xml"))


_corner = st.floats(0, 300)
_side = st.floats(2, 250)


@given(st.lists(st.tuples(_corner, _corner, _side, _side), min_size=1, max_size=5))
def test_the_nearest_anchor_is_the_best_of_the_whole_grid(corners: list[RawBox]) -> None:
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in corners])
    cells = cell_anchors(SIZES, RATIOS)
    grid = grid_anchors(cells, (15, 20), 16)
    expected = box_iou(torch.from_numpy(boxes), grid.double()).max(dim=1).values
    shapes = anchor_shapes(SIZES, RATIOS)
    assert shapes == pytest.approx((cells[:, 2:] - cells[:, :2]).numpy())
    grid = np.tile((20.0, 15.0), (len(boxes), 1))
    found = anchor_ious(boxes, shapes, grid, 16).max(axis=0)
    assert found == pytest.approx(expected.numpy(), abs=1e-6)


def test_a_folder_is_checked_as_the_default_config_reads_it() -> None:
    assert anchors_in_training(DetectorConfig()) == DEFAULT_ANCHORS
    assert image_rules(DetectorConfig()) == DEFAULT_RULES
    assert image_rules(ClassifierConfig()) == CROP_RULES


def test_objects_without_a_good_anchor_and_sizes_for_them() -> None:
    small = [(x, x, x + 8.0, x + 8.0) for x in range(4, 84, 8)]
    big = [(44.0, 44.0, 108.0, 108.0)]  # as 128 px at scale 2, centred at 152: 8 px off the grid
    records = assemble([_image(*small, *big)], classes=["dog"]).records
    anchors = Anchors((128.0,), (1.0,), short_side=480, long_side_max=1000, stride=16)
    fit = fit_anchors(records, anchors)
    assert (fit.objects, fit.poor) == (11, 10)
    assert fit.suggested_sizes == (16.0,)  # at the training scale
    two = fit_anchors(records, Anchors((128.0, 256.0), (1.0,), 480, 1000, 16))
    assert (two.poor, two.suggested_sizes, two.suggested_poor) == (10, (16.0, 128.0), 0)


def test_no_sizes_are_suggested_for_anchors_that_fit() -> None:
    records = assemble([_image((48, 48, 80, 80))], classes=["dog"]).records
    fit = fit_anchors(records, Anchors((32.0, 64.0), (1.0,), 240, 1000, 16))
    assert (fit.poor, fit.suggested_sizes, fit.suggested_poor) == (0, (32.0, 64.0), 0)


def _like_coco() -> list[Record]:
    """Images of COCO's sizes with its 7.3 objects each: 41 % small (< 32 x 32 px), 34 % medium,
    24 % large, of shapes around 1:1."""
    random, records = np.random.default_rng(0), []
    for number in range(400):
        height, width = ((480, 640), (640, 480), (427, 640), (375, 500))[random.integers(4)]
        count = random.poisson(7.3)
        ends = np.array([(6.0, 32.0), (32.0, 96.0), (96.0, float(min(height, width)))])
        low, high = ends[random.choice(3, count, p=(0.41, 0.35, 0.24))].reshape(-1, 2).T
        root = np.exp(random.uniform(np.log(low), np.log(high)))
        shape = random.lognormal(0, 0.5, count)
        sides = np.minimum(np.stack((root * shape**0.5, root / shape**0.5), 1), (width, height))
        start = random.uniform(0, 1, (count, 2)) * ((width, height) - sides)
        boxes = torch.tensor(np.concatenate((start, start + sides), 1), dtype=torch.float32)
        zeros = torch.zeros(count, dtype=torch.int64)
        annotation = Annotation(boxes, zeros, zeros.bool())
        records.append(Record(str(number), Path("a.jpg"), (height, width), annotation))
    return records


def test_the_warning_on_boxes_like_those_of_coco() -> None:
    """Quiet with the anchors of the configs for COCO; with those of VOC it proposes to cover
    smaller objects, as the ResNet paper does; where sizes do not help it names larger images."""
    records = Records.of(_like_coco())

    def fit(sizes: tuple[float, ...], short: int, long: int) -> AnchorFit:
        return fit_anchors(records, Anchors(sizes, (0.5, 1.0, 2.0), short, long, 16))

    for name in ("coco_r101.yaml", "coco_r101_paper.yaml"):
        anchors = anchors_in_training(read_config(DetectorConfig, name, []))
        found = fit(anchors.sizes, anchors.short_side, anchors.long_side_max)
        assert found.poor > 0.2 * found.objects and found.misfit == ""
    voc = fit((128.0, 256.0, 512.0), 600, 1000)
    assert voc.suggested_sizes[0] < 128
    assert f"rpn.anchor_sizes=[{voc.suggested_sizes[0]:g}, " in voc.misfit
    tiny = fit((16.0, 32.0, 64.0), 60, 100)
    assert "larger images" in tiny.misfit and "anchor_sizes" not in tiny.misfit


def test_the_long_side_limits_the_scale() -> None:
    records = assemble([_image((0, 0, 64, 64), size=(100, 1000))], classes=["dog"]).records
    _, scaled, _ = size_histograms(records, Anchors(SIZES, RATIOS, 600, 500, 16))
    assert scaled.counts[scaled.edges.index(32.0)] == 1  # 64 px, halved


def test_histograms_by_hand() -> None:
    image = _image((0, 0, 2, 2), (0, 0, 9, 9), (0, 0, 10, 10), (0, 0, 8, 32))
    hidden = _image((0, 0, 50, 50), ignore=True)
    records = assemble([image, hidden], classes=["dog"]).records
    sizes, shapes = size_histograms(records, None)
    assert dict(zip(sizes.edges, sizes.counts, strict=False)) == {
        **dict.fromkeys(sizes.edges[:-1], 0),
        0.0: 1,
        8.0: 2,
        16.0: 1,
    }
    assert sum(shapes.counts) == 4
    assert shapes.counts[shapes.edges.index(4.0)] == 1


def test_counts_of_splits_and_classes() -> None:
    train = assemble([_image((0, 0, 9, 9)), _image()], classes=["cat", "dog"])
    val = assemble([_image((0, 0, 9, 9), ignore=True)], classes=["cat", "dog"])
    first, second = count_splits({"train": train, "val": val})
    assert (first.images, first.empty, first.objects, first.ignored) == (2, 1, 1, 0)
    assert (second.images, second.empty, second.objects, second.ignored) == (1, 0, 1, 1)
    classes = count_classes({"train": train, "val": val})
    assert [(each.name, each.objects) for each in classes] == [("cat", (0, 0)), ("dog", (1, 1))]


def test_statistics_of_an_empty_split() -> None:
    split = assemble([], classes=["dog"])
    assert count_splits({}) == count_classes({}) == ()
    assert all(sum(each.counts) == 0 for each in size_histograms(split.records, None))
    fit = fit_anchors(split.records, Anchors(SIZES, RATIOS, 600, 1000, 16))
    assert (fit.objects, fit.poor, fit.suggested_sizes) == (0, 0, SIZES)

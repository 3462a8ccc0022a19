"""Tiles of large images: windows, cut boxes, drawn scenes with known truth, mosaics of photos."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from functools import partial
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from resdet.datasets.loading.transforms import EvalTransform
from resdet.detection.errors import ConfigError
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.inference.pipeline import Pipeline
from resdet.detection.inference.predictor import Predictor
from resdet.detection.inference.tiles import (
    Tiling,
    at_inner_edge,
    is_covered,
    is_filled,
    is_within,
    largest_parts,
)
from resdet.detection.ops.boxes import iou
from resdet.detection.ops.nms import suppress
from resdet.detection.structures import Annotation, Batch, Detections, Record


class Blobs(Pipeline):
    """Finds connected pixels of one colour in what a network would see, ``transform``'s output.

    ``hue`` are the least and largest hue of OpenCV; blobs closer than ``gap`` pixels are one, those
    below ``least`` or above ``most`` px² are none; boxes grow by ``margin`` of their sides. The
    score rises with the area, as that of a network does with the visible part of an object.
    """

    device = torch.device("cpu")

    def __init__(self, transform, hue, *, gap=1, least=6, most=math.inf, margin=0.0) -> None:
        super().__init__([], suppress=partial(suppress, nms_iou=0.5, max_detections=300))
        self.transforms = (transform,)
        self.hue, self.gap, self.margin = hue, gap, margin
        self.least, self.most = least, most
        self.views: list[tuple[int, ...]] = []

    def candidates(self, batch: Batch) -> list[Detections]:
        self.views.append(tuple(batch.images.shape))
        return [
            self._find(image.permute(1, 2, 0).numpy(), geometry)
            for image, geometry in zip(batch.images, batch.geometries, strict=True)
        ]

    def _find(self, pixels, geometry) -> Detections:
        hsv = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2HSV)
        mask = cv2.inRange(hsv, (self.hue[0], 90, 60), (self.hue[1], 255, 255))
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((self.gap, self.gap), np.uint8))
        _, _, rows, _ = cv2.connectedComponentsWithStats(mask)
        rows = torch.from_numpy(rows[1:]).float()
        rows = rows[(rows[:, 4] >= self.least) & (rows[:, 4] <= self.most)]
        grow = rows[:, 2:4] * self.margin
        boxes = torch.cat([rows[:, :2] - grow, rows[:, :2] + rows[:, 2:4] + grow], dim=1)
        height, width = pixels.shape[:2]
        boxes = boxes.clamp(min=0).minimum(torch.tensor([width, height, width, height]))
        scores = 1 - 1 / (2 + rows[:, 4] / 400)
        return Detections(geometry.invert(boxes), scores, torch.zeros(len(rows)).long())


# ------------------------------------------------------------------------------------- windows


def test_windows_by_hand():
    tiling = Tiling(100, 0.2)
    assert tiling.windows((100, 100)) == []
    assert tiling.windows((90, 180)) == [(0, 0, 100, 90), (80, 0, 180, 90)]
    # 181 needs a third one; all three are spread evenly.
    assert [window[0] for window in tiling.windows((90, 181))] == [0, 40, 81]
    assert tiling.windows((180, 101))[:3] == [(0, 0, 100, 100), (1, 0, 101, 100), (0, 80, 100, 180)]


@given(
    size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    side=st.integers(32, 900),
    overlap=st.floats(0, 0.9),
)
def test_windows_cover_the_image_with_the_overlap(size, side, overlap):
    windows = Tiling(side, overlap).windows(size)
    if max(size) <= side:
        assert windows == []
        return
    for axis, length in ((0, size[1]), (1, size[0])):
        spans = sorted({(window[axis], window[axis + 2]) for window in windows})
        assert spans[0][0] == 0 and spans[-1][1] == length
        assert all(end - start == min(side, length) for start, end in spans)
        shared = [a[1] - b[0] for a, b in pairwise(spans)]
        assert all(one >= min(overlap * side, side - 1) for one in shared)
        # One tile less would not cover it.
        fewer = len(spans) - 1
        assert fewer == 0 or side + (fewer - 1) * max(1, side - np.ceil(side * overlap)) < length
    assert len(windows) == len(set(windows))


@pytest.mark.parametrize("side, overlap", [(31, 0.2), (800, 1.0), (800, -0.1), (800, float("nan"))])
def test_tiles_out_of_range(side, overlap):
    with pytest.raises(ConfigError, match=str(side) if side < 32 else "a share from 0 to 0.9"):
        Tiling(side, overlap)


# ------------------------------------------------------------------------------------ cut boxes


def test_boxes_at_an_inner_edge():
    boxes = torch.tensor([[0.0, 10, 50, 50], [20, 10, 99, 50], [20, 99, 50, 180], [20, 10, 50, 97]])
    ends = at_inner_edge(boxes, (0, 0, 100, 100), (100, 180), 100)
    assert ends.tolist() == [False, True, False, False]  # only its right edge is inside the image
    ends = at_inner_edge(boxes + 80, (80, 80, 180, 180), (300, 180), 100)
    assert ends.tolist() == [True, False, True, False]


def one(box, score, label=0) -> Detections:
    return Detections(torch.tensor([box]).float(), torch.tensor([score]), torch.tensor([label]))


def test_boxes_that_a_tile_shows_whole():
    left, right = Tiling(100, 0.2).windows((100, 180))  # from 0 to 100 and from 80 to 180
    boxes = torch.tensor([[0.0, 0, 98, 100], [0, 0, 99, 100], [79, 0, 99, 9], [82, 0, 180, 100]])
    assert is_within(boxes, left, (100, 180), 100).tolist() == [True, False, False, False]
    assert is_within(boxes, right, (100, 180), 100).tolist() == [False, False, False, True]
    assert is_within(boxes[:0], left, (100, 180), 100).tolist() == []


def test_a_group_is_filled_by_its_objects():
    group = one((0, 0, 210, 100), 0.9)
    first, second = one((0, 0, 100, 100), 0.5), one((110, 0, 210, 100), 0.6)
    assert is_filled(group, Detections.cat([first, second])).tolist() == [True]
    # A single smaller object, twice found; a weak one; one of another class; one that it lies in.
    near = one((4, 0, 104, 100), 0.7)
    weak, other = one((110, 0, 210, 100), 0.4), one((110, 0, 210, 100), 0.9, label=1)
    for more in (near, weak, other):
        assert is_filled(group, Detections.cat([first, more])).tolist() == [False]
    assert is_filled(group, one((0, 0, 300, 200), 0.9)).tolist() == [False]
    assert is_filled(group, first[:0]).tolist() == [False]
    assert is_filled(group[:0], first).tolist() == []


def test_a_part_is_covered_by_the_object_it_is_of():
    part = one((50, 0, 100, 100), 0.8)
    assert is_covered(part, one((40, 0, 160, 110), 0.5)).tolist() == [True]
    assert is_covered(part, one((40, 0, 160, 110), 0.5, label=1)).tolist() == [False]
    assert is_covered(part, one((40, 0, 160, 110), 0.3)).tolist() == [False]  # a weak candidate
    assert is_covered(part, one((76, 0, 160, 110), 0.9)).tolist() == [False]  # less than half
    assert is_covered(part, part[:0]).tolist() == [False]
    assert is_covered(part[:0], part).tolist() == []


def test_of_the_parts_of_one_object_the_largest_is_kept():
    """Two tiles that overlap by 120 pixels cut an object of 300."""
    windows = [(0, 0, 240, 240), (120, 0, 360, 240)]
    left, right = one((0, 0, 240, 100), 0.6), one((120, 0, 300, 100), 0.9)
    again = one((118, 0, 300, 104), 0.5)  # a near copy, larger than its original
    kept = largest_parts([left, Detections.cat([again, right])], windows)
    assert kept.boxes.tolist() == [[0, 0, 240, 100]]
    # Parts that share less than half, of another class, or of a weak larger one stay.
    beside, other = one((200, 0, 300, 100), 0.9), one((120, 0, 300, 100), 0.9, label=1)
    assert len(largest_parts([left, Detections.cat([beside, other])], windows)) == 3
    assert len(largest_parts([one((0, 0, 240, 100), 0.2), right], windows)) == 2
    assert len(largest_parts([left[:0], left[:0]], windows)) == 0


def test_parts_that_one_tile_shows_apart_are_all_kept():
    windows = [(0, 0, 800, 800), (600, 0, 1400, 800)]
    first, second = one((500, 100, 800, 400), 0.9), one((500, 420, 800, 700), 0.9)
    group = one((480, 90, 800, 710), 0.46)
    kept = largest_parts([Detections.cat([first, second, group]), first[:0]], windows)
    assert len(kept) == 3
    # An object in front of a larger one, both cut by both tiles: one part of each.
    left = Detections.cat([one((300, 100, 800, 700), 0.9), one((560, 400, 800, 600), 0.8)])
    right = Detections.cat([one((600, 100, 900, 700), 0.9), one((600, 400, 830, 600), 0.8)])
    assert sorted(largest_parts([left, right], windows).boxes.tolist()) == left.boxes.tolist()


class Listed(Blobs):
    """Finds ``views`` (boxes with scores, in pixels of the image) one view after the other."""

    def __init__(self, *views: Detections) -> None:
        super().__init__(EvalTransform(80, 140), (0, 180))
        self.listed = list(views)

    def candidates(self, batch: Batch) -> list[Detections]:
        return [self.listed.pop(0)]


def listed(*views: Detections) -> list[list[float]]:
    """What `Listed` finds in an image with two tiles, from 0 to 800 and from 600 to 1400."""
    predictor = Predictor(Listed(*views), classes=("object", "other"))
    pixels = np.zeros((800, 1400, 3), np.uint8)
    (found,) = predictor.tiled(800, 0.2).predict([pixels], score_threshold=0)
    return sorted(found.boxes.tolist())


def test_a_box_of_the_whole_image_is_kept_where_no_tile_shows_its_object():
    box, none = one((20, 20, 700, 700), 0.95), one((0, 0, 1, 1), 1.0)[:0]
    assert listed(box, none, none) == [[20, 20, 700, 700]]
    # What the other tile cuts is a part of it.
    box, part = one((400, 100, 780, 500), 0.95), one((0, 100, 180, 500), 0.5)
    assert listed(box, none, part) == [[400, 100, 780, 500]]
    # A smaller object in front of it.
    front = one((450, 200, 550, 400), 0.9)
    assert listed(box, front, none) == [[400, 100, 780, 500], [450, 200, 550, 400]]
    # A weak one, and one of another class.
    weak, other = one((410, 100, 780, 500), 0.4), one((410, 100, 780, 500), 0.9, label=1)
    assert [400, 100, 780, 500] in listed(box, weak, none)
    assert [400, 100, 780, 500] in listed(box, other, none)


def test_a_box_of_the_whole_image_that_ends_short_of_the_tile_it_passes():
    """The object goes from 300 to 830: both tiles cut it."""
    coarse = one((310, 100, 785, 700), 0.9)
    left, right = one((300, 100, 800, 700), 0.9), one((0, 100, 230, 700), 0.9)
    assert listed(coarse, left, right) == [[310, 100, 785, 700]]


# --------------------------------------------------------------------------------- drawn scenes


def scene(seed: int) -> tuple[np.ndarray, torch.Tensor]:
    """A noisy grey image of 1500x2300 with objects of 8 to 1100 pixels that do not touch."""
    random = np.random.default_rng(seed)
    size = np.array([2300, 1500])
    boxes: list[np.ndarray] = []
    sides = [[1100, 600], [700, 800], *random.integers(150, 390, (6, 2))]
    for side in [*sides, *random.integers(8, 60, (150, 2))]:
        for _ in range(200):
            corner = random.integers(0, size - side)
            box = np.concatenate([corner, corner + side])
            if all((box[:2] >= b[2:] + 6).any() or (box[2:] + 6 <= b[:2]).any() for b in boxes):
                boxes.append(box)
                break
    pixels = random.integers(80, 120, (*size[::-1], 1), dtype=np.uint8).repeat(3, axis=2)
    for x1, y1, x2, y2 in boxes:
        pixels[y1:y2, x1:x2] = (30, 60, 220)
    return pixels, torch.from_numpy(np.stack(boxes)).float()


@pytest.fixture
def blobs() -> Predictor:
    # Objects below 23 pixels have fewer than 25 px² where the whole image shrinks to 500 pixels.
    return Predictor(Blobs(EvalTransform(300, 500), (100, 130), least=25), classes=("object",))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("overlap", [0.2, 0.35])
def test_every_object_of_a_scene_once(blobs, seed, overlap):
    pixels, truth = scene(seed)
    (plain,) = blobs.predict([pixels])
    (found,) = blobs.tiled(400, overlap).predict([pixels], batch_size=4)
    overlaps = iou(found.boxes, truth)
    assert (overlaps.amax(dim=0) >= 0.8).all()  # small and large ones
    assert len(found) == len(truth)  # no duplicate, and no part of an object
    missed = iou(plain.boxes, truth).amax(dim=0) < 0.5
    assert missed.float().mean() > 0.15
    assert missed[:8].sum() == 0


def test_an_object_that_no_view_has_whole_is_kept(blobs):
    """Where the whole image is too coarse for it and each tile cuts it: a line."""
    pixels = np.full((300, 2500, 3), 100, np.uint8)
    pixels[150, 300:2300] = (30, 60, 220)
    tiled = blobs.tiled(400, 0.2)
    assert len(blobs.predict([pixels])[0]) == 0
    (found,) = tiled.predict([pixels])
    assert len(found) >= 5
    assert (found.boxes[:, 0].min(), found.boxes[:, 2].max()) == pytest.approx((300, 2300), abs=2)


def test_tiles_tell_apart_what_the_whole_image_shows_as_one():
    """A box of the whole image counts where no tile fills its place with objects."""
    pixels = np.full((1500, 2300, 3), 100, np.uint8)
    pixels[100:160, 100:140] = pixels[100:160, 152:192] = (30, 60, 220)  # 2.6 network pixels apart
    pixels[500:1100, 500:1600] = (30, 60, 220)  # larger than a tile
    finder = Blobs(EvalTransform(300, 500), (100, 130), gap=5)
    plain = Predictor(finder, classes=("object",))
    assert len(plain.predict([pixels])[0]) == 2
    (found,) = plain.tiled(400, 0.2).predict([pixels])
    truth = [[100, 100, 140, 160], [152, 100, 192, 160], [500, 500, 1600, 1100]]
    assert iou(torch.tensor(truth).float(), found.boxes).amax(dim=1).min() > 0.8
    assert len(found) == 3


def test_objects_too_large_for_the_network_in_a_tile_come_from_the_whole_image():
    pixels = np.full((1500, 2300, 3), 100, np.uint8)
    pixels[100:400, 50:350] = pixels[700:1000, 1000:1300] = (30, 60, 220)
    pixels[500:540, 500:540] = (30, 60, 220)  # which only tiles show
    finder = Blobs(EvalTransform(300, 500), (100, 130), least=100, most=5000)
    plain = Predictor(finder, classes=("object",))
    assert len(plain.predict([pixels])[0]) == 2
    (found,) = plain.tiled(500, 0.2).predict([pixels])
    truth = [[50, 100, 350, 400], [1000, 700, 1300, 1000], [500, 500, 540, 540]]
    assert iou(torch.tensor(truth).float(), found.boxes).amax(dim=1).min() > 0.8
    assert len(found) == 3


def test_small_images_are_predicted_as_without_tiles(blobs):
    pixels = scene(0)[0][:300, :400]
    (plain,), (tiled,) = blobs.predict([pixels]), blobs.tiled(400).predict([pixels])
    assert torch.equal(plain.boxes, tiled.boxes) and torch.equal(plain.scores, tiled.scores)
    bare = np.full((16, 400, 3), 100, np.uint8)
    assert blobs.tiled(400).predict([bare])[0].boxes.shape == (0, 4)


def test_limits_count_for_each_view_and_tiles_share_batches(blobs):
    """Memory: a batch holds no more views than images were asked for at once."""
    pixels = np.full((800, 800, 3), 100, np.uint8)
    for x in range(4, 800, 16):
        for y in range(4, 800, 16):
            pixels[y : y + 8, x : x + 8] = (30, 60, 220)
    (found,) = blobs.tiled(200, 0.1).predict([pixels], batch_size=3)
    assert len(found) == 50 * 50
    assert len(found) > blobs.pipeline.suppress.keywords["max_detections"]
    assert max(shape[0] for shape in blobs.pipeline.views) == 1  # one image, one tile at a time
    blobs.pipeline.views.clear()
    blobs.tiled(200, 0.1).predict([pixels] * 3, batch_size=3)
    assert {shape[0] for shape in blobs.pipeline.views[1:]} <= {1, 2, 3}
    with pytest.raises(ConfigError, match="tiles need a detector's checkpoint"):
        blobs.tiled(200).tiled(200)


# ------------------------------------------------------------------------------------- mosaics


def test_tiles_of_mosaics_of_photos_are_as_good_as_the_photos(shared_data):
    """White blood cells by the colour of their nuclei, in mosaics of 2x2 images."""
    names = (shared_data / "bccd/ImageSets/Main/test.txt").read_text().split()[:32]
    photos = [_photo(shared_data / "bccd", name) for name in names]
    finder = Blobs(EvalTransform(480, 640), (115, 150), gap=31, least=1500, margin=0.22)
    predictor = Predictor(finder, classes=("WBC",))
    alone = _ap50(predictor, photos)
    assert alone > 0.35

    mosaics = [_mosaic(photos[start : start + 4]) for start in range(0, len(photos), 4)]
    assert _ap50(predictor.tiled(640, 0.2), mosaics) >= alone - 0.01
    assert _ap50(predictor, mosaics) < alone - 0.1


def _photo(root: Path, name: str) -> tuple[np.ndarray, torch.Tensor]:
    pixels = cv2.imread(str(root / "JPEGImages" / f"{name}.jpg"))[..., ::-1]
    objects = ElementTree.parse(root / "Annotations" / f"{name}.xml").iter("object")  # noqa: S314
    boxes = [
        [float(each.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for each in objects
        if each.findtext("name") == "WBC"
    ]
    return np.ascontiguousarray(pixels), torch.tensor(boxes).reshape(-1, 4)


def _mosaic(photos) -> tuple[np.ndarray, torch.Tensor]:
    rows = [np.concatenate([one[0] for one in photos[at : at + 2]], axis=1) for at in (0, 2)]
    offsets = [torch.tensor([x, y, x, y]) for y in (0, 480) for x in (0, 640)]
    moved = [boxes + offset for (_, boxes), offset in zip(photos, offsets, strict=True)]
    return np.concatenate(rows), torch.cat(moved)


def _ap50(predictor, photos) -> float:
    found, records = {}, []
    for index, (pixels, boxes) in enumerate(photos):
        found[str(index)] = predictor.predict([pixels])[0].found
        none = torch.zeros(len(boxes))
        annotation = Annotation(boxes, none.long(), none.bool())
        records.append(Record(str(index), Path("x"), pixels.shape[:2], annotation))
    return evaluate(found, records, ("WBC",), coco=None).metrics["voc_ap50"]

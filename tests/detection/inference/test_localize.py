"""Views, stages, networks and classifiers together give one box for each class."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from resdet.datasets import image as images
from resdet.datasets.image import ImageRules
from resdet.datasets.loading.crops import CentreCrop, FullImage, crop_sample
from resdet.datasets.loading.regions import Square
from resdet.detection.inference.classify import ClassifierMember, ScorePipeline
from resdet.detection.inference.localize import (
    Classifiers,
    FirstStage,
    LocationPipeline,
    SecondStage,
)
from resdet.detection.inference.locate_records import (
    RecordReader,
    locate_records,
    propose_records,
)
from resdet.detection.inference.predictor import Predictor
from resdet.detection.ops.anchors import AnchorGrid
from resdet.detection.ops.boxes import iou
from resdet.detection.structures import Annotation, Batch, Located, Record
from torch import Tensor, nn

#: An image of 60 x 80 with one bright block.
OBJECT = torch.tensor([[20.0, 15.0, 50.0, 40.0]])


def make_image() -> np.ndarray:
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[15:40, 20:50] = 255
    return pixels


def located(pipeline: LocationPipeline, truth: int | None = None) -> Located:
    pixels = make_image()
    return pipeline.locate(crop_sample(pixels, pipeline.crops), pixels, truth)


class FindsBright(nn.Module):
    """Stage one that is right: the bounds of the bright block, for every class.

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


class ScoresBright(nn.Module):
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


def classifiers(*probabilities: float, order: Sequence[int]) -> Classifiers:
    views = ClassifierMember(Knows(*probabilities), (CentreCrop(32, 24),))  # type: ignore[arg-type]
    return Classifiers(ScorePipeline([views]), torch.tensor(order))


DENSE = (FullImage(30), FullImage(60), FullImage(90))


@pytest.mark.parametrize(
    "crops", [(FullImage(60),), DENSE, (FullImage(60, flipped=True),), (CentreCrop(60, 60),)]
)
def test_boxes_of_views_are_moved_to_the_image(
    crops: tuple[FullImage, ...],
) -> None:
    found = located(LocationPipeline([FirstStage(FindsBright(), crops)]), 3)
    assert found.true_class.labels.tolist() == [3] and len(found.predicted) == 0
    assert iou(found.true_class.boxes, OBJECT).item() > 0.95


def test_the_best_of_all_views_and_networks_is_taken() -> None:
    far = (0.99, (0.0, 0.0, 10.0, 10.0))
    sure, unsure = FindsBright(0.7, [far]), FindsBright(0.5)
    alone = located(LocationPipeline([FirstStage(unsure, DENSE)]), 0)
    assert iou(alone.true_class.boxes, OBJECT).item() > 0.95
    both = located(LocationPipeline([FirstStage(unsure, DENSE), FirstStage(sure, DENSE)]), 0)
    assert both.true_class.scores.item() == pytest.approx(0.99)
    assert iou(both.true_class.boxes, OBJECT).item() == 0
    assert [shape[2] for shape in sure.seen] == [30, 60, 90]


def test_neighbours_vote_on_the_best_box() -> None:
    """Two boxes, of 0.75 and 0.25: the mean of their right sides is 50 - 0.25 x 4."""
    network = FindsBright(0.75, [(0.25, (20.0, 15.0, 46.0, 40.0)), (0.7, (0.0, 0.0, 9.0, 9.0))])
    pipeline = LocationPipeline([FirstStage(network, (FullImage(60),))], vote_iou=0.5)
    found = located(pipeline, 0).true_class
    assert found.boxes.tolist() == [[20.0, 15.0, pytest.approx(49.0), 40.0]]
    assert found.scores.tolist() == [0.75]


def test_the_same_network_twice_changes_nothing() -> None:
    one = FirstStage(FindsBright(), DENSE)
    for second in ([], [SecondStage(ScoresBright(), Square(48, 8))]):
        alone = located(LocationPipeline([one], second), 1)
        twice = located(LocationPipeline([one, one], second * 2), 1)
        torch.testing.assert_close(alone.true_class.boxes, twice.true_class.boxes)
        torch.testing.assert_close(alone.true_class.scores, twice.true_class.scores)


def test_stage_two_corrects_stage_one() -> None:
    """Stage one gives higher scores to a loose box and a corner; stage two to bright regions, and
    finds the object's bounds in them."""
    wrong = [(0.95, (10.0, 10.0, 60.0, 50.0)), (0.97, (60.0, 0.0, 80.0, 10.0))]
    first = FirstStage(FindsBright(0.5, wrong), (FullImage(60),))
    before = located(LocationPipeline([first]), 0).true_class
    assert iou(before.boxes, OBJECT).item() == 0
    for at_once in (1, 64):
        pipeline = LocationPipeline(
            [first], [SecondStage(ScoresBright(), Square(48, 8))], regions_at_once=at_once
        )
        after = located(pipeline, 0).true_class
        assert iou(after.boxes, OBJECT).item() > 0.9 and after.scores.item() > 0.95


def test_proposals_are_the_best_that_do_not_overlap() -> None:
    near = (0.8, (21.0, 15.0, 50.0, 40.0))
    others = [(0.1 * place, (5.0 * place, 0.0, 5.0 * place + 5, 5.0)) for place in range(1, 7)]
    first = FirstStage(FindsBright(0.9, [near, *others]), (FullImage(60),))
    pipeline = LocationPipeline([first], count=3)
    batch = Batch.collate([crop_sample(make_image(), pipeline.crops)], pad=False)
    found = pipeline.propose(batch, 0)
    assert found.tolist() == [OBJECT[0].tolist(), [30.0, 0.0, 35.0, 5.0], [25.0, 0.0, 30.0, 5.0]]


# ------------------------------------------------------------------------------------- classes


def test_the_most_likely_classes_are_located_in_their_order() -> None:
    """Classifier's classes a, b, c; the localizer calls them b, c, a."""
    names = classifiers(0.2, 0.5, 0.3, order=[1, 2, 0])
    pipeline = LocationPipeline([FirstStage(FindsBright(), DENSE)], classifiers=names, top=2)
    found = located(pipeline, 2)
    assert found.predicted.labels.tolist() == [0, 1]
    torch.testing.assert_close(found.predicted.scores, torch.tensor([0.5, 0.3]))
    assert found.true_class.labels.tolist() == [2]
    assert found.true_class.scores.item() == pytest.approx(0.9)
    assert iou(found.predicted.boxes, OBJECT).min() > 0.95
    unknown = located(pipeline)
    assert len(unknown.true_class) == 0 and unknown.predicted.labels.tolist() == [0, 1]


def test_some_classes_have_the_scores_of_a_network_that_knows_no_others() -> None:
    names = classifiers(0.2, 0.5, 0.3, order=[1, 2, 0])
    pipeline = LocationPipeline([FirstStage(FindsBright(), DENSE)], classifiers=names, top=2)
    pipeline.among = torch.tensor([1, 2])
    found = located(pipeline).predicted
    assert found.labels.tolist() == [1, 2]
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.4]))
    pipeline.classifiers = classifiers(0.0, 1.0, 0.0, order=[1, 2, 0])  # none of them
    assert located(pipeline).predicted.scores.tolist() == [0, 0]


def test_fewer_classes_than_requested() -> None:
    names = classifiers(0.6, 0.4, order=[0, 1])
    pipeline = LocationPipeline([FirstStage(FindsBright(), DENSE)], classifiers=names, top=5)
    assert located(pipeline).predicted.labels.tolist() == [0, 1]


def test_nothing_usable_gives_no_box() -> None:
    class Nowhere(FindsBright):
        def score(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
            return torch.ones(len(labels), 2), torch.zeros(len(labels), 2, 4)

    names = classifiers(0.6, 0.4, order=[0, 1])
    for second in ([], [SecondStage(ScoresBright(), Square(48, 8))]):
        found = located(LocationPipeline([FirstStage(Nowhere(), DENSE)], second, names), 1)
        assert len(found.predicted) == 0 and len(found.true_class) == 0


def test_a_predictor_finds_the_likely_classes() -> None:
    names = classifiers(0.6, 0.4, order=[0, 1])
    pipeline = LocationPipeline([FirstStage(FindsBright(), DENSE)], classifiers=names)
    other = np.zeros((60, 100, 3), np.uint8)
    other[5:10, 90:100] = 255
    predictor = Predictor(pipeline, classes=["a", "b"])
    first, second = predictor.predict([make_image(), other], batch_size=2)
    assert iou(first.boxes[:1], OBJECT).item() > 0.95 and first.labels.tolist() == [0, 1]
    assert iou(second.boxes[:1], torch.tensor([[90.0, 5.0, 100.0, 10.0]])).item() > 0.8
    [best] = predictor.predict([make_image()], score_threshold=0.5)
    assert best.labels.tolist() == [0]
    assert first.names == ["a", "b"] and list(first.top(1)) == list(best)
    assert first.filter(classes="b").labels.tolist() == [1]
    assert json.loads(best.to_json())["detections"][0]["label"] == "a"
    assert repr(best).startswith("DetectionResult: 80 x 60, 1 detections\n  a 0.6")
    assert not np.array_equal(np.asarray(best.draw()), best.image.pixels)
    assert best.crops()[0].size[0] in range(28, 34)


# ------------------------------------------------------------------------------------ data sets


def make_records(folder: Path, count: int = 5) -> list[Record]:
    """The bright block a little further right in each image; every second one is larger."""
    records = []
    for index in range(count):
        pixels = np.zeros((60, 80 + index % 2, 3), np.uint8)
        pixels[15:40, 20 + index : 50 + index] = 255
        path = folder / f"{index}.png"
        assert cv2.imwrite(str(path), pixels)
        records.append(Record(str(index), path, pixels.shape[:2], Annotation.empty(), index % 2))
    return records


def make_pipeline(*, regions_at_once: int = 2) -> LocationPipeline:
    """Both stages, the second with two networks of different inputs."""
    wrong = [(0.95, (10.0, 10.0, 60.0, 50.0)), (0.97, (60.0, 0.0, 80.0, 10.0))]
    return LocationPipeline(
        [FirstStage(FindsBright(0.5, wrong), (FullImage(60), CentreCrop(60, 48)))],
        [SecondStage(ScoresBright(), Square(size, 8)) for size in (48, 64)],
        classifiers(0.6, 0.4, order=[0, 1]),
        regions_at_once=regions_at_once,
    )


def one_by_one(pipeline: LocationPipeline, records: Sequence[Record]) -> dict[str, Located]:
    found = {}
    for record in records:
        pixels = images.read_image(record.path).pixels
        sample = crop_sample(pixels, pipeline.crops)
        found[record.image_id] = pipeline.locate(sample, pixels, record.image_label)
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("chunk", [2, 100])
def test_a_data_set_gives_what_its_images_give(
    workers: int, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any number of workers and of images per chunk."""
    monkeypatch.setattr("resdet.detection.inference.locate_records.CHUNK", chunk)
    records, reader = make_records(tmp_path), RecordReader(ImageRules(), workers)
    for pipeline in (make_pipeline(), LocationPipeline([FirstStage(FindsBright(), DENSE)])):
        found = dict(locate_records(pipeline, records, reader))
        expected = one_by_one(pipeline, records)
        assert found.keys() == expected.keys()
        for name, one in expected.items():
            for field in ("predicted", "true_class"):
                mine, other = getattr(found[name], field), getattr(one, field)
                assert torch.equal(mine.boxes, other.boxes)
                assert torch.equal(mine.scores, other.scores)
                assert torch.equal(mine.labels, other.labels)


def test_the_main_process_neither_reads_nor_crops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of what was read has no line of the main process."""
    records, log = make_records(tmp_path), tmp_path / "log"
    read = images.decode_image

    def logged(data: bytes, name: str, rules: ImageRules) -> images.LoadedImage:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {name}\n")
        return read(data, name, rules)

    monkeypatch.setattr(images, "decode_image", logged)
    pipeline = make_pipeline(regions_at_once=100)
    assert len(dict(locate_records(pipeline, records, RecordReader(ImageRules(), 2)))) == 5
    lines = [line.split() for line in log.read_text().splitlines()]
    assert str(os.getpid()) not in {process for process, _ in lines}
    names = [name for _, name in lines]
    # Once for stage one, and for the regions of each of the two labels.
    assert all(names.count(str(record.path)) == 1 + 2 for record in records)


def test_truncated_images_are_left_out(tmp_path: Path) -> None:
    records = make_records(tmp_path, 3)
    data = records[1].path.read_bytes()
    records[1].path.write_bytes(data[: len(data) - 30])
    reader = RecordReader(ImageRules(on_truncated="skip"), 0)
    with pytest.warns(UserWarning, match="left out"):
        assert dict(locate_records(make_pipeline(), records, reader)).keys() == {"0", "2"}


def test_proposals_of_a_data_set(tmp_path: Path) -> None:
    records = make_records(tmp_path)
    found = dict(propose_records(make_pipeline(), records, RecordReader(ImageRules(), 0)))
    for index, record in enumerate(records):
        expected = OBJECT + torch.tensor([index, 0.0, index, 0.0])
        assert iou(found[record.image_id], expected).max() > 0.9


def test_no_images() -> None:
    assert dict(locate_records(make_pipeline(), [], RecordReader(ImageRules(), 2))) == {}

"""What FiftyOne gets from a model, and what it stores where its database can be reached."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from resdet.detection.inference.predictor import Predictor
from resdet.detection.inference.ranked_classes import RankedClasses
from resdet.detection.inference.result_image import ResultImage
from resdet.detection.inference.result_types import ClassResult
from resdet.tests.detection.adapters.spots import spot_image
from resdet.tests.detection.inference.conftest import CLASSES, SpotFinder

fo = pytest.importorskip("fiftyone", reason="needs fiftyone")

#: The spot of `spot_image`, x, y, width, height over those of the image.
SPOT = pytest.approx([10 / 60, 5 / 40, 20 / 60, 20 / 40], abs=0.02)


def model():
    from resdet.detection.adapters.fiftyone import FiftyOneModel

    return FiftyOneModel(Predictor(SpotFinder(), classes=CLASSES, score_threshold=0.05))


def test_boxes_are_relative_to_each_image():
    spot = np.asarray(spot_image())
    found, none = model().predict_all([spot, np.full((30, 90, 3), 90, dtype=np.uint8)])
    (one,) = found.detections
    assert (one.label, one.bounding_box) == (CLASSES[0], SPOT)
    assert one.confidence == pytest.approx(1 / 6, abs=0.02)  # the share that the spot covers
    assert none.detections == []
    assert model().predict(spot).detections[0].bounding_box == one.bounding_box


def test_a_classifier_gives_its_best_class_above_the_threshold():
    from resdet.detection.adapters.fiftyone import FiftyOneModel

    def classify(images):
        for scores in images:
            labels = torch.tensor([1, 0][: len(scores)], dtype=torch.int64)
            found = RankedClasses(torch.tensor(scores), labels)
            yield ClassResult(found, CLASSES, ResultImage("a.png", (40, 60)))

    best, none = FiftyOneModel(classify).predict_all([[0.7, 0.3], []])
    assert (best.label, best.confidence) == (CLASSES[1], pytest.approx(0.7))
    assert none is None


@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_data_set_keeps_what_was_found(tmp_path, batch_size):
    try:
        data = fo.Dataset()
    except Exception as error:  # whatever its database and driver raise
        pytest.skip(f"needs FiftyOne's database: {type(error).__name__}")
    try:
        for number in range(3):
            path = tmp_path / f"{number}.png"
            (spot_image() if number else Image.new("RGB", (90, 30), (90, 90, 90))).save(path)
            data.add_sample(fo.Sample(filepath=str(path)))
        data.apply_model(model(), "resdet", batch_size=batch_size, skip_failures=False)
        found = data.values("resdet.detections")
        assert [len(each or ()) for each in found] == [0, 1, 1]
        assert found[1][0].bounding_box == SPOT
    finally:
        data.delete()

"""What CVAT gets, as its own client checks and translates it."""

from __future__ import annotations

import logging

import pytest
import torch
from resdet.detection.inference.outputs import ClassOutput
from resdet.detection.inference.predictor import Predictor
from resdet.detection.inference.ranked_classes import RankedClasses
from resdet.detection.inference.result_image import ResultImage
from resdet.detection.inference.result_types import ClassResult
from resdet.detection.predictor import load
from resdet.tests.detection.adapters.spots import spot_image
from resdet.tests.detection.inference.conftest import CLASSES, SpotFinder

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs cvat-sdk")


def detect(function, threshold):
    from cvat_sdk.auto_annotation.driver import _DetectionFunctionContextImpl

    context = _DetectionFunctionContextImpl(frame_name="a.png", conf_threshold=threshold)
    return function.detect(context, spot_image())


def test_boxes_reach_the_labels_of_a_task():
    from cvat_sdk import models
    from cvat_sdk.auto_annotation.driver import _AnnotationMapper
    from resdet.detection.adapters.cvat import CvatFunction

    function = CvatFunction(Predictor(SpotFinder(), classes=CLASSES, score_threshold=0.05))
    wanted = [
        models.Label(name=name, id=number, type="any", attributes=[], sublabels=[])
        for name, number in ((CLASSES[1], 70), (CLASSES[0], 71))
    ]
    mapper = _AnnotationMapper(
        logging.getLogger(),
        function.spec.labels,
        wanted,
        allow_unmatched_labels=False,
        conv_mask_to_poly=False,
    )
    tags, shapes = mapper.validate_and_remap(detect(function, None), 5)
    assert tags == []
    assert [(each.label_id, each.frame, each.type.value) for each in shapes] == [
        (71, 5, "rectangle")
    ]
    assert shapes[0].points == pytest.approx([10, 5, 30, 25], abs=1)
    assert detect(function, 0.5) == []  # the spot covers a sixth


def test_the_function_that_cvat_cli_loads(tiny_run):
    common = pytest.importorskip("cvat_cli._internal.common", reason="needs cvat-cli")
    parameters = {"weights": str(tiny_run / "weights/best.pt"), "score": 0.0, "device": "cpu"}
    loader = common.FunctionLoader("resdet.detection.adapters.cvat", None, parameters)
    function = loader.load()
    with_names = load(parameters["weights"], "cpu")
    assert [label.name for label in function.spec.labels] == list(with_names.classes)
    found = detect(function, None)
    assert found and all(len(each.points) == 4 for each in found)


def test_a_classifier_gives_its_best_class():
    from resdet.detection.adapters.cvat import CvatFunction

    found = RankedClasses(torch.tensor([0.7, 0.3]), torch.tensor([1, 0]))

    class Classifier:
        classes, output = ("cat", "dog"), ClassOutput()

        def __call__(self, image, *, score_threshold):
            return ClassResult(found, self.classes, ResultImage("a.png", (40, 60)))

    function = CvatFunction(Classifier())
    assert {label.type for label in function.spec.labels} == {"tag"}
    assert [each.label_id for each in detect(function, None)] == [1]

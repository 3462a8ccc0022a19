"""Parity with detectron2: features, proposals, detections and losses of one network.

Once as shipped, with norms folded into convolutions, and once with the norms apart, which is the
order of operations, and therefore the rounding, of the reference. Random weights on unscaled pixels
amplify rounding: the reference itself is 1e-3 from the same network in float64. The graphs of
exports are compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from golden_network import (
    BOUNDS,
    IMAGES,
    LOSSES,
    SWAPPED,
    Bounds,
    make_batch,
    make_pipeline,
    partners,
    read_arrays,
    read_network,
    read_settings,
)
from resdet.backbones.norm import ConvNorm
from resdet.detection.export.detector import EXAMPLE, IMAGE_SIDES, OUTPUTS
from resdet.detection.export.graph import DetectorGraph
from resdet.detection.export.network import ExportedNetwork
from resdet.detection.export.parts import part_graphs, use_parts, write_siblings
from resdet.detection.export.writing import Graph, write_onnx
from resdet.detection.extras import EXTRAS
from resdet.detection.inference.pipeline import Pipeline
from resdet.detection.models.faster_rcnn import FasterRCNN
from resdet.detection.structures import Batch, Detections
from torch import Tensor, nn


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, np.ndarray]:
    return read_arrays(golden)


@pytest.fixture(scope="module")
def network(golden: Path) -> FasterRCNN:
    return read_network(golden)


@pytest.fixture(scope="module", params=list(BOUNDS))
def order(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "apart":
            patch.setattr(ConvNorm, "fixed_factors", lambda self: None)
        yield request.param


@pytest.fixture(scope="module")
def model(network: FasterRCNN, order: str) -> FasterRCNN:
    return network


@pytest.fixture(scope="module")
def pipeline(model: FasterRCNN, golden: Path) -> Pipeline:
    return make_pipeline(model, read_settings(golden))


@pytest.fixture(scope="module")
def bounds(order: str) -> Bounds:
    return BOUNDS[order]


@pytest.fixture(scope="module")
def batch(arrays: dict[str, np.ndarray]) -> Batch:
    return make_batch(arrays)


@pytest.fixture(scope="module")
def features(model: FasterRCNN, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.extract(batch.images, batch.sizes)


def test_features(features: Tensor, arrays: dict[str, np.ndarray], bounds: Bounds) -> None:
    expected = torch.from_numpy(arrays["features"])
    torch.testing.assert_close(features.contiguous(), expected, atol=bounds.features, rtol=0)


def test_features_are_as_exact_as_the_reference(
    features: Tensor, network: FasterRCNN, batch: Batch, arrays: dict[str, np.ndarray]
) -> None:
    with torch.no_grad():
        exact = deepcopy(network.trunk).double()(network.pixels(batch.images, batch.sizes).double())
    error, theirs = features - exact, torch.from_numpy(arrays["features"]) - exact
    assert error.square().mean().sqrt() < 1.2 * theirs.square().mean().sqrt()


@pytest.mark.parametrize("i", IMAGES)
def test_proposals(
    i: int,
    model: FasterRCNN,
    batch: Batch,
    features: Tensor,
    arrays: dict[str, np.ndarray],
    bounds: Bounds,
) -> None:
    with torch.no_grad():
        logits, deltas = model.rpn_head(features)
        every = model.select(logits, deltas, model.anchors(features), batch.sizes)
        assert torch.equal(model.propose(features, batch.sizes)[i], every[0][i])
    proposals, scores = every[0][i], every[1][i]
    expected = torch.from_numpy(arrays[f"proposals{i}"])
    assert proposals.shape == expected.shape
    pairs = partners(proposals, expected, within=bounds.pixels)
    assert len(pairs) >= len(expected) - SWAPPED
    rows, columns = (list(side) for side in zip(*pairs, strict=True))
    wanted = torch.from_numpy(arrays[f"objectness{i}"])[columns]
    torch.testing.assert_close(scores[rows], wanted, atol=bounds.logits, rtol=0)
    assert (scores[:-1] >= scores[1:]).all()


def _expected_detections(arrays: dict[str, np.ndarray], i: int) -> Detections:
    return Detections(
        *(torch.from_numpy(arrays[f"{field}{i}"]) for field in ("boxes", "scores", "labels"))
    )


@pytest.mark.parametrize("i", IMAGES)
def test_detections(
    i: int, pipeline: Pipeline, batch: Batch, arrays: dict[str, np.ndarray], bounds: Bounds
) -> None:
    expect_detections(pipeline.predict(batch)[i], arrays, i, bounds)


def expect_detections(
    found: Detections, arrays: dict[str, np.ndarray], i: int, bounds: Bounds
) -> None:
    """Compare as sets: neighbours with equal scores may swap.

    Image 0 is given four boxes of no height by detectron2; they can be no objects and we leave
    them out, which makes room for four that score less than all of theirs.
    """
    expected = _expected_detections(arrays, i)
    assert len(found) == len(expected) == 100
    extent = expected.boxes[:, 2:] - expected.boxes[:, :2]
    real = expected[(extent > 0).all(dim=1)]
    assert len(real) == (96, 100)[i]
    apart = 1e4 * torch.arange(5)  # boxes of different labels are never near
    pairs = partners(
        real.boxes + apart[real.labels, None],
        found.boxes + apart[found.labels, None],
        within=2 * bounds.pixels,
    )
    assert len(pairs) >= len(real) - SWAPPED
    rows, columns = (list(side) for side in zip(*pairs, strict=True))
    torch.testing.assert_close(found.scores[columns], real.scores[rows], atol=bounds.scores, rtol=0)
    others = sorted(set(range(len(found))) - set(columns))
    assert (found.scores[others] <= real.scores.min() + bounds.scores).sum() >= 100 - len(real)


@pytest.mark.parametrize("mode", [True, False])
def test_losses(mode: bool, model: FasterRCNN, batch: Batch, arrays: dict[str, np.ndarray]) -> None:
    try:
        with torch.no_grad():
            losses = model.train(mode)(batch)
    finally:
        model.eval()
    assert losses.keys() == set(LOSSES.values())
    for theirs, name in LOSSES.items():
        assert float(losses[name]) == pytest.approx(float(arrays[theirs]), rel=2e-4), name


# ------------------------------------------------------------------------------------- exports


@pytest.fixture(scope="module")
def exportable(golden: Path) -> FasterRCNN:
    for name in EXTRAS["export"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[export]'")
    return read_network(golden)


class OfOneSize(nn.Module):
    """A `DetectorGraph` after its normalisation: detectron2's images are padded to the largest of
    the batch, which the input of the graph is not. ``extent`` (1, h, w) has the size of an image
    without the padding."""

    def __init__(self, detector: DetectorGraph) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, pixels: Tensor, extent: Tensor) -> tuple[Tensor, ...]:
        return self.detector.detect(pixels, (extent.shape[1], extent.shape[2]))


def test_detections_of_one_graph(
    exportable: FasterRCNN,
    batch: Batch,
    arrays: dict[str, np.ndarray],
    golden: Path,
    tmp_path: Path,
) -> None:
    module = OfOneSize(DetectorGraph(make_pipeline(exportable, read_settings(golden)).eval()))
    pixels = torch.randn(EXAMPLE).to(memory_format=torch.channels_last)
    examples = {"pixels": pixels, "extent": torch.zeros(1, 150, 210)}
    sides = {"pixels": IMAGE_SIDES, "extent": {1: "rows", 2: "columns"}}
    write_onnx(Graph(module, examples, sides, OUTPUTS), tmp_path / "model.onnx")
    network = ExportedNetwork(tmp_path / "model.onnx")
    padded = exportable.pixels(batch.images, batch.sizes)
    for i, size in enumerate(batch.sizes):
        image, boxes, scores, labels, finite = network(padded[i : i + 1], torch.zeros(1, *size))
        assert finite and not image.any()
        expect_detections(Detections(boxes, scores, labels), arrays, i, BOUNDS["folded"])


def test_detections_of_graphs_cut_at_the_crops(
    exportable: FasterRCNN,
    batch: Batch,
    arrays: dict[str, np.ndarray],
    golden: Path,
    tmp_path: Path,
) -> None:
    for name, graph in part_graphs(exportable).items():
        write_onnx(graph, tmp_path / f"{name}.onnx")
    write_siblings(exportable, tmp_path)
    parts = use_parts(read_network(golden), tmp_path)
    found = make_pipeline(parts, read_settings(golden)).eval().predict(batch)
    for i in IMAGES:
        expect_detections(found[i], arrays, i, BOUNDS["folded"])

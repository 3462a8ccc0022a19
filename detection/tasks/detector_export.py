"""Export of detectors, as one graph or cut at the crops, and their pipelines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from ...backbones.pixels import PIXELS, PixelNorm
from ...backbones.undrawn import shapes_only
from ..config.detector import DetectorConfig
from ..errors import ConfigError
from ..export.detector import whole_detector
from ..export.folder import MODEL, PARTS_RUNNER, RESIZE, RUNNER, graph_file
from ..export.network import Export, ExportedNetwork, ExportedPipeline
from ..export.parts import map_steps, part_graphs, use_parts, write_siblings
from ..export.verify import Agreement, verify
from ..inference.pipeline import Pipeline
from ..models.faster_rcnn import FasterRCNN
from ..ops.anchors import AnchorGrid, cell_anchors
from .base import Loaded
from .detector_network import build_detector, build_pipeline, describe_pipeline, eval_transform

Detector = Loaded[FasterRCNN, DetectorConfig]


def applied(members: Sequence[Detector]) -> Pipeline | ExportedPipeline:
    """The pipeline of one or several members, or of the graph of a whole detector.

    Raises ConfigError where such a graph is one of several members.
    """
    networks: list[object] = [member.model for member in members]
    whole = [network for network in networks if isinstance(network, ExportedNetwork)]
    if not whole:
        return build_pipeline(members)
    if len(members) > 1:
        raise ConfigError(
            f"{whole[0].path.parent}: the graph of a whole detector cannot be part of an ensemble; "
            "export with --graphs two"
        )
    config = members[0].config
    return ExportedPipeline(whole[0], eval_transform(config, *config.test.scales))


def detector_graph(loaded: Detector) -> Export:
    """The whole detector as one graph; raises ConfigError for what it cannot hold."""
    return whole_detector(build_pipeline([loaded]).eval(), describe_pipeline([loaded]))


def with_one_view(loaded: Detector) -> Detector:
    """The same, tested with one view of each image."""
    plain = loaded.config.test.model_copy(update={"scales": (), "pyramid": (), "flip": False})
    return replace(loaded, config=loaded.config.model_copy(update={"test": plain}))


def parted_detector(loaded: Detector) -> Export:
    """The graphs before and after the crops of a detector. They are compared with its settings on
    one scale: others run the same graphs."""
    config, model = loaded.config, loaded.model
    tested = with_one_view(loaded)

    def check(folder: Path) -> list[Agreement]:
        parts = replace(tested, model=load_parts(folder, config, len(loaded.classes)))
        return verify(build_pipeline([parts]).eval(), build_pipeline([tested]).eval())

    pixels = PIXELS[config.backbone.pixels]
    settings: dict[str, Any] = {
        "anchors": model.anchors.cells.tolist(),
        "stride": model.anchors.stride,
        "box_weights": config.roi.box_weights,
        "pool": config.roi.model_dump(mode="json"),
        "steps": map_steps(model),
        "testing": describe_pipeline([loaded]),
    }
    image = config.image
    return Export(
        part_graphs(model),
        {
            "name": "images",
            "type": "float32",
            "layout": f"NCHW, {pixels.order}, (pixels - mean) / std, 0 in the padding",
            "mean": pixels.mean,
            "std": pixels.std,
            "short_side": image.short_side_test,
            "long_side_max": image.long_side_max,
            "resize": RESIZE,
        },
        settings,
        check,
        (RUNNER, PARTS_RUNNER),
        write_rest=partial(write_siblings, model),
    )


def exported_detector(folder: Path, config: DetectorConfig, classes: int) -> nn.Module:
    """The graph of a whole detector, or the detector whose networks are the graphs in ``folder``.

    Raises WeightsError for a file that cannot be used.
    """
    whole = graph_file(folder, MODEL)
    return ExportedNetwork(whole) if whole.is_file() else load_parts(folder, config, classes)


def load_parts(folder: Path, config: DetectorConfig, classes: int) -> FasterRCNN:
    """The detector whose networks are the graphs in ``folder``."""
    with shapes_only():
        model = build_detector(config, classes)
    model.pixels = PixelNorm(PIXELS[config.backbone.pixels])
    cells = cell_anchors(config.rpn.anchor_sizes, config.rpn.anchor_ratios)
    model.anchors = AnchorGrid(cells, model.anchors.stride)
    return use_parts(model, folder).eval()

"""The description of an exported detector: what its graph takes, gives and holds."""

from __future__ import annotations

import torch

from ..inference.pipeline import Pipeline
from .folder import MODEL, RESIZE, RUNNER
from .graph import DetectorGraph
from .network import Export, ExportedPipeline, open_network
from .verify import verify
from .writing import Graph

#: Of the example that is traced; any other size runs as well.
EXAMPLE = (2, 3, 160, 224)
IMAGE_SIDES = {0: "images", 2: "height", 3: "width"}
#: What graphs of whole networks take, for ``meta.json``.
IMAGES = {
    "type": "uint8",
    "layout": "NCHW, RGB, images of one size without padding",
    "pixels": "mean, std and the order of channels are inside the graph",
}
OUTPUTS = {
    "image": "(D,) int64, index of the image in the batch",
    "boxes": "(D, 4) float32, x1 y1 x2 y2 in pixels of the input, width x2 - x1",
    "scores": "(D,) float32, in falling order",
    "labels": "(D,) int64, index into classes",
    "finite": "() bool, false where the network gave NaN or infinity: raise an error then",
}


def whole_detector(pipeline: Pipeline, testing: str) -> Export:
    """The whole detector of a pipeline, as one graph; ``testing`` describes it in words. Raises
    ConfigError for one with `obstacles`."""
    module = DetectorGraph(pipeline)
    transform = pipeline.transforms[0]
    example = torch.randint(0, 256, EXAMPLE, dtype=torch.uint8)
    graph = Graph(
        module,
        {"images": example.to(memory_format=torch.channels_last)},
        {"images": IMAGE_SIDES},
        OUTPUTS,
    )
    return Export(
        {MODEL: graph},
        {
            "name": "images",
            **IMAGES,
            "short_side": transform.short_side,
            "long_side_max": transform.long_side_max,
            "resize": RESIZE,
        },
        {
            "score_threshold": pipeline.score_threshold,
            "suppression": module.suppress,
            "proposals": module.select,
            "testing": testing,
        },
        lambda folder: verify(ExportedPipeline(open_network(folder), transform), pipeline),
        (RUNNER,),
    )

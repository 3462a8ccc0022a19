"""An exported detector in int8: calibrated on images, and kept if it finds what it found before."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...datasets.catalog import DataSplit
from ...datasets.image import read_image
from ..config.data_rules import image_rules
from ..config.detector import DetectorConfig
from ..config.files import read_config
from ..errors import ConfigError, WeightsError
from ..export.folder import HEAD, PARTS, TRUNK, graph_file, parts_in
from ..export.parts import head_inputs
from ..export.quantize import CHOICES, ERROR_BOUND, int8_error, int8_instructions, quantize
from ..inference.inputs import find_inputs
from ..models.faster_rcnn import FasterRCNN
from ..structures import Batch
from .base import ALONE
from .detector import DETECTION
from .detector_export import Detector, load_parts, with_one_view
from .detector_network import build_pipeline
from .held_out import read_part

#: Regions of an image that calibrate conv5_x.
REGIONS = 24
#: Images of those that calibrate, with which the outputs of the graphs are compared.
COMPARED = 4
#: The metrics that must not fall, with their names in words.
GATED = {"coco_ap50": "AP50", "coco_ap75": "AP75"}


@dataclass(frozen=True)
class Calibration:
    """``images`` that calibrate the ranges, and the annotated ``split`` that the result is judged
    by, if there is one. A metric may fall by ``max_drop`` points."""

    images: tuple[Path, ...]
    split: DataSplit | None
    config: DetectorConfig
    max_drop: float


def read_calibration(
    loaded: Detector, source: str, count: int, max_drop: float, overrides: Sequence[str] = ()
) -> Calibration:
    """At most ``count`` images of a folder, or of the training split of a config under
    ``overrides``, spread evenly; of a config also its validation split, if it has one.

    Raises:
        ConfigError: no images, an unusable config, or ``overrides`` for a folder.
        DataError: other classes than those of the network.
    """
    if count < 1:
        raise ConfigError(f"--images {count}: at least one image calibrates")
    split, config = None, loaded.config
    if Path(source).is_dir():
        if overrides:
            raise ConfigError(
                f"override {overrides[0]}: is for a config given to --calibrate, and {source} is a "
                "folder of images"
            )
        paths = [each.path for each in find_inputs([source])]
    else:
        data = read_config(DetectorConfig, source, overrides).data
        config = config.model_copy(update={"data": data})
        training = read_part(DETECTION, config, "train", loaded.classes, loaded.held_out)
        paths = [record.path for record in training.records]
        if data.val != ():
            split = read_part(DETECTION, config, "val", loaded.classes, loaded.held_out)
    if not paths:
        raise ConfigError(f"--calibrate {source}: no images")
    step = max(1.0, len(paths) / count)
    chosen = tuple(paths[int(index * step)] for index in range(min(count, len(paths))))
    return Calibration(chosen, split, config, max_drop)


def quantize_parts(folder: Path, loaded: Detector, use: Calibration) -> dict[str, Any]:
    """Turn the graphs of a detector in ``folder`` into int8, in the first of `CHOICES` whose
    metrics do not fall by more than allowed; what ``meta.json`` says of it.

    Raises WeightsError, with the table, where none is good enough.
    """
    described = {
        "images": len(use.images),
        "list_sha256": hashlib.sha256("\n".join(map(str, use.images)).encode()).hexdigest(),
        "instructions": int8_instructions(),
        "regions": REGIONS,
    }
    floats = folder / "float"
    floats.mkdir()
    for path in (each for name in PARTS for each in folder.glob(f"{name}.*")):
        path.replace(floats / path.name)
    before = None if use.split is None else _measure(loaded, use.config, use.split)
    rows: list[dict[str, Any]] = [] if before is None else [{"layers": "all float", **before}]
    for choice, kept in CHOICES.items():
        for name in parts_in(floats):
            source = graph_file(floats, name)
            inputs = _Inputs(name, loaded, use.images)
            quantize(source, folder / source.name, inputs, kept.get(name, range(0)))
        if before is None or use.split is None:
            break
        parts = load_parts(folder, loaded.config, len(loaded.classes))
        after = _measure(replace(loaded, model=parts), use.config, use.split)
        rows.append({"layers": choice, **after})
        if all(100 * (before[name] - after[name]) <= use.max_drop for name in GATED):
            break
    else:
        raise WeightsError(
            f"int8 loses more than {use.max_drop:g} points; nothing was written\n" + table(rows)
        )
    compared = use.images[:COMPARED]
    errors = {
        source.name: int8_error(folder / source.name, source, _Inputs(name, loaded, compared))
        for name in parts_in(floats)
        for source in (graph_file(floats, name),)
    }
    shutil.rmtree(floats)
    return {
        **described,
        "layers": choice,
        "metrics": rows or "untested",
        "verification": {"images": len(compared), "bound": ERROR_BOUND, "errors": errors},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The metrics of each choice of layers, one a line."""
    lines = [
        "  ".join([*(f"{heading} {100 * row[name]:6.2f}" for name, heading in GATED.items()),
                   row["layers"]])
        for row in rows
    ]  # fmt: skip
    return "\n".join(lines)


def _measure(loaded: Detector, config: DetectorConfig, split: DataSplit) -> dict[str, float]:
    tested = replace(loaded, config=config)
    pipeline = build_pipeline([tested]).eval()
    found = DETECTION.predict_split(pipeline, config, split, ALONE)
    assert found is not None  # noqa: S101  the only process gets all
    metrics = DETECTION.evaluate(found, split, config).metrics
    return {name: float(metrics[name]) for name in GATED}


@dataclass(frozen=True)
class _Inputs:
    """The inputs of the graph ``name`` for ``images``, computed again whenever they are asked for,
    as all do not fit in memory."""

    name: str
    loaded: Detector
    images: Sequence[Path]

    def __len__(self) -> int:
        """At most: conv5_x has no input of an image without regions."""
        return len(self.images)

    @torch.no_grad()
    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        model: FasterRCNN = self.loaded.model
        empty = self.name == HEAD
        pipeline = build_pipeline([with_one_view(self.loaded)]).eval()
        for path in self.images:
            pixels = read_image(path, image_rules(self.loaded.config)).pixels
            batch = Batch.collate([pipeline.sample(pixels)], pad=False)
            if self.name == TRUNK:
                yield (model.pixels(batch.images, batch.sizes),)
                continue
            features = model.extract(batch.images, batch.sizes)
            if self.name != HEAD:
                yield (features,)
                continue
            regions = [boxes[:: max(1, len(boxes) // REGIONS)][:REGIONS]
                       for boxes in model.propose(features, batch.sizes)]  # fmt: skip
            if len(regions[0]):
                empty = False
                yield head_inputs(model, features, regions)
        if empty:
            raise ConfigError(
                f"int8: the detector proposes no region in the {len(self)} images that calibrate "
                "it; calibrate on images with objects"
            )

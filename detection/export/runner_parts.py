"""A detector that is cut at its crops, for `runner.py`: what lies between and around its graphs.

N cells · A anchors · P regions · K classes. The arithmetic is that of resdet, in numpy.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
#: Regions that conv5_x takes together.
AT_ONCE = 64
#: The settings that are computed here.
PLAIN: dict[str, Any] = {
    "test.refine.rounds": 0,
    "test.vote.iou": None,
    "test.scales": [],
    "test.pyramid": [],
    "test.flip": False,
    "test.suppress.method": "nms",
    "test.suppress.class_agnostic": False,
    "roi.context": False,
    "roi.pool": "align",
}


class Parts:
    """A detector cut at its crops, in float or int8; ``run`` runs a graph by its name."""

    def __init__(self, folder: Path, meta: dict[str, Any], run: Callable[..., Any]) -> None:
        self.meta, self.config, self.run = meta, meta["config"], run
        self.siblings = read_tensors(folder / "siblings.safetensors")

    def detect(self, small: np.ndarray) -> Arrays:
        """Boxes in pixels of an input (h, w, 3) uint8 RGB, scores and labels of all candidates."""
        use, test = self.meta["input"], self.config["test"]
        order = slice(None, None, -1 if "BGR" in use["layout"] else 1)
        mean, std = (np.array(use[name], np.float32) for name in ("mean", "std"))
        pixels = (small[..., order].astype(np.float32) - mean) / std
        images = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
        (features,) = self.run("trunk", None, images=images)
        logits, deltas = self.run("rpn", None, features=features)
        expect_finite(logits, deltas)
        regions = self.propose(features, logits[0], deltas[0], small.shape)
        scores, shifts = self.score(features[0], regions)
        expect_finite(scores, shifts)
        boxes = decode(shifts, regions[:, None], self.meta["settings"]["box_weights"])
        boxes = np.broadcast_to(clipped(boxes, small.shape), (*scores.shape, 4))
        kept = (scores > test["score_threshold"]) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
        region, label = np.nonzero(kept)
        return boxes[region, label], scores[region, label], label

    def propose(
        self, features: np.ndarray, logits: np.ndarray, deltas: np.ndarray, size: tuple[int, ...]
    ) -> np.ndarray:
        """(P, 4) regions in pixels of the input of ``size``."""
        settings, rpn = self.meta["settings"], self.config["rpn"]
        y, x = (np.arange(n, dtype=np.float32) * settings["stride"] for n in features.shape[2:])
        centres = np.stack(np.meshgrid(x, y), axis=-1)[:, :, None]
        cells = np.array(settings["anchors"], np.float32)
        anchors = (np.concatenate([centres, centres], axis=-1) + cells).reshape(-1, 4)
        best = np.argsort(-logits, kind="stable")[: rpn["pre_nms_test"]]
        boxes = clipped(decode(deltas[best], anchors[best], (1, 1, 1, 1)), size)
        large = (boxes[:, 2:] - boxes[:, :2] > rpn["min_size"]).all(axis=1)
        return boxes[large][nms(boxes[large], rpn["nms_iou"])[: rpn["post_nms_test"]]]

    def score(self, features: np.ndarray, regions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (P, K) and deltas (P, K or 1, 4)."""
        maps, steps = {"crops": features}, self.meta["settings"]["steps"]
        if steps:
            found = self.run("map", list(steps), features=features[None])
            maps = {name: each[0] for name, each in zip(steps, found, strict=True)}
        outputs = []
        for at in range(0, len(regions), AT_ONCE):
            some = regions[at : at + AT_ONCE]
            crops = {
                name: self.crops(each, some, steps.get(name, 1)) for name, each in maps.items()
            }
            outputs.append(self.run("head", None, **crops)[0])
        width = self.siblings["cls_logits.weight"].shape[1]
        rows = np.concatenate([np.zeros((0, width), np.float32), *outputs])
        logits, deltas = (
            rows @ self.siblings[f"{name}.weight"].T + self.siblings[f"{name}.bias"]
            for name in ("cls_logits", "box_deltas")
        )
        return softmax(logits)[:, :-1], deltas.reshape(len(rows), -1, 4)

    def crops(self, features: np.ndarray, regions: np.ndarray, step: int) -> np.ndarray:
        """RoIAlign of (C, h, w), every ``step``-th of its bins in a direction: (P, s, s, C)."""
        use, cells = self.config["roi"], regions / self.meta["settings"]["stride"] - 0.5
        size, samples = use["pool_size"], use["sampling_ratio"]
        left = -(-size // step)
        found = np.zeros((len(regions), features.shape[0], left, left), np.float32)
        for place, (x1, y1, x2, y2) in enumerate(cells):
            rows = bin_weights(y1, y2, size, features.shape[1], samples)[::step]
            columns = bin_weights(x1, x2, size, features.shape[2], samples)[::step]
            y, x = (np.flatnonzero(weights.any(axis=0)) for weights in (rows, columns))
            if len(y) and len(x):
                part = features[:, y[0] : y[-1] + 1, x[0] : x[-1] + 1]
                columns = columns[:, x[0] : x[-1] + 1]
                found[place] = rows[:, y[0] : y[-1] + 1] @ part @ columns.T
        return np.ascontiguousarray(found.transpose(0, 2, 3, 1))

    def suppress(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Arrays:
        """What NMS within each class keeps, best first."""
        test, best = self.config["test"], np.argsort(-scores, kind="stable")
        every = [np.zeros(0, int)]
        for label in np.unique(labels):
            own = best[labels[best] == label]
            every.append(own[nms(boxes[own], test["nms_iou"])])
        kept = np.sort(np.concatenate(every))
        first = kept[np.argsort(-scores[kept], kind="stable")][: test["max_detections"]]
        return boxes[first], scores[first], labels[first]


def bin_weights(start: float, end: float, size: int, length: int, samples: int) -> np.ndarray:
    """The weight of each of ``length`` cells in each of ``size`` bins of a side of a region, from
    ``start`` to ``end`` in cells; ``samples`` 0 takes as many as cells fit into a bin."""
    step = (end - start) / size
    count = samples or max(0, int(np.ceil(step)))
    weights = np.zeros((size, length + 1), np.float32)
    if not count:
        return weights[:, :length]
    offset = (np.arange(count, dtype=np.float32) + 0.5) / count
    place = start + (np.arange(size, dtype=np.float32)[:, None] + offset) * step
    share = ((place >= -1) & (place <= length)) / count
    place = np.clip(place, 0, length - 1)
    low = np.minimum(np.floor(place), max(length - 2, 0)).astype(int)
    rows = np.arange(size)[:, None]
    np.add.at(weights, (rows, low), share * (1 - (place - low)))
    np.add.at(weights, (rows, low + 1), share * (place - low))
    return weights[:, :length]


def decode(deltas: np.ndarray, boxes: np.ndarray, weights: Any) -> np.ndarray:
    """Deltas (..., 4) applied to boxes (..., 4)."""
    deltas = deltas / np.array(weights, np.float32)
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + size / 2 + deltas[..., :2] * size
    half = size * np.exp(np.minimum(deltas[..., 2:], np.float32(np.log(1000 / 16)))) / 2
    return np.concatenate([centre - half, centre + half], axis=-1)


def nms(boxes: np.ndarray, iou: float) -> np.ndarray:
    """The indices of (D, 4) that stay, of boxes with the best first."""
    boxes, kept, left = boxes.astype(np.float64), [], np.arange(len(boxes))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(left):
        first, left = left[0], left[1:]
        kept.append(first)
        low = np.maximum(boxes[first, :2], boxes[left, :2])
        shared = np.clip(np.minimum(boxes[first, 2:], boxes[left, 2:]) - low, 0, None).prod(axis=1)
        left = left[shared <= iou * (area[first] + area[left] - shared)]
    return np.array(kept, int)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """The float32 tensors of a .safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    table.pop("__metadata__", None)
    found = {}
    for name, each in table.items():
        first, last = each["data_offsets"]
        values = np.frombuffer(content[start + first : start + last], np.float32)
        found[name] = values.reshape(each["shape"])
    return found


def clipped(boxes: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """(..., 4) cut to an image of ``size`` (h, w)."""
    height, width = size[:2]
    return np.clip(boxes, 0, np.array([width, height, width, height], np.float32))


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


def expect_finite(*arrays: np.ndarray) -> None:
    """Raise ValueError for NaN and infinity."""
    if not all(np.isfinite(each).all() for each in arrays):
        raise ValueError("the network's outputs are not finite")

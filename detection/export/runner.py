"""An exported network without PyTorch: this file, numpy, OpenCV and onnxruntime.

python runner.py street.jpg other.jpg --conf 0.5       # a detector
python runner.py street.jpg --top 3                    # a classifier
python runner.py street.jpg --classes cat dog          # a localizer, stage one: where these are

It prints one JSON object for each image. As a module: ``load(folder)(image)``. The file stands
beside ``meta.json`` and the graphs and needs nothing else of resdet.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray]
View = tuple[np.ndarray, bool, np.ndarray, np.ndarray]


def read_image(path: Path) -> np.ndarray:
    """An image file as (h, w, 3) uint8 RGB, with its EXIF orientation applied; raises ValueError
    for what OpenCV cannot decode. Transparency is dropped, and 16 bits become 8."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    except cv2.error as error:  # for one, more pixels than OPENCV_IO_MAX_IMAGE_PIXELS
        raise ValueError(f"{path}: OpenCV does not decode it: {error.err}") from error
    if pixels is None:
        raise ValueError(f"{path}: not an image that OpenCV reads")
    return np.ascontiguousarray(pixels[..., ::-1])


def resized_size(size: tuple[int, int], short_side: int, long_side_max: int) -> tuple[int, int]:
    """The (h, w) of the network's input for an image of ``size`` (h, w)."""
    factor = short_side / min(size)
    if factor * max(size) > long_side_max:
        factor = long_side_max / max(size)
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize(pixels: np.ndarray, short_side: int, long_side_max: int = 2**31) -> np.ndarray:
    """``pixels`` (h, w, 3) uint8 at `resized_size`."""
    size = pixels.shape[0], pixels.shape[1]
    new = resized_size(size, short_side, long_side_max)
    if new == size:
        return pixels
    shrinks = min(new[0] / size[0], new[1] / size[1]) < 0.5
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (new[1], new[0]), interpolation=method)


def as_input(pixels: np.ndarray) -> np.ndarray:
    """(h, w, 3) to the (1, 3, h, w) of a graph."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def expect_finite(*arrays: np.ndarray) -> None:
    """Raise ValueError for NaN and infinity."""
    if not all(np.isfinite(each).all() for each in arrays):
        raise ValueError("the network's outputs are not finite")


def open_graph(path: Path) -> Any:
    """The onnxruntime session of a graph; raises ValueError for what it cannot read."""
    if path.suffix != ".onnx":
        raise ValueError(f"{path}: runner.py reads ONNX graphs: export with --format onnx")
    try:
        return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise ValueError(f"{path}: onnxruntime cannot read it: {error}") from error


class Runner:
    """The exported network in a folder; raises OSError and ValueError where it is not one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.meta = json.loads((self.folder / "meta.json").read_text(encoding="utf-8"))
        self.classes: list[str] = self.meta["classes"]
        self.config: dict[str, Any] = self.meta["config"]
        self.sessions = {
            Path(name).stem: open_graph(self.folder / name) for name in self.meta["outputs"]
        }

    def run(self, name: str, outputs: list[str] | None, **inputs: np.ndarray) -> list[np.ndarray]:
        return self.sessions[name].run(outputs, inputs)

    def expect(self, *settings: tuple[str, Any]) -> None:
        """Raise ValueError unless each setting of the export has its value."""
        for name, value in settings:
            found: Any = self.config
            for key in name.split("."):
                found = found[key]
            if found != value:
                raise ValueError(
                    f"{self.folder}: exported with {name}={found}, and runner.py only knows "
                    f"{value}: export with it, or use resdet"
                )


class Detector(Runner):
    """A detector, as one graph or cut at its crops."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.parts: Any = None
        if self.meta["graphs"] == "two":
            try:
                from runner_parts import PLAIN, Parts  # type: ignore[import-not-found]  # beside it
            except ImportError as error:
                own = self.folder / "runner.py"
                raise ValueError(f"{folder}: is cut at its crops: apply it with {own}") from error
            self.expect(*PLAIN.items())
            self.parts = Parts(self.folder, self.meta, self.run)

    def __call__(self, pixels: np.ndarray) -> Arrays:
        """Boxes (D, 4) in pixels of the image (h, w, 3) uint8 RGB, scores (D,) and labels (D,),
        best first. Raises ValueError where the network gives NaN or infinity."""
        use = self.meta["input"]
        small = resize(pixels, use["short_side"], use["long_side_max"])
        if self.parts:
            boxes, scores, labels = self.parts.detect(small)
        else:
            _, boxes, scores, labels, finite = self.run("model", None, images=as_input(small))
            expect_finite(np.where(finite, 0, np.nan))
        height, width = pixels.shape[:2]
        scale = small.shape[1] / width, small.shape[0] / height
        limits = np.array([width, height, width, height], np.float32)
        boxes = np.clip(boxes / np.array([*scale, *scale], np.float32), 0, limits)
        return self.parts.suppress(boxes, scores, labels) if self.parts else (boxes, scores, labels)


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


class Cropped(Runner):
    """A network on the crops of ``test.protocol``."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.expect(("test.resampling", "opencv"))
        self.test = self.config["test"]

    def views(self, pixels: np.ndarray) -> Iterator[View]:
        """The crops: pixels, whether flipped, corner (x, y) in the resized image, and its scale."""
        test, protocol = self.test, self.test["protocol"]
        whole, ten = protocol in ("multi_scale", "dense"), protocol == "ten_crop"
        for side in test["short_sides"] if whole else (test["resize"],):
            scaled, corner = resize(pixels, side), np.zeros(2)
            scale = np.array(scaled.shape[1::-1]) / pixels.shape[1::-1]
            if not whole:
                size = test["resize"] if ten else test["size"]
                y, x = (round((length - size) / 2) for length in scaled.shape[:2])
                scaled, corner = scaled[y : y + size, x : x + size], np.array([x, y])
            for flipped in (False, True) if ten or test["flip"] else (False,):
                shown = cv2.flip(scaled, 1) if flipped else scaled
                for part in ten_parts(shown, test["size"]) if ten else (shown,):
                    yield part, flipped, corner, scale


def ten_parts(square: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Corners and middle of a square."""
    for rows in (slice(None, size), slice(-size, None)):
        for columns in (slice(None, size), slice(-size, None)):
            yield square[rows, columns]
    y, x = (round((length - size) / 2) for length in square.shape[:2])
    yield square[y : y + size, x : x + size]


class CropClassifier(Cropped):
    """A classifier."""

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """The probabilities (K,) of an image (h, w, 3) uint8 RGB."""
        name = "dense_logits" if self.test["protocol"] == "multi_scale" else "logits"
        found = [self.run("model", [name], images=as_input(view))[0]
                 for view, *_ in self.views(pixels)]  # fmt: skip
        expect_finite(*found)
        return np.mean([softmax(each[0]) for each in found], axis=0)


class CropLocalizer(Cropped):
    """The first stage of a localizer, for classes that are known."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.expect(("test.vote_iou", None))

    def __call__(self, pixels: np.ndarray, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """The best box (L, 4), in pixels of the image (h, w, 3) uint8 RGB, of each class, and its
        score (L,); raises ValueError for an unknown class, and where no box has an area."""
        if unknown := sorted(set(names) - set(self.classes)):
            raise ValueError(f"unknown classes {unknown}; known: {self.classes}")
        labels, found = np.array([self.classes.index(name) for name in names]), []
        for view, flipped, corner, scale in self.views(pixels):
            given = {"images": as_input(view), "labels": labels}
            scores, boxes, finite = self.run("model", None, **given)
            expect_finite(np.where(finite, 0, np.nan))
            boxes = boxes.astype(np.float64)
            if flipped:
                boxes[..., [0, 2]] = view.shape[1] - boxes[..., [2, 0]]
            boxes = (boxes + np.tile(corner, 2)) / np.tile(scale, 2)
            boxes = np.clip(boxes, 0, np.tile(pixels.shape[1::-1], 2)).astype(np.float32)
            usable = (boxes[..., 2:] > boxes[..., :2]).all(axis=-1)
            found.append((np.where(usable, scores, -1), boxes))
        scores, boxes = (np.concatenate(each, axis=1) for each in zip(*found, strict=True))
        best = scores.argmax(axis=1), np.arange(len(labels))
        if (scores[best[::-1]] < 0).any():
            raise ValueError("no box with an area")
        return boxes[best[::-1]], scores[best[::-1]]


TASKS = {"detection": Detector, "classification": CropClassifier, "localization": CropLocalizer}


def load(folder: str | Path) -> Any:
    """The model in a folder; raises OSError where a file is missing, and ValueError for graphs
    that onnxruntime cannot read and a task that needs more than its graph."""
    task = json.loads((Path(folder) / "meta.json").read_text(encoding="utf-8")).get("task")
    if task not in TASKS:
        raise ValueError(f"{folder}: {task} is not in runner.py, but in resdet")
    return TASKS[task](folder)


def found_in(model: Any, pixels: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """What is printed for an image."""
    if isinstance(model, CropClassifier):
        scores = model(pixels)
        best = np.argsort(-scores, kind="stable")[: args.top]
        rows = [{"class": model.classes[each], "score": float(scores[each])} for each in best]
        return {"classes": rows}
    if isinstance(model, CropLocalizer):
        names = args.classes or []
        boxes, scores = model(pixels, names)
    else:
        boxes, scores, labels = model(pixels)
        kept = scores >= args.conf
        names = [model.classes[label] for label in labels[kept]]
        boxes, scores = boxes[kept], scores[kept]
    return {
        "detections": [
            {"class": name, "score": float(score), "box": box.tolist()}
            for name, score, box in zip(names, scores, boxes, strict=True)
        ]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--conf", type=float, default=0.5, help="a detector's least score")
    parser.add_argument("--top", type=int, default=5, help="how many classes of a classifier")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="what a localizer looks for")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="its folder")
    args = parser.parse_args()
    try:
        model = load(args.model)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if isinstance(model, CropLocalizer) and not args.classes:
        parser.error("--classes: a localizer finds classes that are known")
    failed = 0
    for path in args.images:
        record: dict[str, Any] = {"image": str(path)}
        try:
            record |= found_in(model, read_image(path), args)
        except (OSError, ValueError, cv2.error) as error:
            record["error"], failed = str(error), failed + 1
        print(json.dumps(record, ensure_ascii=False))
    return 5 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""An exported detector without PyTorch: this file, numpy, OpenCV and onnxruntime.

python runner.py street.jpg other.jpg --conf 0.5

It prints one JSON object for each image. As a module: ``Detector(folder)(image)``. The file stands
beside ``model.onnx`` and ``meta.json`` and needs nothing else of resdet.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime


def read_image(path: Path) -> np.ndarray:
    """An image file as (h, w, 3) uint8 RGB, with its EXIF orientation applied; raises ValueError
    for what OpenCV cannot decode. Transparency is dropped, and 16 bits become 8."""
    data = np.frombuffer(path.read_bytes(), np.uint8)
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if pixels is None:
        raise ValueError(f"{path}: not an image that OpenCV reads")
    return np.ascontiguousarray(pixels[..., ::-1])


def resized_size(size: tuple[int, int], short_side: int, long_side_max: int) -> tuple[int, int]:
    """The (h, w) of the network's input for an image of ``size`` (h, w)."""
    factor = short_side / min(size)
    if factor * max(size) > long_side_max:
        factor = long_side_max / max(size)
    return max(1, int(size[0] * factor + 0.5)), max(1, int(size[1] * factor + 0.5))


def resize(pixels: np.ndarray, short_side: int, long_side_max: int) -> np.ndarray:
    """``pixels`` (h, w, 3) uint8 at `resized_size`."""
    size = pixels.shape[0], pixels.shape[1]
    new = resized_size(size, short_side, long_side_max)
    if new == size:
        return pixels
    shrinks = min(new[0] / size[0], new[1] / size[1]) < 0.5
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, (new[1], new[0]), interpolation=method)


class Detector:
    """The exported model in a folder."""

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        self.meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        if self.meta["task"] != "detection":
            raise ValueError(f"{folder}: an export of the task {self.meta['task']}")
        self.classes: list[str] = self.meta["classes"]
        self.session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def __call__(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Boxes (D, 4) in pixels of the image (h, w, 3) uint8 RGB, scores (D,) and labels (D,),
        best first. Raises ValueError where the network gives NaN or infinity."""
        height, width = pixels.shape[:2]
        use = self.meta["input"]
        small = resize(pixels, use["short_side"], use["long_side_max"])
        images = np.ascontiguousarray(small.transpose(2, 0, 1)[None])
        _, boxes, scores, labels, finite = self.session.run(None, {"images": images})
        if not finite:
            raise ValueError("the network's outputs are not finite")
        scale = small.shape[1] / width, small.shape[0] / height
        boxes = boxes / np.array([*scale, *scale], np.float32)
        limits = np.array([width, height, width, height], np.float32)
        return np.clip(boxes, 0, limits), scores, labels


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--conf", type=float, default=0.5, help="least score")
    parser.add_argument("--model", type=Path, default=Path(__file__).parent, help="its folder")
    args = parser.parse_args()
    detector = Detector(args.model)
    failed = 0
    for path in args.images:
        record: dict[str, Any] = {"image": str(path)}
        try:
            boxes, scores, labels = detector(read_image(path))
        except (OSError, ValueError) as error:
            record["error"], failed = str(error), failed + 1
        else:
            record["detections"] = [
                {"class": detector.classes[label], "score": float(score), "box": box.tolist()}
                for box, score, label in zip(boxes, scores, labels, strict=True)
                if score >= args.conf
            ]
        print(json.dumps(record, ensure_ascii=False))
    return 5 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

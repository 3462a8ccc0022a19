"""ultralytics' YOLO from scratch, for `small_data.py`, in an environment with ultralytics alone.

    python benchmarks/small_data_ultralytics.py DIR --model yolov8n --minutes 5 --size 320 --out DIR

DIR holds the data as `yolo` and `coco`. Its own trainer with its default settings, ``time`` in
place of epochs, batches of 16, no pretrained weights, and no validation but the last.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

#: Before the slow import, which is part of the minutes.
START = time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, required=True, help="ultralytics' imgsz")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from ultralytics import YOLO, settings

    settings.update({"sync": False})  # no usage data
    model = YOLO(f"{args.model}.yaml")
    spent = time.perf_counter() - START
    model.train(
        data=str(args.data / "yolo" / "data.yaml"),
        time=(args.minutes * 60 - spent) / 3600,
        epochs=10_000,
        imgsz=args.size,
        device="cpu",
        workers=0,
        seed=args.seed,
        pretrained=False,
        val=False,
        plots=False,
        project=str(args.out),
        name="run",
        exist_ok=True,
    )
    (args.out / "seconds.json").write_text(json.dumps(time.perf_counter() - START))
    best = YOLO(args.out / "run" / "weights" / "last.pt")
    (args.out / "found.json").write_text(json.dumps(detect(best, args)))


def detect(model, args: argparse.Namespace) -> list[dict[str, object]]:
    """COCO results; classes of both formats have one order."""
    content = json.loads(
        (args.data / "coco" / "annotations" / f"instances_{args.split}.json").read_text()
    )
    numbers = {each["name"]: each["id"] for each in content["categories"]}
    results = []
    for image in content["images"]:
        path = args.data / "coco" / args.split / image["file_name"]
        (found,) = model.predict(str(path), imgsz=args.size, conf=0.001, verbose=False)
        for box, score, label in zip(
            found.boxes.xyxy.tolist(),
            found.boxes.conf.tolist(),
            found.boxes.cls.tolist(),
            strict=True,
        ):
            x, y, right, bottom = box
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": numbers[found.names[int(label)]],
                    "bbox": [x, y, right - x, bottom - y],
                    "score": score,
                }
            )
    return results


if __name__ == "__main__":
    main()

"""ultralytics' own way of running a folder, for `folder_speed.py`, in an environment of its own."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="yolov8n")
    parser.add_argument("--size", type=int, default=640, help="ultralytics' imgsz")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from ultralytics import YOLO, settings

    settings.update({"sync": False})  # no usage data
    model = YOLO(f"{args.model}.yaml")
    args.out.mkdir()
    with (args.out / "found.jsonl").open("w") as out:
        for found in model.predict(
            str(args.folder), stream=True, imgsz=args.size, device="cpu", verbose=False
        ):
            boxes = found.boxes
            values = {
                "boxes": boxes.xyxy.tolist(),
                "scores": boxes.conf.tolist(),
                "labels": boxes.cls.tolist(),
            }
            out.write(json.dumps({"file": Path(found.path).name, **values}) + "\n")


if __name__ == "__main__":
    main()

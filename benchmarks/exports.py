"""Exports by annotation tools' own code, and what resdet reads from them.

    python benchmarks/exports.py make labelme DIR    # in an environment with that tool
    python benchmarks/exports.py read DIR            # in resdet's

The tools are datumaro, label-studio-sdk, supervision, labelme and fiftyone; each is installed in an
environment of its own, since their requirements exclude each other. ``make`` writes four images
with the same boxes in every format that the tool exports, ``read`` recognises each folder and
compares names and boxes. The exit code is 1 if one differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from PIL import Image

WIDTH, HEIGHT = 160, 120
CLASSES = ["cat", "dog"]
#: {image: [(class, x1, y1, x2, y2)]}; the last image has no objects.
TRUTH: dict[str, list[tuple[str, int, int, int, int]]] = {
    "a.jpg": [("cat", 8, 12, 40, 36), ("dog", 60, 20, 140, 100)],
    "b.jpg": [("dog", 0, 0, 160, 120)],
    "c.jpg": [("cat", 1, 1, 31, 21)],
    "d.jpg": [],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("make", "read"))
    parser.add_argument("words", nargs="+", metavar="[TOOL] DIR")
    args = parser.parse_args()
    if args.what == "read":
        sys.exit(read(Path(args.words[0])))
    tool, folder = args.words
    images = Path(folder) / "images"
    images.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(TRUTH):
        Image.new("RGB", (WIDTH, HEIGHT), (40 * number, 90, 9)).save(images / name)
    TOOLS[tool](images, Path(folder) / tool)
    (Path(folder) / tool / "version.txt").write_text(f"{tool} {version(tool)}\n")


# ---------------------------------------------------------------------------------- tools


def _labelme(images: Path, out: Path) -> None:
    from labelme._label_file import LabelFile

    folder = out / "labelme"
    folder.mkdir(parents=True)
    for name, objects in TRUTH.items():
        (folder / name).write_bytes((images / name).read_bytes())
        shapes = [
            {
                "label": label,
                "points": [[x1, y1], [x2, y2]],
                "group_id": None,
                "description": "",
                "shape_type": "rectangle",
                "flags": {},
                "mask": None,
            }
            for label, x1, y1, x2, y2 in objects
        ]
        LabelFile().save(
            filename=str(folder / f"{Path(name).stem}.json"),
            shapes=shapes,
            image_path=name,
            image_height=HEIGHT,
            image_width=WIDTH,
            other_data={},
            flags={},
        )


def _supervision(images: Path, out: Path) -> None:
    import numpy as np
    import supervision

    paths = [str(images / name) for name in TRUTH]
    found = {}
    for path, objects in zip(paths, TRUTH.values(), strict=True):
        boxes = np.array([box for _, *box in objects], np.float32).reshape(-1, 4)
        labels = np.array([CLASSES.index(label) for label, *_ in objects], int)
        found[path] = supervision.Detections(xyxy=boxes, class_id=labels)
    data = supervision.DetectionDataset(classes=CLASSES, images=paths, annotations=found)
    data.as_pascal_voc(str(out / "voc/images"), str(out / "voc/annotations"))
    data.as_coco(str(out / "coco/images"), str(out / "coco/instances.json"))
    data.as_yolo(str(out / "yolo/images"), str(out / "yolo/labels"), str(out / "yolo/data.yaml"))


def _datumaro(images: Path, out: Path) -> None:
    import datumaro as dm

    items = [
        dm.DatasetItem(
            id=Path(name).stem,
            subset="val" if name == "d.jpg" else "train",
            media=dm.Image.from_file(str(images / name)),
            annotations=[
                dm.Bbox(x1, y1, x2 - x1, y2 - y1, label=CLASSES.index(label), id=n, group=n)
                for n, (label, x1, y1, x2, y2) in enumerate(objects, 1)
            ],
        )
        for name, objects in TRUTH.items()
    ]
    data = dm.Dataset.from_iterable(items, categories=CLASSES)
    for kind in ("voc", "coco_instances", "yolo", "yolo_ultralytics", "cvat", "open_images"):
        data.export(str(out / kind), kind, save_media=True)


def _fiftyone(images: Path, out: Path) -> None:
    import fiftyone as fo

    data = fo.Dataset()
    for name, objects in TRUTH.items():
        boxes = [
            fo.Detection(
                label=label,
                bounding_box=[x1 / WIDTH, y1 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT],
            )
            for label, x1, y1, x2, y2 in objects
        ]
        sample = fo.Sample(filepath=str(images / name))
        sample["ground_truth"] = fo.Detections(detections=boxes)
        data.add_sample(sample)
    kinds = {
        "voc": fo.types.VOCDetectionDataset,
        "coco": fo.types.COCODetectionDataset,
        "yolo4": fo.types.YOLOv4Dataset,
        "yolo5": fo.types.YOLOv5Dataset,
        "cvat": fo.types.CVATImageDataset,
    }
    for kind, type_ in kinds.items():
        data.export(export_dir=str(out / kind), dataset_type=type_, label_field="ground_truth")


def _label_studio(images: Path, out: Path) -> None:
    from label_studio_sdk.converter import Converter

    tasks = []
    for number, (name, objects) in enumerate(TRUTH.items(), 1):
        results = [
            {
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": WIDTH,
                "original_height": HEIGHT,
                "value": {
                    "x": 100 * x1 / WIDTH,
                    "y": 100 * y1 / HEIGHT,
                    "width": 100 * (x2 - x1) / WIDTH,
                    "height": 100 * (y2 - y1) / HEIGHT,
                    "rotation": 0,
                    "rectanglelabels": [label],
                },
            }
            for label, x1, y1, x2, y2 in objects
        ]
        image = f"/data/upload/1/{name}"
        annotation = {"id": number, "result": results}
        tasks.append({"id": number, "data": {"image": image}, "annotations": [annotation]})
    source = out / "tasks.json"
    out.mkdir(parents=True)
    source.write_text(json.dumps(tasks))
    labels = "".join(f'<Label value="{name}"/>' for name in CLASSES)
    config = (
        '<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">'
        f"{labels}</RectangleLabels></View>"
    )
    converter = Converter(config, str(out), download_resources=False)
    converter.convert_to_coco(str(source), str(out / "coco"), is_dir=False)
    converter.convert_to_yolo(str(source), str(out / "yolo"), is_dir=False)
    converter.convert_to_voc(str(source), str(out / "voc"), is_dir=False)
    source.unlink()
    for kind in ("coco", "yolo", "voc"):  # the server downloads them
        for name in TRUTH:
            target = out / kind / "images" / name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes((images / name).read_bytes())


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "labelme": _labelme,
    "supervision": _supervision,
    "datumaro": _datumaro,
    "fiftyone": _fiftyone,
    "label-studio-sdk": _label_studio,
}


# ---------------------------------------------------------------------------------- reading


def read(folder: Path) -> int:
    """Print what was read from each export; the exit code."""
    wrong = 0
    for path in sorted(folder.glob("*/version.txt")):
        print(path.read_text().strip())
        for export in sorted(each for each in path.parent.iterdir() if each.is_dir()):
            said = _compare(export)
            wrong += not said.endswith("as put in")
            print(f"  {export.name}: {said}")
    return min(wrong, 1)


def _compare(export: Path) -> str:
    """What was read from a folder, compared with `TRUTH`."""
    from resdet.datasets.formats import inspect, recognise
    from resdet.detection.errors import ResdetError

    try:
        found: dict[str, Any] = {}
        recognition = recognise(export)
        sources = recognition.format.splits(export)
        kinds = set()
        for source in sources.values():
            if "coordinates" in type(source).model_fields and _zero_based(export):
                source = source.model_copy(update={"coordinates": "zero_based"})
            images, findings = inspect(source)
            kinds |= {each.kind for each in findings if each.severity != "note"}
            found |= {
                image.path.stem: sorted(
                    (obj.name, *(round(side) for side in obj.box)) for obj in image.objects
                )
                for image in images
            }
    except ResdetError as error:
        return f"not read: {error}"
    truth = {Path(name).stem: sorted(objects) for name, objects in TRUTH.items() if objects}
    with_objects = {name: objects for name, objects in found.items() if objects}
    what = f"{recognition.format.name}, {len(found)} images, {', '.join(sorted(kinds)) or 'clean'}"
    return f"{what}: {'as put in' if with_objects == truth else f'differs: {found}'}"


def _zero_based(export: Path) -> bool:
    """Whether the tool writes VOC with 0-based coordinates, as `docs/data.md` says."""
    return export.parent.name in ("datumaro", "label-studio-sdk", "fiftyone")


if __name__ == "__main__":
    main()

"""Time of the VOC metric on a data set of the size of VOC 2007 test.

    OMP_NUM_THREADS=1 python benchmarks/voc_metric.py [--images 4952] [--detections 250000]

The detections are in memory, one `Detections` per image. The limit is 2 s on one core.
"""

from __future__ import annotations

import time
from pathlib import Path

import torch
from measuring import make_parser, write_json
from resdet.detection.evaluation.detection import evaluate
from resdet.detection.structures import Annotation, Detections, Record

CLASSES = 20
OBJECTS_PER_IMAGE = 3  # VOC 2007 test: 14,976 objects in 4,952 images


def random_boxes(count: int, generator: torch.Generator) -> torch.Tensor:
    """(count, 4) boxes in an image of 500 x 375 pixels."""
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([350.0, 250.0])
    side = torch.rand(count, 2, generator=generator) * 124 + 1
    return torch.cat([corner, corner + side], dim=1)


def random_record(number: int, generator: torch.Generator) -> Record:
    count = int(torch.randint(1, 2 * OBJECTS_PER_IMAGE, (1,), generator=generator))
    annotation = Annotation(
        boxes=random_boxes(count, generator),
        labels=torch.randint(CLASSES, (count,), generator=generator),
        ignore=torch.rand(count, generator=generator) < 0.2,
    )
    return Record(f"{number:06d}", Path(f"{number:06d}.jpg"), (375, 500), annotation)


def random_detections(record: Record, count: int, generator: torch.Generator) -> Detections:
    """Perturbed copies of as many objects as ``count`` allows, and random boxes."""
    copies = min(count, len(record.annotation))
    boxes = random_boxes(count, generator)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    noise = torch.randn(copies, 4, generator=generator)
    boxes[:copies] = record.annotation.boxes[:copies] + noise.clamp(-0.4, 0.4)
    labels[:copies] = record.annotation.labels[:copies]
    scores = torch.rand(count, generator=generator)
    scores[copies:] *= 0.5
    return Detections(boxes, scores, labels)


def main() -> None:
    args = make_parser(__doc__, images=4952, detections=250_000, repeats=5).parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    records = [random_record(number, generator) for number in range(args.images)]
    detections = {
        record.image_id: random_detections(
            record,
            args.detections * (i + 1) // args.images - args.detections * i // args.images,
            generator,
        )
        for i, record in enumerate(records)
    }
    names = [f"class {label}" for label in range(CLASSES)]
    total = sum(len(found) for found in detections.values())
    print(f"{len(records)} images, {total} detections, {CLASSES} classes")
    times = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        result = evaluate(detections, records, names, coco=None)
        times.append(time.perf_counter() - start)
        print(f"{times[-1]:.3f} s   voc_ap50 {result.metrics['voc_ap50']:.4f}")
    write_json({"seconds": times}, args)


if __name__ == "__main__":
    main()

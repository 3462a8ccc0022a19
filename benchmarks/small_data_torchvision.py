"""torchvision's Faster R-CNN with a ResNet-18 FPN, from scratch, for `small_data.py`.

    python benchmarks/small_data_torchvision.py COCO_FOLDER --minutes 5 --size 320 --out DIR

Its own pieces and their defaults; BN with statistics, since it starts from random weights; batches
of two, horizontal flips, SGD with the learning rate of our configs and a cosine of the elapsed
time. The detections are written as COCO results.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

#: Before the slow imports, which are part of the minutes.
START = time.perf_counter()

import torch  # noqa: E402
from torchvision.io import ImageReadMode, decode_image  # noqa: E402
from torchvision.models.detection import FasterRCNN  # noqa: E402
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--split", default="val")
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, required=True, help="shorter side")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    train, classes = read(args.data, "train")
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
    )
    longest = 2 * args.size
    model = FasterRCNN(backbone, classes + 1, min_size=args.size, max_size=longest)
    fit(model, train, args)
    (args.out / "seconds.json").write_text(json.dumps(time.perf_counter() - START))
    held_out, _ = read(args.data, args.split)
    (args.out / "found.json").write_text(json.dumps(detect(model, held_out)))


def read(root: Path, split: str) -> tuple[list[dict[str, Any]], int]:
    """Images with id, path, boxes and labels from 1, and the number of classes."""
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    objects = defaultdict(list)
    for each in content["annotations"]:
        objects[each["image_id"]].append(each)
    images = []
    for image in content["images"]:
        boxes = torch.tensor([o["bbox"] for o in objects[image["id"]]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([o["category_id"] for o in objects[image["id"]]], dtype=torch.long)
        right = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # torchvision refuses others
        images.append(
            {
                "id": image["id"],
                "path": root / split / image["file_name"],
                "boxes": boxes[right],
                "labels": labels[right],
            }
        )
    return images, len(content["categories"])


def pixels(path: Path) -> torch.Tensor:
    return decode_image(str(path), ImageReadMode.RGB).float() / 255


def fit(model: FasterRCNN, images: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Batches of two until the minutes are over."""
    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=args.lr, momentum=0.9, weight_decay=1e-4)
    step, order = 0, []
    while (share := (time.perf_counter() - START) / (60 * args.minutes)) < 1:
        if len(order) < 2:
            order = torch.randperm(len(images)).tolist()
        batch = [flipped(images[order.pop()]) for _ in range(2)]
        rate = args.lr * min(1, (step + 1) / 100) * (1 + math.cos(math.pi * share)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses = model([image for image, _ in batch], [target for _, target in batch])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 10)
        optimizer.step()
        step += 1
    print(f"{step} steps")


def flipped(image: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Its pixels and target, every second time from right to left."""
    values, boxes = pixels(image["path"]), image["boxes"]
    if torch.rand(()) < 0.5:
        values = values.flip(-1)
        boxes = boxes.clone()
        boxes[:, [0, 2]] = values.shape[-1] - boxes[:, [2, 0]]
    return values, {"boxes": boxes, "labels": image["labels"]}


@torch.no_grad()
def detect(model: FasterRCNN, images: list[dict[str, Any]]) -> list[dict[str, Any]]:
    model.eval()
    results = []
    for image in images:
        (found,) = model([pixels(image["path"])])
        for box, score, label in zip(
            found["boxes"].tolist(),
            found["scores"].tolist(),
            found["labels"].tolist(),
            strict=True,
        ):
            x, y, right, bottom = box
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": label,
                    "bbox": [x, y, right - x, bottom - y],
                    "score": score,
                }
            )
    return results


if __name__ == "__main__":
    main()

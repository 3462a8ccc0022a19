"""A plain loop around torchvision's detector over a folder, for `folder_speed.py`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from resdet.detection.config.files import config_from_dict
from resdet.detection.tasks.detector_network import build_detector
from torchvision.io import ImageReadMode, decode_image
from torchvision_c4 import assemble_peer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    kept = torch.load(args.weights, weights_only=True)
    config = config_from_dict(kept["config"])
    ours = build_detector(config, len(kept["classes"]))
    ours.load_state_dict(kept["model"])
    size = config.image.short_side_test, config.image.long_side_max
    model = assemble_peer(ours, config, size).eval()
    args.out.mkdir()
    with (args.out / "found.jsonl").open("w") as out, torch.no_grad():
        for path in sorted(args.folder.glob("*.jpg")):
            image = decode_image(str(path), ImageReadMode.RGB).float() / 255
            (found,) = model([image])
            values = {name: tensor.tolist() for name, tensor in found.items()}
            out.write(json.dumps({"file": path.name, **values}) + "\n")


if __name__ == "__main__":
    main()

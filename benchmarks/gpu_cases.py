"""Whole cases of the GPU report: detectron2's numbers, and training by the command."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from golden_network import (
    BOUNDS,
    IMAGES,
    LOSSES,
    make_batch,
    make_pipeline,
    partners,
    read_arrays,
    read_network,
    read_settings,
)
from gpu_rows import Row, Setup
from resdet.datasets.acquire.synthetic import make_scenes
from resdet.detection.config.base import TrainConfig
from resdet.detection.engine.gpu_settings import gpu_settings
from resdet.detection.structures import Detections
from resdet.tools.cli import main as resdet
from torch import Tensor


@contextmanager
def full_precision() -> Iterator[None]:
    """float32 products in float32: TF32, cuDNN's default, rounds to 10 bits."""
    with gpu_settings(TrainConfig(tf32="none"), torch.device("cuda")):
        yield


def relative(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest value; NaN where one is."""
    found, expected = found.double().cpu(), expected.double().cpu()
    return float((found - expected).abs().max() / expected.abs().max())


def golden(setup: Setup) -> Iterator[Row]:
    """Features, proposals, detections and losses of detectron2, in float32.

    The limits are three times those on a CPU: other algorithms add in another order.
    """
    if setup.golden is None:
        yield Row("golden", {}, note="no --golden folder")
        return
    arrays, settings = read_arrays(setup.golden), read_settings(setup.golden)
    model = read_network(setup.golden).to(setup.device)
    batch, bounds = make_batch(arrays).to(setup.device), BOUNDS["folded"]
    with full_precision(), torch.no_grad():
        features = model.extract(batch.images, batch.sizes)
        proposals = model.propose(features, batch.sizes)
        found = make_pipeline(model, settings).predict(batch)
        losses = model(batch)
    expected = torch.from_numpy(arrays["features"])
    error = float((features.cpu() - expected).abs().max())
    yield Row("golden features", {"difference": error}, {"difference": 3 * bounds.features})
    for i in IMAGES:
        theirs = torch.from_numpy(arrays[f"proposals{i}"])
        pairs = partners(proposals[i].cpu(), theirs, within=3 * bounds.pixels)
        lost = {"without a partner": len(theirs) - len(pairs)}
        yield Row(f"golden proposals {i}", lost, {"without a partner": 10})
        yield _golden_detections(found[i].to("cpu"), arrays, i, 3 * bounds.pixels)
    worst = max(
        abs(float(losses[ours]) / float(arrays[theirs]) - 1) for theirs, ours in LOSSES.items()
    )
    yield Row("golden losses", {"relative": worst}, {"relative": 6e-4})


def _golden_detections(found: Detections, arrays: dict, i: int, within: float) -> Row:
    boxes, labels = (torch.from_numpy(arrays[f"{name}{i}"]) for name in ("boxes", "labels"))
    real = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)  # detectron2 keeps boxes without height
    apart = 1e4 * torch.arange(5)  # boxes of different labels are never near
    pairs = partners(
        boxes[real] + apart[labels[real], None],
        found.boxes + apart[found.labels, None],
        within=2 * within,
    )
    rows, columns = (torch.tensor(side) for side in zip(*pairs, strict=True))
    scores = torch.from_numpy(arrays[f"scores{i}"])[real][rows]
    values = {
        "without a partner": float(real.sum()) - len(pairs),
        "score": float((found.scores[columns] - scores).abs().max()),
    }
    return Row(f"golden detections {i}", values, {"without a partner": 6, "score": 6e-3})


SCENES = """
data:
  train: [{format: voc, root: scenes, split: train}]
  val: [{format: voc, root: scenes, split: val}]
  classes: [circle, cross, ring, square, star, triangle]
  workers: 0
image: {short_side_train: [96], short_side_test: 96, long_side_max: 128}
backbone: {depth: DEPTH, width: 16, norm: group, frozen_stages: 1}
rpn: {channels: 32, anchor_sizes: [16, 32, 64], pre_nms_train: 300, post_nms_train: 100}
roi: {batch_per_image: 64}
train:
  {batch_size: 2, base_batch_size: 2, warmup_iterations: 2, eval_every: 100, checkpoint_every: 1,
   val_loss_batches: 0, log_every: 1, deterministic: true}
"""


def resume(setup: Setup) -> Iterator[Row]:
    """A run that is resumed, and one that is not, by the command itself: every tensor of the
    checkpoint, bit for bit."""
    make_scenes(setup.scratch / "scenes", train=6, val=2, size=(96, 128))
    config = setup.scratch / "scenes.yaml"
    config.write_text(SCENES.replace("DEPTH", str(setup.pick(50, 18))))
    steps = setup.pick(6, 2)
    whole, half = f"train.iterations={steps}", f"train.iterations={steps // 2}"
    for precision in ("fp32", "bf16"):
        folders = [setup.scratch / f"{precision} {name}" for name in ("whole", "resumed")]
        start = ["--cfg", config, f"train.precision={precision}"]
        _train(setup, *start, "--out", folders[0], whole)
        _train(setup, *start, "--out", folders[1], half)
        _train(setup, "--resume", folders[1], whole)
        one, other = (_tensors(folder / "weights" / "last.pt") for folder in folders)
        different = sum(not torch.equal(other[name], one[name]) for name in one)
        values = {"tensors that differ": different, "tensors": len(one)}
        yield Row(f"resume, {precision}", values, {"tensors that differ": 0})
    loose = ["--cfg", config, "train.deterministic=false", whole]
    folders = [setup.scratch / f"loose {number}" for number in (1, 2)]
    for folder in folders:
        _train(setup, *loose, "--out", folder)
    one, other = (_tensors(folder / "weights" / "last.pt") for folder in folders)
    largest = max(relative(one[name], other[name]) for name in one if other[name].abs().max() > 0)
    yield Row("same run twice", {"largest difference": largest}, note="not deterministic")


def _train(setup: Setup, *words: object) -> None:
    out, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        code = resdet(["train-det", "--device", setup.device, *map(str, words)])
    if code != 0:
        raise RuntimeError(f"train-det ended with {code}: {errors.getvalue()}")


def _tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a checkpoint, also those of the optimizer, by their places in it."""
    found: dict[str, Tensor] = {}

    def collect(tree: object, where: str) -> None:
        if isinstance(tree, Tensor):
            found[where] = tree
        for key, value in tree.items() if isinstance(tree, dict) else ():
            collect(value, f"{where}.{key}")
        for number, value in enumerate(tree) if isinstance(tree, list) else ():
            collect(value, f"{where}.{number}")

    collect(torch.load(path, map_location="cpu", weights_only=True), "")
    return found

"""Fuzzed weights: odd pickles in archives with sound checksums, and states and headers with odd
values, which are loaded, used for a prediction, resumed and converted."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import resdet
import torch
from resdet.backbones.weights.convert import convert
from resdet.backbones.weights.layouts import recognise
from resdet.backbones.weights.load import import_weights, write_converted
from resdet.backbones.weights.reading import read_state
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.engine.optim import MovingAverage
from resdet.detection.engine.state import TrainingState
from resdet.detection.tasks.checkpoints import read_checkpoint
from resdet.detection.tasks.registry import TASKS
from resdet.tests.fuzz.structures import spoil
from torch import Tensor, nn
from torchvision.models import resnet18

OLD = Path(__file__).parent.parent / "detection" / "tasks" / "old_checkpoints"


def saved(content: object, *, zipped: bool = True) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=zipped)
    return stream.getvalue()


def with_pickle(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """The archive with another pickle and the checksum of that."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w") as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(
                info.filename, change(content) if info.filename.endswith("data.pkl") else content
            )
    return stream.getvalue()


def spoil_tensors(tree: Any, random: Random, chance: float) -> Any:
    """A copy of a tree in which some tensors have another kind, shape or odd values."""
    if isinstance(tree, dict):
        return {key: spoil_tensors(value, random, chance) for key, value in tree.items()}
    if isinstance(tree, list):
        return [spoil_tensors(value, random, chance) for value in tree]
    if not isinstance(tree, Tensor) or random.random() > chance:
        return tree
    return random.choice(ODD_TENSORS)(tree)


ODD_TENSORS: tuple[Callable[[Tensor], Any], ...] = (
    lambda tensor: torch.empty_like(tensor, device="meta"),
    lambda tensor: tensor.to_sparse(),
    lambda tensor: torch.full_like(tensor, 10 ** random_power(tensor)),
    lambda tensor: tensor.double() / 0,
    lambda tensor: -tensor,
    lambda tensor: tensor.to(torch.int32),
    lambda tensor: tensor.to(torch.float16),
    lambda tensor: tensor.to(torch.complex64),
    lambda tensor: tensor.flatten(),
    lambda tensor: tensor[:0] if tensor.dim() else tensor,
    lambda tensor: tensor[None],
    lambda tensor: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape),
    lambda tensor: str(tensor.shape),
    lambda tensor: nn.Parameter(tensor) if tensor.is_floating_point() else tensor.bool(),
)


def random_power(tensor: Tensor) -> int:
    return tensor.numel() % 19


def spoiled(random: Random, state: Any) -> Any:
    return spoil_tensors(spoil(state, random, chance=0.004), random, random.choice((0, 0.003)))


# -- pickles -------------------------------------------------------------------------------------


@cache
def small_archive() -> bytes:
    shared = torch.arange(6.0)
    tensors = {"a": shared.reshape(2, 3), "b": shared[1:4], "c": torch.ones(2).half()}
    return saved({"model": tensors, "list": [1, (2.5, None), "text"], "n": {1: True}})


def odd_archive(random: Random, mutate: Callable[[bytes, bytes, Random], bytes]) -> bytes:
    return with_pickle(small_archive(), lambda data: mutate(data, data, random))


def read_any_state(path: Path) -> None:
    read_state(path)


# -- checkpoints ---------------------------------------------------------------------------------


@cache
def old_states() -> tuple[Any, ...]:
    return tuple(load_checkpoint(OLD / f"{name}.pt") for name in ("detector", "classifier"))


def odd_checkpoint(random: Random) -> bytes:
    return saved(spoiled(random, random.choice(old_states())))


def load_and_predict(path: Path) -> None:
    """A detector's boxes in an image, a classifier's pipeline."""
    checkpoint = read_checkpoint(path, *TASKS.values())
    if checkpoint.task.name != "detection":
        checkpoint.task.pipeline([checkpoint.load()])
        return
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    (found,) = resdet.load(path, "cpu").predict([noise])
    assert found.boxes.isfinite().all() and found.scores.isfinite().all()


@cache
def resumable() -> dict[str, Any]:
    state = _training()
    state.model(torch.ones(2, 3, 6, 6)).sum().backward()
    state.optimizer.step()
    return {"config": {}, "classes": ["a"], "format_version": 1, **state.to_dict()}


def _training() -> TrainingState:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu")
    return TrainingState(model, optimizer, scaler, MovingAverage(model, 0.9))


def odd_resumable(random: Random) -> bytes:
    chance = random.choice((0.0, 0.05))
    return saved(spoil_tensors(spoil(resumable(), random, chance=0.01), random, chance))


def resume(path: Path) -> None:
    """Resume and take a step, as training does."""
    state = _training()
    state.load_dict(load_checkpoint(path), str(path))
    assert state.step >= 0
    loss = state.model(torch.ones(2, 3, 6, 6)).sum()
    state.scaler.scale(loss).backward()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average:
        state.average.update(state.model, state.step)
    state.meter.add({"loss": loss.detach()}, images=1)
    state.to_dict()


# -- conversion ----------------------------------------------------------------------------------


@cache
def torchvision_state() -> dict[str, Tensor]:
    """A ResNet-18 of one channel in each layer under torchvision's names."""
    state = resnet18(num_classes=3).state_dict()
    cut = {}
    for name, tensor in state.items():
        sides = tuple(slice(0, 1 if side > 7 else side) for side in tensor.shape)
        cut[name] = tensor[sides].clone() if tensor.dim() else tensor
    return cut


def odd_weights(random: Random) -> bytes:
    chance = random.choice((0.0, 0.01))
    tensors = spoil_tensors(spoil(torchvision_state(), random, chance=0.004), random, chance)
    return saved({"state_dict": tensors} if random.random() < 0.5 else tensors)


def import_any(path: Path) -> None:
    converted = import_weights(path)
    assert converted.class_count >= 0 and converted.network


@cache
def converted_file() -> bytes:
    tensors = torchvision_state()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "c.safetensors"
        write_converted(convert(tensors, recognise(tensors)), path)
        return path.read_bytes()


def odd_header(random: Random, data: bytes) -> bytes:
    """The safetensors file with odd values in its metadata, sizes adjusted."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    metadata = header["__metadata__"]
    name = random.choice(sorted(metadata))
    try:
        value = spoil(json.loads(metadata[name]), random, chance=0.3)
        metadata[name] = json.dumps(value) if random.random() < 0.9 else str(value)
    except (ValueError, UnicodeEncodeError):
        metadata.pop(name)
    if random.random() < 0.2:
        header.pop(random.choice(sorted(header)))
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + data[8 + length :]

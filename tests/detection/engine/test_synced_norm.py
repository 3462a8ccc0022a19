"""Batch norm over several processes equals batch norm over all their images at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from resdet.detection.engine.distributed import Group
from resdet.detection.engine.synced_norm import synchronise_norms

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: Each process has a half of unequal size; the sum of all losses is compared with one process's.
WORKER = """
import json, sys
import torch
from torch import nn
from resdet.detection.engine.distributed import process_group
from resdet.detection.engine.synced_norm import CpuSyncedNorm, synchronise_norms

torch.manual_seed(0)
images = torch.randn(7, 5, 4, 3, dtype=torch.float64) * 3 + 100
wanted = torch.randn(7, 5, 4, 3, dtype=torch.float64)

def passed(net, part):
    inputs = images[part].clone().requires_grad_()
    loss = ((net(inputs) - wanted[part]) ** 3).sum()
    loss.backward()
    return inputs.grad

def make():
    torch.manual_seed(1)
    convs = nn.Conv2d(5, 6, 1, bias=False), nn.Conv2d(6, 5, 1)
    return nn.Sequential(convs[0], nn.BatchNorm2d(6), nn.ReLU(), convs[1]).double()

with process_group("cpu") as group:
    alone, net = make(), make()
    names = list(net.state_dict())
    synchronise_norms(net, group)
    assert isinstance(net[1], CpuSyncedNorm) and list(net.state_dict()) == names
    part = slice(0, 2) if group.is_main else slice(2, 7)
    whole, mine = passed(alone, slice(0, 7)), passed(net, part)
    for weights in net.parameters():
        weights.grad = group.all_reduce_mean(weights.grad) * group.world
    pairs = [(mine, whole[part]), *zip(net.state_dict().values(), alone.state_dict().values())]
    pairs += [(a.grad, b.grad) for a, b in zip(net.parameters(), alone.parameters())]
    pairs += [(net.eval()(images), alone.eval()(images))]  # with the statistics of the step
    apart = max(((a - b).abs().max() / b.abs().max().clamp(min=1e-9)).item() for a, b in pairs)
    open(f"{sys.argv[1]}/{group.rank}", "w").write(json.dumps([apart, len(pairs)]))
"""


def test_two_processes_equal_one_in_float64(resdet: Command, tmp_path: Path) -> None:
    done = resdet.torchrun("python", "-c", WORKER, tmp_path)
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        apart, compared = json.loads((tmp_path / str(rank)).read_text())
        assert compared == 15
        assert apart < 1e-10


def test_alone_nothing_changes() -> None:
    net = torch.nn.Sequential(torch.nn.BatchNorm2d(3))
    synchronise_norms(net, Group(0, 1, torch.device("cpu")))
    assert type(net[0]) is torch.nn.BatchNorm2d

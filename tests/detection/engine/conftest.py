"""A detector trained for two steps by one process, and the comparison of others with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from resdet.detection.engine.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from resdet.tests.conftest import Command

#: Group norm: batch norm's statistics are of each process's own images. Two steps: later, the
#: last bits of a sum decide which of two near proposals is sampled, and runs part for good.
SETTINGS = (
    "backbone.norm=group",
    "train.batch_size=4",
    "train.iterations=2",
    "train.warmup_iterations=0",
    "train.ema_decay=0.9",
)


def expect_close(one: Path, other: Path) -> None:
    first, second = (load_checkpoint(run / "weights" / "last.pt") for run in (one, other))
    for part in ("model", "average"):
        for name, tensor in first[part].items():
            torch.testing.assert_close(
                second[part][name], tensor, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.fixture(scope="session")
def single(resdet: Command, tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a single process."""
    out = tmp_path_factory.mktemp("single") / "run"
    done = resdet("train-det", "--cfg", tiny_config, "--out", out, *SETTINGS)
    assert done.code == 0, done.err
    return out

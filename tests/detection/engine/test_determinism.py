"""Deterministic training: what it sets, and for how long."""

from __future__ import annotations

import os

import pytest
import torch
from resdet.detection.engine.determinism import deterministic


def state() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.benchmark,
    )


def test_on_a_gpu_within_the_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "restored after the test")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = state()
    with pytest.raises(KeyError), deterministic(True, torch.device("cuda")):
        assert state() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise KeyError
    assert state() == before


@pytest.mark.parametrize(("enabled", "device"), [(False, "cuda"), (True, "cpu")])
def test_otherwise_nothing_is_set(enabled: bool, device: str) -> None:
    before = state()
    with deterministic(enabled, torch.device(device)):
        assert state() == before

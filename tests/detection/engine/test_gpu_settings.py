"""What a GPU computes with in training: the flags that are set, and for how long."""

from __future__ import annotations

import os

import pytest
import torch
from resdet.detection.config.base import TrainConfig
from resdet.detection.engine.gpu_settings import describe_precision, gpu_settings

GPU = torch.device("cuda")


def flags() -> dict[str, bool]:
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "tuned": torch.backends.cudnn.benchmark,
        "convolutions": torch.backends.cudnn.allow_tf32,
        "products": torch.backends.cuda.matmul.allow_tf32,
    }


#: PyTorch's own.
USUAL = {
    "deterministic": False,
    "warn_only": False,
    "tuned": False,
    "convolutions": True,
    "products": False,
}


def test_deterministic_on_a_gpu_within_the_context_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "restored after the test")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    before = flags()
    settings = TrainConfig(deterministic=True)
    with pytest.raises(KeyError), gpu_settings(settings, GPU, fixed_size=True):
        assert flags() == {**USUAL, "deterministic": True, "warn_only": True}
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        raise KeyError
    assert flags() == before


@pytest.mark.parametrize("fixed", [False, True])
def test_algorithms_are_measured_for_images_of_one_size(fixed: bool) -> None:
    before = flags()
    with gpu_settings(TrainConfig(), GPU, fixed_size=fixed):
        assert flags() == {**USUAL, "tuned": fixed}
    assert flags() == before


@pytest.mark.parametrize(
    ("tf32", "convolutions", "products", "words"),
    [
        ("none", False, False, "fp32 without TF32"),
        ("convolutions", True, False, "fp32, convolutions in TF32"),
        ("all", True, True, "fp32, convolutions and matrix products in TF32"),
    ],
)
def test_tf32(tf32: str, convolutions: bool, products: bool, words: str) -> None:
    settings = TrainConfig.model_validate({"tf32": tf32})
    before = flags()
    with gpu_settings(settings, GPU):
        assert flags() == {**USUAL, "convolutions": convolutions, "products": products}
    assert flags() == before
    assert describe_precision(settings, GPU) == words
    assert describe_precision(settings, torch.device("cpu")) == "fp32"
    half = settings.model_copy(update={"precision": "bf16"})
    assert describe_precision(half, GPU) == "bf16"


def test_on_a_cpu_nothing_is_set() -> None:
    before = flags()
    settings = TrainConfig.model_validate({"tf32": "all", "deterministic": True})
    with gpu_settings(settings, torch.device("cpu"), fixed_size=True):
        assert flags() == before

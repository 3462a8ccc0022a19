"""``train.batch_size: auto`` through the commands: refused on a CPU, or with a simulated GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from resdet.detection.config.detector import DetectorConfig
from resdet.detection.config.files import config_from_dict, dump_config, override
from resdet.detection.errors import ConfigError
from resdet.detection.tasks import batch_size
from resdet.detection.tasks.checkpoints import read_checkpoint
from resdet.detection.tasks.registry import TASKS
from resdet.tools.cli import main
from resdet.tools.resumed_config import config_of_run


def test_the_word_in_a_config() -> None:
    config = override(DetectorConfig(), ["train.batch_size=auto"])
    assert batch_size.is_auto(config) and "  batch_size: auto\n" in dump_config(config)
    assert config_from_dict(config.model_dump(mode="json")) == config
    for value in ("0", "-1", "1e6", "many", "'16'"):
        with pytest.raises(ConfigError, match=r"train\.batch_size"):
            override(DetectorConfig(), [f"train.batch_size={value}"])


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_a_cpu_is_refused(
    words: list[str], tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ["train-det", "--cfg", str(tiny_config), "--out", str(out), "--device", "cpu"]
    assert main([*command, "train.batch_size=auto", *words]) == 2
    assert capsys.readouterr().err == (
        "error: train.batch_size=auto measures what fits the memory of a GPU; on cpu give a "
        "number\n"
    )
    assert not out.exists() or not list(out.iterdir())


def test_commands_that_look_for_no_number(
    tiny_config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["find-lr", "--cfg", str(tiny_config), "train.batch_size=auto"]) == 2
    assert "auto is for the training commands; give a number" in capsys.readouterr().err


def test_a_run_has_the_number_that_was_found(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The memory of this GPU holds five images of the largest size, 96x128."""

    def fits(state: Any, batch: Any, settings: Any, group: Any) -> bool:
        assert batch.images.shape[2:] == (96, 128)
        for parameter in state.model.parameters():
            parameter.data.add_(1.0)  # undone after the search
        return len(batch) <= 5

    monkeypatch.setattr(batch_size, "step_fits", fits)
    monkeypatch.setattr(batch_size, "expect_a_gpu", lambda task, group: None)
    words = ["train-det", "--cfg", str(tiny_config), "train.epochs=0.5", "data.val=[]"]
    found, given = tmp_path / "found", tmp_path / "given"
    assert main([*words, "--out", str(found), "train.batch_size=auto", "--debug"]) == 0
    said = capsys.readouterr().out
    assert "train.batch_size=auto: 5 images fit 90% of the memory" in said
    assert "steps: 2, 0.5 epochs of 3" in said and "0.02 x batch 5 / 2" in said
    assert "  batch_size: 5\n" in (found / "config.yaml").read_text()
    assert main([*words, "--out", str(given), "train.batch_size=5", "--debug"]) == 0
    weights = [torch.load(run / "weights" / "last.pt")["model"] for run in (found, given)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_the_same_command_resumes_with_the_number_that_was_found(tiny_run: Path) -> None:
    checkpoint = read_checkpoint(tiny_run / "weights" / "last.pt", *TASKS.values())
    assert config_of_run(checkpoint, ["train.batch_size=auto"]) == checkpoint.config
    with pytest.raises(ConfigError, match=r"cannot change train\.batch_size=3 \(was 2\)"):
        config_of_run(checkpoint, ["train.batch_size=3"])


def test_a_memory_that_holds_nothing(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(batch_size, "step_fits", lambda *step: False)
    monkeypatch.setattr(batch_size, "expect_a_gpu", lambda task, group: None)
    words = ["train-det", "--cfg", str(tiny_config), "--out", str(tmp_path / "run")]
    assert main([*words, "train.batch_size=auto", "train.accumulate=3"]) == 2
    assert "not even 3 image(s) fit the memory of the GPU" in capsys.readouterr().err

"""Training runs: when one ends, what it keeps, and which failures do not stop it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from resdet.detection.config.base import TrainConfig
from resdet.detection.config.files import load_config
from resdet.detection.engine.checkpoint import load_checkpoint
from resdet.detection.engine.log import RunLog
from resdet.detection.engine.optim import scaled_lr
from resdet.detection.engine.signals import StopRequest
from resdet.detection.engine.state import Outputs, TrainingState
from resdet.detection.engine.train import train
from resdet.detection.errors import ConfigError, DataError, WeightsError
from resdet.detection.structures import Annotation, Batch, Geometry, Sample
from resdet.detection.tasks.base import ALONE
from resdet.detection.tasks.checkpoints import read_checkpoint
from resdet.detection.tasks.detector import DETECTION
from resdet.detection.tasks.start import FRESH, Start
from resdet.detection.tasks.training import Training
from resdet.tools.cli import main

GROUP_NORM = ("backbone.norm=group", "rpn.post_nms_test=100")


def run(config: Path, folder: Path, *overrides: str, start: Start = FRESH) -> int:
    folder.mkdir(exist_ok=True)
    return Training(DETECTION, load_config(config, overrides), start).run(folder, ALONE).exit_code


def banner(config: Path, *overrides: str, start: Start = FRESH) -> list[str]:
    """As a dry run prints it."""
    return Training(DETECTION, load_config(config, overrides), start).banner(ALONE, "none")


def logged(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


# ------------------------------------------------------------------------------- resuming


def test_a_resumed_run_does_not_keep_what_it_has_read(
    tiny_config: Path, tiny_run: Path, tmp_path: Path
) -> None:
    checkpoint = read_checkpoint(tiny_run / "weights" / "last.pt", DETECTION)
    settings = ("train.ema_decay=0.9", "train.iterations=9", "train.val_loss_batches=0")
    start = Start(checkpoint, resume=True)
    assert run(tiny_config, tmp_path / "run", *settings, start=start) == 0
    assert not checkpoint.state and not checkpoint.tensors
    assert load_checkpoint(tmp_path / "run" / "weights" / "last.pt")["step"] == 9


# ------------------------------------------------------------------------------- patience


def test_patience_ends_a_run_that_does_not_get_better(tiny_config: Path, tmp_path: Path) -> None:
    """At a learning rate that changes no weight the second evaluation is as good as the first."""
    settings = ("train.lr=1e-30", "train.eval_every=1", "train.patience=2")
    few = ("train.val_loss_batches=0", "train.checkpoint_every=100")
    assert run(tiny_config, tmp_path, *GROUP_NORM, *settings, *few) == 0
    assert [entry["step"] for entry in logged(tmp_path, "eval")] == [1, 2, 3]
    assert load_checkpoint(tmp_path / "weights" / "best.pt")["step"] == 1
    last = load_checkpoint(tmp_path / "weights" / "last.pt")
    assert (last["step"], last["stale"]) == (3, 2)
    text = (tmp_path / "train.log").read_text()
    assert "stopped: no better result in 2 evaluations" in text
    assert "done: 3 steps" in text


@pytest.mark.parametrize(
    ("metrics", "patience", "steps", "best"),
    [
        ((0.1, 0.3, 0.2, 0.3, 0.9), 2, 4, 2),  # as good is not better
        ((0.1, 0.0, 0.2, 0.1, 0.3), 2, 5, 5),  # a better one restarts the count
        ((0.5, 0.4, 0.9, 0.9, 0.9), 1, 2, 1),
        ((0.5, 0.4, 0.3, 0.2, 0.1), None, 5, 1),
        # What is undefined is neither better nor worse; the newest weights stand in for a best.
        ((float("nan"), 0.0, 0.2, 0.1, 0.0), 2, 5, 3),
        ((0.5, float("nan"), 0.4, float("nan"), 0.3), 2, 5, 1),
        ((float("nan"),) * 5, 1, 5, 5),
    ],
)
def test_patience_counts_evaluations_since_the_best(
    metrics: Sequence[float], patience: int | None, steps: int, best: int, tmp_path: Path
) -> None:
    class Line(torch.nn.Linear):
        def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
            return {"loss_cls": super().forward(batch.images.float().mean((2, 3))).square().sum()}

    model = Line(3, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    state = TrainingState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))
    settings = TrainConfig(
        iterations=5,
        accumulate=1,
        precision="fp32",
        clip_norm=None,
        log_every=1,
        eval_every=1,
        checkpoint_every=100,
        patience=patience,
        max_nonfinite=1,
        lr=1e-6,
        warmup_iterations=0,
    )
    pixels = torch.ones(4, 4, 3, dtype=torch.uint8)
    batch = Batch.collate([Sample(pixels, Annotation.empty(), Geometry((4, 4)), "p")])
    outputs = Outputs(tmp_path, RunLog(None), {"config": {}, "classes": []})
    scores = iter(metrics)
    stopped = train(
        state,
        itertools.repeat(batch),
        settings=settings,
        outputs=outputs,
        group=ALONE,
        evaluate=lambda step: next(scores),
        stop=StopRequest(),
    )
    assert not stopped and state.step == steps
    assert load_checkpoint(outputs.best)["step"] == best


# ---------------------------------------------------------------------------- best weights


def test_best_follows_the_chosen_metric(
    tiny_config: Path, learned_run: Path, tmp_path: Path
) -> None:
    metric = "coco_ap"
    start = Start(read_checkpoint(learned_run / "weights" / "best.pt", DETECTION))
    settings = (f"eval.metric={metric}", "train.eval_every=1", "train.iterations=3")
    assert run(tiny_config, tmp_path, *GROUP_NORM, *settings, start=start) == 0
    evaluations = logged(tmp_path, "eval")
    best = load_checkpoint(tmp_path / "weights" / "best.pt")
    chosen = max(evaluations, key=lambda entry: entry[metric])
    assert (best["step"], best["metric"]) == (chosen["step"], pytest.approx(chosen[metric]))
    assert chosen[metric] > 0 and chosen[metric] != chosen["voc_ap50"]
    assert best["config"]["eval"]["metric"] == metric


# --------------------------------------------------------------------------------- images


def test_a_image_that_cannot_be_written_stops_nothing(tiny_config: Path, tmp_path: Path) -> None:
    """Files stand where the folders of the images would be. The rate is scaled to the batch."""
    for name in ("plots", "samples"):
        (tmp_path / name).write_text("")
    settings = ("train.base_batch_size=8", "train.lr=0.02", "train.warmup_iterations=0")
    assert run(tiny_config, tmp_path, *settings, "train.iterations=2") == 0
    text = (tmp_path / "train.log").read_text()
    # The first batch, the detections of the one evaluation, the curves.
    assert text.count("an image of the run was not drawn, training continues") == 3
    assert "done: 2 steps" in text
    assert load_checkpoint(tmp_path / "weights" / "best.pt")["step"] == 2
    assert [entry["lr"] for entry in logged(tmp_path, "train")] == [pytest.approx(0.005)]


def test_a_truncated_image_of_the_evaluation_is_left_out(
    tiny_config: Path, copied: Path, tmp_path: Path
) -> None:
    image = copied / "scenes" / "JPEGImages" / "val_00001.jpg"
    image.write_bytes(image.read_bytes()[: image.stat().st_size // 2])
    config, out = copied / tiny_config.name, tmp_path / "run"
    with pytest.raises(DataError, match=r"val_00001\.jpg"):
        run(config, out, "train.iterations=1")
    with pytest.warns(UserWarning, match=r"val_00001\.jpg.*left out"):
        code = run(config, tmp_path / "skip", "train.iterations=1", "data.on_truncated=skip")
    assert code == 0
    assert len(logged(tmp_path / "skip", "eval")) == 1


# --------------------------------------------------------------------------- before a run


@pytest.mark.parametrize(
    ("batch", "base", "expected"), [(16, 16, 0.02), (8, 16, 0.01), (64, 16, 0.08), (2, 2, 0.02)]
)
def test_the_learning_rate_is_proportional_to_the_batch(
    batch: int, base: int, expected: float
) -> None:
    settings = TrainConfig(lr=0.02, batch_size=batch, base_batch_size=base)
    assert scaled_lr(settings) == pytest.approx(expected)


def test_a_dry_run_says_what_would_start_and_leaves_nothing(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = banner(tiny_config)
    assert any("train: images: 12" in line for line in lines)
    assert any("val: images: 6" in line for line in lines)
    assert "weights: random, seed 0" in lines
    assert list(tmp_path.iterdir()) == []


def test_other_threads_are_told(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            assert main(["train-det", "--resume", str(tiny_run), "--dry-run"]) == 0
            told = "2 threads, 1 before: " in capsys.readouterr().out
            assert told == (number == 2)
    finally:
        torch.set_num_threads(threads)


def test_what_cannot_start_is_refused_before_the_first_step(
    tiny_config: Path, learned_run: Path, tmp_path: Path
) -> None:
    best = learned_run / "weights" / "best.pt"
    with pytest.raises(WeightsError, match=r"best\.pt: .*--resume needs last\.pt"):
        banner(tiny_config, start=Start(read_checkpoint(best, DETECTION), resume=True))
    with pytest.raises(ConfigError, match=r"backbone\.norm=group, the config says batch"):
        banner(tiny_config, start=Start(read_checkpoint(best, DETECTION)))
    with pytest.raises(DataError, match=r"data\.train: no images"):
        banner(tiny_config, "data.train=[]")
    with pytest.raises(ConfigError, match=r"batch_size 2 cannot be divided"):
        run(tiny_config, tmp_path, "train.accumulate=4")
    assert not (tmp_path / "weights").exists()

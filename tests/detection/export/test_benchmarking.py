"""`resdet benchmark`: checkpoints and exports in one table."""

from __future__ import annotations

from pathlib import Path

import pytest
from resdet.detection.errors import ConfigError, DataError
from resdet.detection.tasks.benchmarking import BATCHES, benchmark
from resdet.tools.cli import main


def test_a_checkpoint_and_its_exports(
    learned_run: Path, exported: Path, parts: Path, tiny_config: Path
) -> None:
    weights = learned_run / "weights" / "best.pt"
    first, *others = benchmark([weights, exported, parts], str(tiny_config), rounds=1)
    assert first.metrics["coco_ap50"] > 0
    for each in others:
        assert each.metrics == pytest.approx(first.metrics, abs=1e-4)
        assert each.size == sum(path.stat().st_size for path in each.path.iterdir())
    assert first.size == weights.stat().st_size
    for each in (first, *others):
        assert set(each.images_per_second) == set(BATCHES)
        assert all(rate > 0 for rate in each.images_per_second.values())
        assert each.load_seconds > 0 and (each.memory is None or each.memory >= 0)


def test_the_table(learned_run: Path, parts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = learned_run / "weights" / "best.pt"
    assert main(["benchmark", "--weights", str(weights), str(parts), "--rounds", "1"]) == 0
    said = capsys.readouterr().out
    for words in ("AP50", "AP75", "load s", "MB", "threads"):
        assert words in said


def test_what_cannot_be_compared(learned_run: Path, tiny_config: Path, tmp_path: Path) -> None:
    weights = learned_run / "weights" / "best.pt"
    with pytest.raises(ConfigError, match="--rounds 0"):
        benchmark([weights], rounds=0)
    cfg = tiny_config.with_name(f"{tmp_path.name}.yaml")
    cfg.write_text(tiny_config.read_text().replace("circle, cross", "oval, cross"))
    with pytest.raises(DataError, match="oval"):
        benchmark([weights], str(cfg))

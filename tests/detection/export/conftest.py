"""Exports, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from resdet.detection.extras import EXTRAS
from resdet.detection.tasks.exporting import export
from resdet.tests.detection.export.untrained import CONFIGS, write, write_detector


@pytest.fixture(scope="session")
def exported(learned_run: Path) -> Path:
    """The export of `learned_run`, in its folder; torch's exporter takes about ten seconds."""
    for name in EXTRAS["export"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[export]'")
    return export([learned_run / "weights" / "best.pt"], learned_run / "exported").out


@pytest.fixture(scope="session")
def parts(learned_run: Path) -> Path:
    """`learned_run` cut at its crops; torch's exporter takes seconds for each graph."""
    for name in EXTRAS["export"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[export]'")
    weights = learned_run / "weights" / "best.pt"
    return export([weights], learned_run / "parts", graphs="two").out


@pytest.fixture(scope="session")
def bottlenecks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An untrained detector with bottlenecks, and it cut at its crops."""
    for name in EXTRAS["export"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[export]'")
    folder = tmp_path_factory.mktemp("bottlenecks")
    weights = write_detector(folder / "best.pt")
    return weights, export([weights], folder / "parts", graphs="two").out


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """{task: checkpoint, its export} of classifiers and localizers; each export takes seconds."""
    for name in EXTRAS["export"]:
        pytest.importorskip(name, reason="needs the extra: pip install 'resdet[export]'")
    folder = tmp_path_factory.mktemp("networks")
    found = {}
    for name in CONFIGS:
        weights = write(name, folder / f"{name}.pt")
        found[name] = weights, export([weights], folder / name).out
    return found

"""The public names of the package, how fast it is imported, and its type hints."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from multiprocessing import get_context
from pathlib import Path

import pytest
import resdet
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from resdet.detection.errors import ConfigError, WeightsError

ROOT = Path(__file__).resolve().parent.parent


def test_dir_shows_every_public_name() -> None:
    names = [name for name in dir(resdet) if not name.startswith("_")]
    assert {"load", "Predictor", "DetectionResult", "ClassResult", "FailedImage"} < set(names)
    assert {"ResdetError", "ConfigError", "DataError", "ImageError", "WeightsError"} < set(names)
    assert {"train", "evaluate", "check_data", "infer"} < set(names)
    assert {"TrainedRun", "Evaluation", "Report", "Finding", "FolderSummary"} < set(names)
    for name in names:
        assert getattr(resdet, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'laod'"):
        resdet.laod  # noqa: B018


def test_the_import_is_quick() -> None:
    """Without torch, which takes seconds."""
    code = "import sys, resdet; dir(resdet); resdet.ConfigError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_wheel_has_the_package_and_the_licences(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", "77", reason="a wheel is built with setuptools")
    kept = ("*.py", "*.toml", "*.md", "LICENSE", "py.typed")
    folder = tmp_path / "source"
    folder.mkdir()
    for pattern in kept:
        for path in ROOT.glob(pattern):
            shutil.copy(path, folder)
    build = "from setuptools.build_meta import build_wheel; print(build_wheel('out'))"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(folder / "out" / done.stdout.split()[-1]) as wheel:
        names = {name.rpartition("/")[2]: name for name in wheel.namelist()}
    assert names["py.typed"] == "resdet/py.typed" and "setup.py" not in names
    assert all("dist-info/licenses/" in names[name] for name in ("LICENSE", "THIRD_PARTY.md"))


def test_every_folder_of_modules_is_a_package_of_the_wheel() -> None:
    """setuptools leaves out a folder without ``__init__.py``."""
    folders = {
        path.parent
        for name in ("backbones", "configs", "datasets", "detection", "tools")
        for path in (ROOT / name).rglob("*.py")
    }
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []


def test_type_hints_are_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["package-data"]["resdet"] == ["py.typed"]
    assert (ROOT / "py.typed").exists()


def test_the_locked_versions_are_what_the_project_asks_for() -> None:
    """Otherwise `make lock` is due. A name has several versions where Pythons need others."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *map(project["optional-dependencies"].get, ("dev", "docs"))]
    stated = [Requirement(text) for group in groups for text in group]
    locked: dict[str, list[str]] = {}
    direct = set()
    text = (ROOT / "requirements-dev.txt").read_text()
    for block in re.split(r"^(?=\w)", text, flags=re.MULTILINE)[1:]:
        name, version = re.match(r"([a-z0-9-]+)==(\S+)", block).groups()
        locked.setdefault(name, []).append(version)
        if "resdet (pyproject.toml)" in block:
            direct.add(name)
        assert set(re.findall(r"--[\w=]+", block)) == {"--hash=sha256"}, name
    assert direct == {canonicalize_name(each.name) for each in stated}
    for each in stated:
        versions = locked[canonicalize_name(each.name)]
        assert all(each.specifier.contains(version) for version in versions), f"{each}: {versions}"
    assert "://" not in text  # of any host


def test_mypy_sees_the_types_of_a_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import resdet\n"
        "model: resdet.Predictor[resdet.DetectionResult] = resdet.load('a.pt')\n"
        "reveal_type(model('a.jpg').boxes)\n"
        "reveal_type(model(['a.jpg'])[0].names)\n"
        "reveal_type(model('a.jpg')[0].name)\n"
        "resdet.load('a.pt', devcie='cpu')\n"
        "model('a.jpg', score_threshold='high')\n"
        "reveal_type(resdet.train('a.yaml', 'train.lr=0.1', seed=3).metrics)\n"
        "reveal_type(resdet.check_data('data').findings[0])\n"
        "resdet.train('a.yaml', lr=0.1)\n"
    )
    importlib.import_module("mypy")
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", str(program)]
    packages = tmp_path / "packages"  # as installed, whatever the name of the checkout's folder
    packages.mkdir()
    (packages / "resdet").symlink_to(Path(resdet.__file__ or "").parent)
    environment = os.environ | {"MYPYPATH": str(packages)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert '3: note: Revealed type is "torch._tensor.Tensor"' in done.stdout, done.stdout
    revealed = done.stdout.replace("builtins.", "")  # which some versions write
    assert '4: note: Revealed type is "list[str]"' in revealed
    assert '5: note: Revealed type is "str"' in revealed
    assert '6: error: Unexpected keyword argument "devcie"' in done.stdout
    assert "7: error: " in done.stdout
    assert '8: note: Revealed type is "typing.Mapping[str, float]"' in revealed
    assert '9: note: Revealed type is "resdet.datasets.findings.Finding"' in revealed
    assert '10: error: Unexpected keyword argument "lr"' in revealed


def count(model: resdet.Predictor, path: Path) -> list[list[float]]:
    return model(path, score_threshold=0.0).boxes.tolist()


def test_a_trained_model_is_loaded_copied_and_sent_to_a_process(
    tiny_run: Path, scenes: Path
) -> None:
    model = resdet.load(tiny_run, "cpu", score_threshold=0.01)
    assert "Faster R-CNN" in repr(model)
    assert str(tiny_run / "weights" / "best.pt") in repr(model)
    image = sorted((scenes / "JPEGImages").iterdir())[0]
    expected = count(model, image)
    assert expected
    assert count(pickle.loads(pickle.dumps(model)), image) == expected  # noqa: S301
    copied = deepcopy(model)
    for parameter in model.pipeline.parameters():
        parameter.data.zero_()
    assert count(copied, image) == expected  # it shares nothing
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(copied, image, score_threshold=0.0).result()
    assert found.boxes.tolist() == expected


def test_folders_and_thresholds_that_cannot_be_loaded(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="a folder without weights/best"):
        resdet.load(tmp_path)
    for wrong in ({"score_threshold": 50}, {"device": "mps"}):
        with pytest.raises(ConfigError, match=r"50 is not between|device mps: not supported"):
            resdet.load(tiny_run, **wrong)

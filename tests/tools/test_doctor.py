"""The doctor command: results and remedies for simulated faults, and for this machine."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from resdet.tools import doctor
from resdet.tools import doctor_checks as checks
from resdet.tools.doctor_checks import CheckResult, Gpu

GB = 1 << 30


def failing(error: Exception) -> Callable[[], NoReturn]:
    def fail() -> NoReturn:
        raise error

    return fail


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return parser.parse_args(words)


def test_the_current_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The tests need these packages, so they are found; NMS and a data worker run."""
    code = doctor.run(arguments("--json", "--folder", str(tmp_path)))
    report = json.loads(capsys.readouterr().out)
    found = {item["check"]: item for item in report["findings"]}
    for check in ("python", "torch", "albumentations", "torchvision.ops", "worker"):
        assert found[check]["status"] == "ok", found[check]
    assert {"cv2", "cpu", "disk"} <= set(found)
    assert code == (3 if report["status"] == "fail" else 0)


def test_table_shows_details_and_remedies_literally(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    result = CheckResult("disk", "fail", "no [bold] room", "make [room]")
    monkeypatch.setattr(doctor, "examine", lambda folder: [result])
    assert doctor.run(arguments()) == 3
    output = capsys.readouterr().out
    assert "no [bold] room" in output
    assert "make [room]" in output


def test_warnings_do_not_fail_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda folder: [CheckResult("a", "warn", "b", "c")])
    assert doctor.run(arguments("--json")) == 0


@pytest.mark.parametrize(
    ("version", "status"),
    [("3.10.14", "fail"), ("3.9.2", "fail"), ("3.11.0", "ok"), ("3.14.0", "ok")],
)
def test_python(version: str, status: str) -> None:
    assert checks.check_python(version.split(".")).status == status


@pytest.mark.parametrize(
    ("requirement", "version", "status"),
    [
        ("torch>=2.10", "2.10.0", "ok"),
        ("torch>=2.10", "2.9.1", "fail"),  # 2.9 is less than 2.10 though "9" > "1"
        ("torch>=2.10", "2.15.0+cu132", "ok"),
        ("torch>=2.10", None, "fail"),
        ("albumentations==2.0.8", "2.0.8", "ok"),
        ("albumentations==2.0.8", "2.0.9", "fail"),
        ("numpy>=2.0", "2", "fail"),
        ("pillow>=11", "11.0.0", "ok"),
    ],
)
def test_packages(requirement: str, version: str | None, status: str) -> None:
    (result,) = checks.check_packages([requirement], lambda name: version)
    assert result.status == status
    assert (result.remedy == f"pip install '{requirement}'") == (status == "fail")


def test_package_that_is_not_installed() -> None:
    (result,) = checks.check_packages([], lambda name: None)
    assert result.status == "fail"
    assert "pip install -e ." in result.remedy


def test_requirement_in_an_unknown_form() -> None:
    with pytest.raises(ValueError, match="torch~=2"):
        checks.check_packages(["torch~=2"], lambda name: "2.0")


@pytest.mark.parametrize(
    ("providers", "loaded", "status"),
    [
        ({"opencv-python-headless": "5.0.0.93"}, "5.0.0", "ok"),
        ({"opencv-python-headless": "5.0.0.93", "opencv-python": "5.0.0.93"}, "5.0.0", "ok"),
        ({"opencv-python-headless": "5.0.0.93", "opencv-python": "4.12.0.88"}, "5.0.0", "warn"),
        ({"opencv-python-headless": "5.0.0.93"}, "4.12.0", "warn"),
        ({}, "5.0.0", "fail"),
    ],
)
def test_providers_of_cv2(providers: dict[str, str], loaded: str, status: str) -> None:
    (result,) = checks.check_cv2(providers, lambda: loaded)
    assert result.status == status
    if status == "warn":
        assert "pip uninstall -y opencv-python opencv-python-headless" in result.remedy
        assert "opencv-python-headless==5.0.0.93" in result.remedy


def test_partly_removed_cv2() -> None:
    error = AttributeError("module 'cv2' has no attribute '__version__'")
    (result,) = checks.check_cv2({"opencv-python": "4.12.0.88"}, failing(error))
    assert result.status == "fail"
    assert "no attribute" in result.detail
    assert "--force-reinstall opencv-python-headless==4.12.0.88" in result.remedy


def test_albumentations_and_albumentationsx() -> None:
    assert checks.check_albumentations({"albumentations": "2.0.8"}).status == "ok"
    both = checks.check_albumentations({"albumentations": "2.0.8", "albumentationsx": "2.5.1"})
    assert both.status == "warn"
    assert "albumentations==2.0.8" in both.remedy


def test_nms_of_a_mismatched_pair() -> None:
    error = RuntimeError("operator torchvision::nms\n does not exist")
    result = checks.check_nms(failing(error))
    assert result.status == "fail"
    assert "torchvision::nms does not exist" in result.detail
    assert "torch torchvision" in result.remedy
    assert checks.check_nms(lambda: [0, 1]).status == "fail"
    assert checks.check_nms(lambda: [1]).status == "ok"


def test_gpus() -> None:
    new = Gpu("H200", (9, 0), free=130 * GB, total=140 * GB, bf16=True)
    full = Gpu("T4", (7, 5), free=1 * GB, total=16 * GB, bf16=False)
    first, second = checks.check_gpus(lambda: [new, full], driver=True)
    assert (first.check, first.status) == ("gpu 0", "ok")
    assert "H200, compute 9.0" in first.detail
    assert (second.check, second.status) == ("gpu 1", "warn")
    assert "no bf16" in second.detail

    (none,) = checks.check_gpus(lambda: [], driver=False)
    assert none.status == "ok"
    (unseen,) = checks.check_gpus(lambda: [], driver=True)
    assert unseen.status == "warn"
    broken = failing(RuntimeError("no kernel image is available"))
    (dead,) = checks.check_gpus(broken, driver=True)
    assert dead.status == "fail"
    assert "no kernel image" in dead.detail


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"avx2", "avx512_bf16"}, "bf16 with avx512_bf16"),
        ({"amx_bf16", "amx_tile"}, "bf16 with amx_bf16"),
        ({"asimd", "bf16"}, "bf16 with bf16"),
        ({"avx2", "avx512f"}, "bf16 is emulated, slower than fp32: use precision auto"),
        (set(), "unknown: precision auto takes fp32"),
    ],
)
def test_cpu(flags: set[str], said: str) -> None:
    result = checks.check_cpu(flags, 8, "x86_64")
    assert said in result.detail
    assert "8 cores" in result.detail


def test_shared_memory() -> None:
    docker = (64 << 20, 64 << 20)
    small, worker = checks.check_shared_memory(docker, lambda: None)
    assert (small.status, worker.status) == ("warn", "ok")
    assert "--ipc=host" in small.remedy
    assert "data.workers=0" in small.remedy

    killed = RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error.")
    large, dead = checks.check_shared_memory((8 * GB, 8 * GB), failing(killed))
    assert (large.status, dead.status) == ("ok", "fail")
    assert "Bus error" in dead.detail
    assert "--ipc=host" in dead.remedy

    (only,) = checks.check_shared_memory(None, lambda: None)
    assert only.check == "worker"


@pytest.mark.parametrize(("free", "status"), [(9 * GB, "ok"), (2 * GB, "warn"), (1000, "fail")])
def test_disk(tmp_path: Path, free: int, status: str) -> None:
    (result,) = checks.check_disk(tmp_path, lambda folder: free)
    assert result.status == status
    assert list(tmp_path.iterdir()) == []


def test_disk_that_is_not_writable(tmp_path: Path) -> None:
    (result,) = checks.check_disk(tmp_path / "missing", lambda folder: 9 * GB)
    assert result.status == "fail"
    assert "No such file" in result.detail

"""The checks of ``resdet doctor``: packages, devices, shared memory and disk.

Each check is a function of plain facts, or of a callable that tries something, so that tests can
simulate any fault.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from resdet.detection.errors import one_line
from resdet.detection.processor import bf16_instructions

Status = Literal["ok", "warn", "fail"]

#: Two workers with two batches each of 16 images of 600x1000 need 0.12 GB; Docker gives 64 MB.
SHM_WANTED = 256 << 20
#: A ResNet-101 checkpoint with momentum is 0.45 GB; a run keeps three of them.
DISK_WANTED = 5 << 30
DISK_NEEDED = 1 << 30
SHM_REMEDY = "start the container with --ipc=host or --shm-size=1g, or set data.workers=0"
CV2_DISTRIBUTIONS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)


@dataclass(frozen=True)
class CheckResult:
    """Result of one check; ``remedy`` is a command or setting that helps, or empty."""

    check: str
    status: Status
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Gpu:
    """A CUDA device; memory in bytes."""

    name: str
    capability: tuple[int, int]
    free: int
    total: int
    bf16: bool


def worst(results: Sequence[CheckResult]) -> Status:
    order: tuple[Status, ...] = ("ok", "warn", "fail")
    return max((result.status for result in results), key=order.index, default="ok")


def check_python(version: Sequence[str]) -> CheckResult:
    text = ".".join(version)
    if _numbers(text) < (3, 11):
        return CheckResult("python", "fail", text, "install Python 3.11 or later")
    return CheckResult("python", "ok", text)


def check_packages(
    requirements: Sequence[str], version_of: Callable[[str], str | None]
) -> list[CheckResult]:
    """One result per requirement, such as ``torch>=2.10`` or ``albumentations==2.0.8``."""
    if not requirements:
        remedy = "run `pip install -e .` in the folder of pyproject.toml"
        return [CheckResult("resdet", "fail", "not installed as a package", remedy)]
    return [_check_package(requirement, version_of) for requirement in requirements]


def _check_package(requirement: str, version_of: Callable[[str], str | None]) -> CheckResult:
    name, relation, wanted = _parse_requirement(requirement)
    version = version_of(name)
    remedy = f"pip install '{name}{relation}{wanted}'"
    if version is None:
        return CheckResult(name, "fail", "not installed", remedy)
    fits = version == wanted if relation == "==" else _numbers(version) >= _numbers(wanted)
    if not fits:
        return CheckResult(name, "fail", f"{version}, expected {relation}{wanted}", remedy)
    return CheckResult(name, "ok", version)


def _parse_requirement(requirement: str) -> tuple[str, str, str]:
    parts = re.fullmatch(r"([A-Za-z0-9._-]+)(>=|==)([0-9.]+)", requirement)
    if parts is None:
        raise ValueError(f"requirement {requirement!r}: expected name>=version or name==version")
    return parts[1], parts[2], parts[3]


def check_cv2(providers: Mapping[str, str], loaded_version: Callable[[], str]) -> list[CheckResult]:
    """All OpenCV distributions install the folder ``cv2``; the last one wins silently."""
    wanted = providers.get("opencv-python-headless") or next(iter(providers.values()), "")
    repair = (
        f"pip uninstall -y {' '.join(CV2_DISTRIBUTIONS)} && "
        f"pip install --no-deps --force-reinstall opencv-python-headless=={wanted}"
    )
    listed = ", ".join(f"{name} {version}" for name, version in providers.items())
    if not providers:
        return [CheckResult("cv2", "fail", "no OpenCV", "pip install opencv-python-headless")]
    try:
        loaded = loaded_version()
    except Exception as error:  # a partly removed cv2 fails in many ways
        return [CheckResult("cv2", "fail", f"{listed}: does not load: {error}", repair)]
    if len(set(providers.values())) > 1:
        detail = f"{listed} share one folder, {loaded} was loaded"
        return [CheckResult("cv2", "warn", detail, repair)]
    if not all(version.startswith(loaded) for version in providers.values()):
        return [CheckResult("cv2", "warn", f"{listed}, but {loaded} was loaded", repair)]
    return [CheckResult("cv2", "ok", listed)]


def check_albumentations(providers: Mapping[str, str]) -> CheckResult:
    """albumentationsx has the same import name and another licence."""
    if "albumentationsx" in providers:
        detail = "albumentationsx (AGPL) replaces the import name of albumentations"
        remedy = "pip uninstall -y albumentationsx && pip install --force-reinstall --no-deps "
        return CheckResult("augmentation", "warn", detail, remedy + "albumentations==2.0.8")
    return CheckResult("augmentation", "ok", "no second provider of albumentations")


def check_nms(run_nms: Callable[[], list[int]]) -> CheckResult:
    """Whether torch and torchvision match; otherwise the compiled operations do not load."""
    remedy = "reinstall both from the same index: pip install --force-reinstall torch torchvision"
    try:
        kept = run_nms()
    except Exception as error:  # a mismatch raises ImportError, OSError or RuntimeError
        detail = f"nms does not run: {one_line(error)}"
        return CheckResult("torchvision.ops", "fail", detail, remedy)
    if kept != [1]:
        return CheckResult("torchvision.ops", "fail", f"nms kept {kept}, expected [1]", remedy)
    return CheckResult("torchvision.ops", "ok", "nms runs")


def check_gpus(find: Callable[[], list[Gpu]], *, driver: bool) -> list[CheckResult]:
    """``find`` returns the usable devices; ``driver``: whether nvidia-smi exists."""
    remedy = "install a torch build for the CUDA version that nvidia-smi shows"
    try:
        gpus = find()
    except Exception as error:
        return [CheckResult("gpu", "fail", f"CUDA does not work: {one_line(error)}", remedy)]
    if not gpus and driver:
        return [CheckResult("gpu", "warn", "nvidia-smi exists, but torch sees no GPU", remedy)]
    if not gpus:
        return [CheckResult("gpu", "ok", "none; the CPU is used")]
    return [_gpu_result(index, gpu) for index, gpu in enumerate(gpus)]


def _gpu_result(index: int, gpu: Gpu) -> CheckResult:
    capability = ".".join(map(str, gpu.capability))
    precision = "bf16" if gpu.bf16 else "no bf16, use train.precision=fp16"
    detail = f"{gpu.name}, compute {capability}, {_gb(gpu.free)} of {_gb(gpu.total)} free"
    if gpu.free < 4 << 30:  # needed to train ResNet-101 on one image of 600x1000
        remedy = "stop other programs on the GPU or choose another device"
        return CheckResult(f"gpu {index}", "warn", f"{detail}, {precision}", remedy)
    return CheckResult(f"gpu {index}", "ok", f"{detail}, {precision}")


def check_cpu(flags: set[str], cores: int, machine: str) -> CheckResult:
    """Usable cores, and whether the CPU has bf16 instructions."""
    if fast := bf16_instructions(flags):
        precision = f"bf16 with {', '.join(fast)}"
    elif flags:
        precision = "bf16 is emulated, slower than fp32: use precision auto or fp32"
    else:
        precision = "bf16 support unknown: precision auto takes fp32"
    return CheckResult("cpu", "ok", f"{machine}, {cores} cores, {precision}")


def check_shared_memory(
    size: tuple[int, int] | None, read_through_worker: Callable[[], None]
) -> list[CheckResult]:
    """``size``: free and total bytes of /dev/shm, None without it (Windows, macOS)."""
    results = []
    if size is not None:
        free, total = size
        status: Status = "ok" if free >= SHM_WANTED else "warn"
        remedy = "" if status == "ok" else SHM_REMEDY
        detail = f"{_gb(free)} of {_gb(total)} free in /dev/shm"
        results.append(CheckResult("shared memory", status, detail, remedy))
    try:
        read_through_worker()
    except Exception as error:  # a bus error in the worker arrives as RuntimeError
        # The data loader's message is a traceback; its last line is the reason.
        reason = one_line(error) if "\n" not in str(error) else str(error).strip().splitlines()[-1]
        detail = f"a data worker could not transfer 16 MB: {reason}"
        return [*results, CheckResult("worker", "fail", detail, SHM_REMEDY)]
    return [*results, CheckResult("worker", "ok", "a data worker transferred 16 MB")]


def check_disk(folder: Path, free_bytes: Callable[[Path], int]) -> list[CheckResult]:
    """Whether the folder is writable and has enough free space."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
        free = free_bytes(folder)
    except OSError as error:
        remedy = "choose another folder with --folder, and use it as --out in training"
        return [CheckResult("disk", "fail", f"{folder.absolute()}: {error.strerror}", remedy)]
    detail = f"{_gb(free)} free in {folder.absolute()}"
    if free >= DISK_WANTED:
        return [CheckResult("disk", "ok", detail)]
    status: Status = "warn" if free >= DISK_NEEDED else "fail"
    return [
        CheckResult(
            "disk", status, detail, f"free disk space: a run keeps up to {_gb(DISK_WANTED)}"
        )
    ]


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: (2, 15, 0) of 2.15.0+cu132."""
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

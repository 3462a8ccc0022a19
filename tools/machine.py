"""What do the facts about a machine mean for training and detecting on it?

Every check is a function from facts, or from a callable that tries something, to findings; it can
be shown any fault.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Status = Literal["ok", "warn", "fail"]

#: Two workers with two batches each of 16 images of 600x1000 hold 0.12 GB; Docker gives 64 MB.
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
class Finding:
    """What one check saw; ``remedy`` is the command or setting that helps, empty if all is well."""

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


def worst(findings: Sequence[Finding]) -> Status:
    order: tuple[Status, ...] = ("ok", "warn", "fail")
    return max((finding.status for finding in findings), key=order.index, default="ok")


def check_python(version: Sequence[str]) -> Finding:
    text = ".".join(version)
    if _numbers(text) < (3, 11):
        return Finding("python", "fail", text, "install Python 3.11 or later")
    return Finding("python", "ok", text)


def check_packages(
    requirements: Sequence[str], version_of: Callable[[str], str | None]
) -> list[Finding]:
    """One finding for each requirement, such as ``torch>=2.10`` or ``albumentations==2.0.8``."""
    if not requirements:
        remedy = "run `pip install -e .` in the folder of pyproject.toml"
        return [Finding("resdet", "fail", "not installed as a package", remedy)]
    return [_check_package(requirement, version_of) for requirement in requirements]


def _check_package(requirement: str, version_of: Callable[[str], str | None]) -> Finding:
    name, relation, wanted = _parse_requirement(requirement)
    version = version_of(name)
    remedy = f"pip install '{name}{relation}{wanted}'"
    if version is None:
        return Finding(name, "fail", "not installed", remedy)
    fits = version == wanted if relation == "==" else _numbers(version) >= _numbers(wanted)
    if not fits:
        return Finding(name, "fail", f"{version}, expected {relation}{wanted}", remedy)
    return Finding(name, "ok", version)


def _parse_requirement(requirement: str) -> tuple[str, str, str]:
    parts = re.fullmatch(r"([A-Za-z0-9._-]+)(>=|==)([0-9.]+)", requirement)
    if parts is None:
        raise ValueError(f"requirement {requirement!r}: expected name>=version or name==version")
    return parts[1], parts[2], parts[3]


def check_cv2(providers: Mapping[str, str], loaded_version: Callable[[], str]) -> list[Finding]:
    """OpenCV's distributions all write the folder ``cv2``; the last installed wins silently."""
    wanted = providers.get("opencv-python-headless") or next(iter(providers.values()), "")
    repair = (
        f"pip uninstall -y {' '.join(CV2_DISTRIBUTIONS)} && "
        f"pip install --no-deps --force-reinstall opencv-python-headless=={wanted}"
    )
    listed = ", ".join(f"{name} {version}" for name, version in providers.items())
    if not providers:
        return [Finding("cv2", "fail", "no OpenCV", "pip install opencv-python-headless")]
    try:
        loaded = loaded_version()
    except Exception as error:  # a half-removed cv2 fails in many ways
        return [Finding("cv2", "fail", f"{listed}: does not load: {error}", repair)]
    if len(set(providers.values())) > 1:
        detail = f"{listed} share one folder, {loaded} was loaded"
        return [Finding("cv2", "warn", detail, repair)]
    if not all(version.startswith(loaded) for version in providers.values()):
        return [Finding("cv2", "warn", f"{listed}, but {loaded} was loaded", repair)]
    return [Finding("cv2", "ok", listed)]


def check_albumentations(providers: Mapping[str, str]) -> Finding:
    """Its successor takes the same import name under another licence."""
    if "albumentationsx" in providers:
        detail = "albumentationsx (AGPL) replaces the import name of albumentations"
        remedy = "pip uninstall -y albumentationsx && pip install --force-reinstall --no-deps "
        return Finding("augmentation", "warn", detail, remedy + "albumentations==2.0.8")
    return Finding("augmentation", "ok", "no second provider of albumentations")


def check_nms(suppress: Callable[[], list[int]]) -> Finding:
    """Whether torch and torchvision belong together: only then do the compiled operations load."""
    remedy = "reinstall both from one index: pip install --force-reinstall torch torchvision"
    try:
        kept = suppress()
    except Exception as error:  # ImportError, OSError, RuntimeError: any way a mismatch shows
        return Finding("torchvision.ops", "fail", f"nms does not run: {_line(error)}", remedy)
    if kept != [1]:
        return Finding("torchvision.ops", "fail", f"nms kept {kept}, expected [1]", remedy)
    return Finding("torchvision.ops", "ok", "nms runs")


def check_gpus(find: Callable[[], list[Gpu]], *, driver: bool) -> list[Finding]:
    """``find`` returns the devices that can compute; ``driver``: nvidia-smi exists."""
    remedy = "install a torch build for the CUDA version that nvidia-smi shows"
    try:
        gpus = find()
    except Exception as error:
        return [Finding("gpu", "fail", f"CUDA does not work: {_line(error)}", remedy)]
    if not gpus and driver:
        return [Finding("gpu", "warn", "nvidia-smi exists, but torch sees no GPU", remedy)]
    if not gpus:
        return [Finding("gpu", "ok", "none; everything runs on the CPU")]
    return [_gpu_finding(index, gpu) for index, gpu in enumerate(gpus)]


def _gpu_finding(index: int, gpu: Gpu) -> Finding:
    capability = ".".join(map(str, gpu.capability))
    precision = "bf16" if gpu.bf16 else "no bf16, use train.precision=fp16"
    detail = f"{gpu.name}, compute {capability}, {_gb(gpu.free)} of {_gb(gpu.total)} free"
    if gpu.free < 4 << 30:  # ResNet-101 at 600x1000, one image with gradients
        remedy = "end other programs on the GPU or choose another device"
        return Finding(f"gpu {index}", "warn", f"{detail}, {precision}", remedy)
    return Finding(f"gpu {index}", "ok", f"{detail}, {precision}")


def check_cpu(flags: set[str], cores: int, machine: str) -> Finding:
    """Cores this process may use, and whether bf16 has instructions or would be emulated."""
    fast = sorted(flags & {"avx512_bf16", "amx_bf16", "bf16"})
    if fast:
        precision = f"bf16 by {', '.join(fast)}"
    else:
        precision = "bf16 is emulated and slow" if flags else "bf16 support unknown"
    return Finding("cpu", "ok", f"{machine}, {cores} cores, {precision}")


def check_shared_memory(
    size: tuple[int, int] | None, read_through_worker: Callable[[], None]
) -> list[Finding]:
    """``size``: free and total bytes of /dev/shm, None where there is none (Windows, macOS)."""
    findings = []
    if size is not None:
        free, total = size
        status: Status = "ok" if free >= SHM_WANTED else "warn"
        remedy = "" if status == "ok" else SHM_REMEDY
        detail = f"{_gb(free)} of {_gb(total)} free in /dev/shm"
        findings.append(Finding("shared memory", status, detail, remedy))
    try:
        read_through_worker()
    except Exception as error:  # a bus error in the worker arrives as RuntimeError
        # The data loader's message is a whole traceback, and its last line the reason.
        reason = _line(error) if "\n" not in str(error) else str(error).strip().splitlines()[-1]
        detail = f"a worker could not hand over 16 MB: {reason}"
        return [*findings, Finding("worker", "fail", detail, SHM_REMEDY)]
    return [*findings, Finding("worker", "ok", "handed over 16 MB")]


def check_disk(folder: Path, free_bytes: Callable[[Path], int]) -> list[Finding]:
    """Whether the folder takes files, and enough of them."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")
        free = free_bytes(folder)
    except OSError as error:
        remedy = "choose another folder with --folder, and the same for --out in training"
        return [Finding("disk", "fail", f"{folder.absolute()}: {error.strerror}", remedy)]
    detail = f"{_gb(free)} free in {folder.absolute()}"
    if free >= DISK_WANTED:
        return [Finding("disk", "ok", detail)]
    status: Status = "warn" if free >= DISK_NEEDED else "fail"
    return [Finding("disk", status, detail, f"make room: a run keeps up to {_gb(DISK_WANTED)}")]


def _numbers(version: str) -> tuple[int, ...]:
    """(2, 15, 0) of 2.15.0+cu132: the leading numbers, which is what minimum versions state."""
    leading = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in leading[0].split(".")) if leading else ()


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"

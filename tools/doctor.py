"""Check versions, devices, shared memory and disk space of this machine."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from resdet.detection.printing import cell, say, table_console
from resdet.detection.processor import cpu_flags
from resdet.tools import doctor_checks as checks
from resdet.tools.doctor_checks import CheckResult, Gpu

HELP = "check the installation and the machine, with a remedy for each problem"

EXIT_FAILED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--speed",
        action="store_true",
        help="measure how fast the processor convolves, and let inference use what is fastest",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(),
        help="folder for runs",
    )


def run(args: argparse.Namespace) -> int:
    if args.speed:
        return _measure_speed()
    results = examine(args.folder)
    status = checks.worst(results)
    if args.json:
        print(json.dumps({"status": status, "findings": [asdict(each) for each in results]}))
    else:
        _print_table(results)
    return EXIT_FAILED if status == "fail" else 0


def examine(folder: Path) -> list[CheckResult]:
    """Run all checks on this machine. An early failure often explains later ones."""
    return [
        checks.check_python(platform.python_version_tuple()),
        *checks.check_packages(_requirements(), _installed_version),
        *checks.check_cv2(_installed(checks.CV2_DISTRIBUTIONS), _cv2_version),
        checks.check_albumentations(_installed(("albumentations", "albumentationsx"))),
        checks.check_nms(_nms_of_two_boxes),
        *checks.check_gpus(_gpus, driver=shutil.which("nvidia-smi") is not None),
        checks.check_cpu(set(cpu_flags()), len(_cpus()), platform.machine()),
        *checks.check_shared_memory(_shared_memory(), _read_through_worker),
        *checks.check_disk(folder, _free_bytes),
    ]


def _print_table(results: Sequence[CheckResult]) -> None:
    from rich.table import Table

    colors = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "status", "details", "remedy")
    for result in results:
        status = f"[{colors[result.status]}]{result.status}[/]"
        table.add_row(result.check, status, cell(result.detail), cell(result.remedy))
    table_console().print(table)


def _measure_speed() -> int:
    """Print the speed of typical layers, and keep what inference should use."""
    from resdet.backbones.speed import keep, least_channels, measure_layers
    from rich.table import Table

    layers, peak = measure_layers()
    columns = ("convolution", "maps", "ms", "GFLOP/s", "of peak", "Winograd, ms", "speed-up")
    table = Table(*columns, caption=f"peak: {peak / 1e9:.0f} GFLOP/s, the best that was measured")
    for each in layers:
        count, inputs, outputs, kernel, height, width = each.layer
        rate = each.operations / each.direct
        table.add_row(
            f"{kernel}x{kernel}, {inputs} to {outputs}",
            f"{count} x {height} x {width}",
            f"{each.direct * 1000:.1f}",
            f"{rate / 1e9:.0f}",
            f"{rate / peak:.0%}",
            "" if each.winograd is None else f"{each.winograd * 1000:.1f}",
            "" if each.winograd is None else f"{each.speedup:.2f}",
        )
    table_console().print(table)
    channels = least_channels(layers)
    path = keep(channels)
    if channels is None:
        say("convolutions stay direct: Winograd's method is not faster on this processor")
    else:
        say(f"inference and training in fp32 use Winograd's method from {channels} channels on")
    say(f"kept in {path}, for this processor, number of threads and version of torch")
    return 0


def _requirements() -> list[str]:
    """Requirements of the installed package, without its extras."""
    try:
        stated = metadata.requires("resdet") or []
    except metadata.PackageNotFoundError:
        return []
    return [requirement for requirement in stated if ";" not in requirement]


def _installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _installed(names: Sequence[str]) -> dict[str, str]:
    versions = {name: _installed_version(name) for name in names}
    return {name: version for name, version in versions.items() if version is not None}


def _cv2_version() -> str:
    return str(importlib.import_module("cv2").__version__)


def _nms_of_two_boxes() -> list[int]:
    import torch
    import torchvision

    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9]), 0.5)
    return [int(index) for index in kept]


def _gpus() -> list[Gpu]:
    import torch

    return [_gpu(index) for index in range(torch.cuda.device_count())]


def _gpu(index: int) -> Gpu:
    import torch

    torch.ones(
        8, device=f"cuda:{index}"
    ).sum().item()  # fails if torch has no kernels for this device
    free, total = torch.cuda.mem_get_info(index)
    capability = torch.cuda.get_device_capability(index)
    # bf16 instructions exist since compute capability 8.0 (Ampere)
    name = torch.cuda.get_device_name(index)
    return Gpu(name, capability, free, total, bf16=capability >= (8, 0))


def _cpus() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _shared_memory() -> tuple[int, int] | None:
    folder = Path("/dev") / "shm"
    if not folder.is_dir():
        return None
    usage = shutil.disk_usage(folder)
    return usage.free, usage.total


def _read_through_worker() -> None:
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    images = TensorDataset(torch.ones(2, 8 << 20, dtype=torch.uint8))
    loader = DataLoader(images, num_workers=1, timeout=60)
    total = sum(int(batch[0, ::4096].sum()) for (batch,) in loader)
    if total != 2 * (8 << 20) // 4096:
        raise RuntimeError("the data arrived changed")


def _free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


if __name__ == "__main__":
    from resdet.tools.cli import run_tool

    raise SystemExit(run_tool("doctor"))

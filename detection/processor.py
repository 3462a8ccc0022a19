"""The instruction sets of this machine's processor, how it computes in bf16, and its memory."""

from __future__ import annotations

import platform
import re
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

#: What Linux tells of the processor.
CPUINFO = Path("/proc/cpuinfo")

#: Numbers of glibc's settings in malloc.h, and the largest block that is kept, in bytes.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX, LARGEST_KEPT = -1, -3, -8, 1 << 30


def cpu_name() -> str:
    """The processor's name, as Linux or the system calls it; "" where neither does."""
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*:(.*)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor()


@cache
def cpu_flags() -> frozenset[str]:
    """The instruction sets of the processor, by their names in Linux; empty where unknown."""
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:  # another system
        import torch  # `resdet doctor` runs without it, too

        capabilities = getattr(torch.cpu, "get_capabilities", dict)  # not in every version
        return frozenset(name for name, has in capabilities().items() if has is True)
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return frozenset(lines[0].split()) if lines else frozenset()


def bf16_instructions(flags: frozenset[str] | set[str]) -> list[str]:
    """The instruction sets that multiply in bf16: AVX512-BF16 and AMX (x86), BF16 (Arm). Without
    one of them torch emulates bf16."""
    return sorted(flags & {"avx512_bf16", "amx_bf16", "bf16", "svebf16", "sve_bf16", "arm_bf16"})


@cache
def computes_bf16(device: str) -> bool:
    """Whether a device such as ``cpu`` or ``cuda:0`` computes in bf16 without emulation."""
    import torch

    if torch.device(device).type == "cuda":  # since compute capability 8.0 (Ampere)
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return bool(bf16_instructions(cpu_flags()))


@cache
def bf16_gain() -> float:
    """How many times as fast as in fp32 the processor convolves in bf16: 3x3, 256 channels.

    The shortest of three measurements each, which together take a tenth of a second.
    """
    import torch
    from torch.nn.functional import conv2d

    def seconds(dtype: torch.dtype) -> float:
        shapes = (1, 256, 38, 50), (256, 256, 3, 3)
        channels_last = torch.channels_last
        maps, weight = (
            torch.ones(*each, dtype=dtype).to(memory_format=channels_last) for each in shapes
        )
        taken = []
        for _ in range(4):
            start = time.perf_counter()
            conv2d(maps, weight, padding=1)
            taken.append(time.perf_counter() - start)
        return min(taken[1:])

    with torch.inference_mode():
        return seconds(torch.float32) / seconds(torch.bfloat16)


def keep_memory() -> None:
    """From now on the process keeps the memory that it frees, for its next tensors (glibc only).

    Else blocks of more than 32 MB go back to the system at once, and in every pass of a network the
    system has to give them page by page. Only `malloc_trim` gives memory back then. All threads
    share one arena: those of other arenas give blocks of more than 64 MB back all the same.
    """
    import ctypes

    if platform.libc_ver()[0] != "glibc":
        return
    with suppress(OSError, AttributeError):
        settings = ctypes.CDLL(None).mallopt
        # Older versions refuse more than 32 MB; without a size of its own, the second call would
        # leave it at 128 kB.
        if settings(M_MMAP_THRESHOLD, LARGEST_KEPT) or settings(M_MMAP_THRESHOLD, 1 << 25):
            settings(M_TRIM_THRESHOLD, -1)
            settings(M_ARENA_MAX, 1)

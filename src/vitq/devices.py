"""Devices: which one, what its hardware can do, how much memory was needed on it."""

import resource
import sys
from pathlib import Path

import torch

from vitq.errors import ArgumentError, first_line

COMPUTING = ("cpu", "cuda", "mps", "xpu")
"""Kinds of devices that hold values; torch's others hold none (meta) or are no hardware that vitq knows."""


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``, "auto" a GPU where there is one; ArgumentError where it is missing."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in COMPUTING:
            raise RuntimeError(f"vitq computes on {', '.join(COMPUTING)}")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        why = first_line(error, 200)
        raise ArgumentError(f"device '{name[:80]}' is not available: {why}; 'vitq doctor' lists devices") from error
    return device


def supports_bfloat16(device: torch.device) -> bool:
    """Tell whether ``device`` multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


CACHED = 12
"""Times the images that a reconstruction may keep: pairs of activations, which can be larger, at a few cuts."""


def cache_device(device: torch.device, image_bytes: int) -> torch.device:
    """Return where cached activations live: on a GPU with room for them, so that a step moves nothing; else in RAM."""
    if device.type == "cuda" and CACHED * image_bytes < torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")


def peak_memory(device: torch.device) -> int:
    """Return the peak memory of this process in bytes, on the GPU too if there is one."""
    return _peak_resident() + (torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0)


def _peak_resident() -> int:
    """Linux's own count where there is one: getrusage's starts with what the parent process held at the fork."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

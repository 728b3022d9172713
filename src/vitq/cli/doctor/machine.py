"""The machine: CPU, GPUs, compiler, disk."""

import os
import platform
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from vitq.cli.doctor.check import Check, Status
from vitq.report.units import memory, size

ISA_FLAGS = [
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
]
COMPILERS = ("c++", "g++", "clang++", "cl")
LITTLE_DISK = 2e9


def processor() -> Check:
    """Name the CPU, the cores this process may use, memory, and instructions that low-bit kernels use."""
    text = _read("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    listed = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    flags = set(listed[1].split()) if listed else set()
    found = [flag for flag in ISA_FLAGS if flag in flags] or ["no low-bit instructions known"]
    name = model[1] if model else platform.processor() or platform.machine()
    return Check("cpu", Status.OK, f"{name}, {_cores()} cores{_memory()}, {' '.join(found)}")


def accelerators() -> Iterator[Check]:
    """Yield the GPUs that torch can use; none is fine."""
    try:
        import torch
    except Exception:
        return  # already told by the check of torch
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            yield Check(f"cuda:{index}", Status.OK, f"{device.name}, {memory(device.total_memory)}")
    elif torch.version.cuda is not None:
        remedy = "install an NVIDIA driver for this CUDA version, or go on with --device cpu"
        yield Check("cuda", Status.MISSING, f"torch is built for CUDA {torch.version.cuda}, but sees no GPU", remedy)
    else:
        yield Check("cuda", Status.OK, "none: this torch is built for the CPU")


def compiler() -> Check:
    """Look for a C++ compiler and Python's headers, with which torch compiles the quantizers' inner loops."""
    wanted = (os.environ.get("CXX", ""), *COMPILERS)
    found = next((path for path in map(shutil.which, filter(None, wanted)) if path), None)
    headers = Path(sysconfig.get_paths()["include"], "Python.h").is_file()
    if found and headers:
        return Check("compiler", Status.OK, found)
    lacking = "no C++ compiler" if not found else "no Python.h"
    remedy = "install g++ and the headers of this Python (on Debian: apt install g++ python3-dev)"
    return Check("compiler", Status.MISSING, f"{lacking}: quantizers run uncompiled, reconstruction is slower", remedy)


def disk(folder: Path) -> Check:
    """Check the space for artifacts and checkpoints under ``folder``."""
    free = shutil.disk_usage(folder).free
    if free < LITTLE_DISK:
        return Check("disk", Status.MISSING, f"{size(free)} free here", f"free some space, {size(LITTLE_DISK)} or more")
    return Check("disk", Status.OK, f"{size(free)} free here")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> str:
    total = re.search(r"^MemTotal:\s*(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    return f", {memory(int(total[1]) * 1024)}" if total else ""


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

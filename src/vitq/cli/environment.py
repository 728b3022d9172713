"""What vitq finds on this machine: packages, devices, a compiler, disk space, each with a remedy."""

import os
import platform
import re
import shutil
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module, metadata
from pathlib import Path

from vitq.cli.requirements import allows, requirement_of
from vitq.report.units import memory, size

REQUIRED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "timm": "timm",
    "safetensors": "safetensors",
    "huggingface_hub": "huggingface_hub",
    "pydantic": "pydantic",
    "PyYAML": "yaml",
    "numpy": "numpy",
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    "typer": "typer",
    "rich": "rich",
}
EXPORT = "pip install 'vitq[export]'"
OPTIONAL = {
    "transformers": ("Hugging Face image classifiers", "pip install 'vitq[hf]'"),
    "onnxscript": ("vitq export", EXPORT),
    "onnxruntime": ("export and benchmark in ONNX Runtime", EXPORT),
    "openvino": ("export and benchmark in OpenVINO", EXPORT),
}
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


class Status(StrEnum):
    """How a check came out; only ``BROKEN`` keeps vitq from working."""

    OK = "ok"
    MISSING = "missing"
    BROKEN = "broken"


@dataclass(frozen=True)
class Check:
    """One finding: what, how it is, its value, and what to do where it is not ok."""

    name: str
    status: Status
    value: str
    remedy: str = ""


def all_checks() -> Iterator[Check]:
    """Yield every check in the order in which people read them; importing torch takes seconds."""
    yield Check("python", Status.OK, f"{platform.python_version()} on {platform.platform(terse=True)}")
    yield vitq()
    yield from map(required, REQUIRED)
    yield from map(optional, OPTIONAL)
    yield processor()
    yield from accelerators()
    yield compiler()
    yield disk(Path.cwd())


def vitq() -> Check:
    """Name the version of vitq itself."""
    try:
        return Check("vitq", Status.OK, metadata.version("vitq"))
    except metadata.PackageNotFoundError:
        return Check("vitq", Status.MISSING, "runs from a checkout, not installed", "pip install -e .")


def required(distribution: str) -> Check:
    """Check a package without which vitq does not work, by importing it."""
    name = requirement_of(distribution)
    try:
        version = metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return Check(distribution, Status.BROKEN, "not installed", f"pip install '{name}'")
    try:
        if distribution in ("torchvision", "timm"):
            from vitq.models.torchvision_shim import ensure_torchvision

            ensure_torchvision()
        import_module(REQUIRED[distribution])
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        return Check(
            distribution,
            Status.BROKEN,
            f"{version} fails to import: {said}",
            f"pip install --force-reinstall '{name}'",
        )
    if not allows(name, version):
        return Check(distribution, Status.BROKEN, f"{version}, but vitq needs {name}", f"pip install '{name}'")
    return Check(distribution, Status.OK, version)


def optional(distribution: str) -> Check:
    """Check a package that some uses need."""
    purpose, remedy = OPTIONAL[distribution]
    try:
        return Check(distribution, Status.OK, metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return Check(distribution, Status.MISSING, f"needed for {purpose}", remedy)


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

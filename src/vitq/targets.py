"""Targets: what each runtime can carry, and how a model has to be calibrated to run fast there."""

from dataclasses import dataclass
from enum import StrEnum
from importlib.util import find_spec
from typing import Any

from vitq.errors import ExportError, did_you_mean

ALL_FORMATS = frozenset({"affine", "piecewise", "log2", "log2_flush", "log_sqrt2"})

ONNX, IR = ".onnx", ".xml"
"""Endings of files: ONNX, and OpenVINO's graph, whose weights lie beside it in a .bin."""

OPSET = 21
"""The default: the first ONNX opset with 4-bit integers, and that of the operators that vitq writes."""
OPSETS = range(OPSET, 26)
"""Opsets that onnxscript converts those operators to; it does not convert them to older ones, nor yet to newer ones."""


class Carrier(StrEnum):
    """The type that an activation's codes have in the file, whatever their bits: what integer kernels take."""

    UINT8 = "uint8"
    INT8 = "int8"
    """Around zero, so the activation must be symmetric."""


@dataclass(frozen=True)
class Profile:
    """Rules of one target.

    ``runtime``: the package that runs its files here, None where vitq only writes them. ``formats``: what it can
    carry at all. ``overrides``: recipe options with which ``vitq quantize --target`` calibrates for it. ``note``: what
    its files hold. ``scopes``: those it can be calibrated for, its own first.
    """

    name: str
    runtime: str | None
    formats: frozenset[str]
    overrides: dict[str, Any]
    note: str
    carrier: Carrier = Carrier.UINT8
    fused: tuple[str, ...] = ("LayerNormalization", "Gelu")
    """Operators that must be whole in the file, for which a runtime has kernels of their own."""
    suffixes: tuple[str, ...] = (ONNX,)
    """Endings of the files that it reads."""
    scopes: tuple[str, ...] = ("deploy",)


NOT_RUN = "not run: no runtime for this target here"
"""What a file and its table say where nothing was proven."""

_CPU = {"insert.weight.symmetric": True}
_ATTENTION = {f"insert.{role}.granularity": "tensor" for role in ("query", "key", "value", "probabilities")}
_AFFINE = {**_CPU, "insert.post_activation.format": "affine"}
_ROLES = ("activation", "post_norm", "post_activation")
_SYMMETRIC = {**_AFFINE, **{f"insert.{role}.symmetric": True for role in _ROLES}}

PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile(
            "onnxruntime",
            "onnxruntime",
            ALL_FORMATS,
            {**_CPU, **_ATTENTION},
            "linears in int8 kernels, in scope paper attention too, activations uint8, weights symmetric int8",
            scopes=("deploy", "paper"),
        ),
        Profile(
            "openvino",
            "openvino",
            ALL_FORMATS,
            _CPU,
            "as onnxruntime; OpenVINO reads the ONNX file, or has its own",
            suffixes=(ONNX, IR),
        ),
        Profile(
            "tensorrt",
            None,
            frozenset({"affine"}),
            _SYMMETRIC,
            "symmetric int8 on both sides; Q/DQ ONNX is written and checked, not run",
            carrier=Carrier.INT8,
        ),
        Profile(
            "coreml",
            None,
            frozenset({"affine"}),
            _SYMMETRIC,
            "symmetric int8 on both sides; Q/DQ ONNX is written and checked, not run",
            carrier=Carrier.INT8,
        ),
        Profile(
            "qnn",
            None,
            frozenset({"affine"}),
            _AFFINE,
            "uint8 activations, symmetric weights; Q/DQ ONNX is written and checked, not run",
        ),
    )
}


def require_export() -> None:
    """Raise ExportError where the packages that write and check files are missing."""
    missing = [package for package in ("onnx", "onnx_ir", "onnxscript") if find_spec(package) is None]
    if missing:
        raise ExportError(f"export needs {', '.join(missing)}; pip install 'vitq[export]'")


def check_opset(opset: int) -> None:
    """Raise ExportError for an opset that no file is written in."""
    if opset not in OPSETS:
        raise ExportError(
            f"opset {opset} is not possible, {OPSETS[0]} to {OPSETS[-1]} are: older ones have no 4-bit integers, "
            "newer ones onnxscript does not write yet"
        )


def profile_of(target: str) -> Profile:
    """Return the rules of ``target``; ExportError names the known ones."""
    if target not in PROFILES:
        raise ExportError(f"target '{target}' does not exist{did_you_mean(target, PROFILES)}")
    return PROFILES[target]

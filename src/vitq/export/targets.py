"""Targets: what each runtime can carry, and how a model has to be calibrated to run fast there."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.util import find_spec
from typing import Any, TypeVar

from vitq.bits import FLOATING_POINT, Bits
from vitq.errors import ExportError, did_you_mean
from vitq.registry import Registry

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


class Cpu(StrEnum):
    """The x86 CPUs on which a file computes what it was proven to compute; it is right on every other kind too."""

    ANY = "any"
    """Every one: no sum of two products exceeds 16 bits, or the runtime has a kernel that has room for it."""
    VNNI = "vnni"
    """Those that add products in 32 bits (VNNI, AMX): weights keep 8 bits, as int8."""


PAIR = 2**15 - 1
"""The largest sum of two products on x86 CPUs without VNNI, which add products in pairs; larger ones saturate."""


def overflows(signed: int, unsigned: int) -> bool:
    """Whether two products of an int8 code of at most this size and such a uint8 code can exceed PAIR."""
    return 2 * signed * unsigned > PAIR


@dataclass(frozen=True)
class Profile:
    """Rules of one target.

    ``runtime``: the package that runs its files here, None where vitq only writes them. ``formats``: what it can
    carry at all, None for whatever has a lowering. ``overrides``: recipe options with which ``vitq quantize
    --target`` calibrates for it. ``note``: what its files hold. ``scopes``: those it can be calibrated for, its own
    first. ``name`` is given by ``register_target``.
    """

    runtime: str | None
    formats: frozenset[str] | None
    overrides: dict[str, Any]
    note: str
    carrier: Carrier = Carrier.UINT8
    fused: tuple[str, ...] = ("LayerNormalization", "Gelu")
    """Operators that must be whole in the file, for which a runtime has kernels of their own."""
    suffixes: tuple[str, ...] = (ONNX,)
    """Endings of the files that it reads."""
    scopes: tuple[str, ...] = ("deploy",)
    uint8_weights: bool = True
    """Whether weights of uint8 codes stay in its integer kernels, which 8-bit ones need to be right on every CPU."""
    narrow: bool = False
    """Whether weights beside 8-bit activations are calibrated with 7 bits: right and fast on every CPU."""
    name: str = ""


NARROWER = (
    "on CPUs without VNNI int8 kernels saturate with 8 bits on both sides, and what avoids that takes longer on all "
    "others; for CPUs with VNNI alone quantize and export with --cpu vnni, which keeps 8 bits"
)
"""Why ``bits_for`` takes a bit from the weights, and how to keep it."""

NOT_RUN = "not run: no runtime for this target here"
"""What a file and its table say where nothing was proven."""

_CPU = {"insert.weight.symmetric": True}
_ATTENTION = {f"insert.{role}.granularity": "tensor" for role in ("query", "key", "value", "probabilities")}
_AFFINE = {**_CPU, "insert.post_activation.format": "affine"}
_ROLES = ("activation", "post_norm", "post_activation")
_SYMMETRIC = {**_AFFINE, **{f"insert.{role}.symmetric": True for role in _ROLES}}


Making = Callable[[], Profile]
MakingType = TypeVar("MakingType", bound=Making)
PROFILES: Registry[Profile] = Registry("target", Profile, error=ExportError)


def register_target(name: str) -> Callable[[MakingType], MakingType]:
    """Register the profile that a function returns as the target ``name``; ExportError where that is taken."""
    return PROFILES.register(name, lambda make: _named(make(), name))


def _named(made: object, name: str) -> object:
    return replace(made, name=name) if isinstance(made, Profile) else made


@register_target("onnxruntime")
def _onnxruntime() -> Profile:
    return Profile(
        "onnxruntime",
        None,
        {**_CPU, **_ATTENTION},
        "linears in int8 kernels, in scope paper attention too; activations uint8, weights int8 of 7 bits",
        scopes=("deploy", "paper"),
        narrow=True,
    )


@register_target("openvino")
def _openvino() -> Profile:
    return Profile(
        "openvino",
        None,
        _CPU,
        "as onnxruntime; OpenVINO reads the ONNX file, or has its own",
        suffixes=(ONNX, IR),
        uint8_weights=False,
        narrow=True,
    )


@register_target("tensorrt")
@register_target("coreml")
def _int8() -> Profile:
    return Profile(
        None,
        frozenset({"affine"}),
        _SYMMETRIC,
        "symmetric int8 on both sides; Q/DQ ONNX is written and checked, not run",
        carrier=Carrier.INT8,
    )


@register_target("qnn")
def _qnn() -> Profile:
    return Profile(
        None,
        frozenset({"affine"}),
        _AFFINE,
        "uint8 activations, symmetric weights; Q/DQ ONNX is written and checked, not run",
    )


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
    return PROFILES[target]


def profile_for(target: str | None, cpu: str) -> Profile | None:
    """Return the rules of a target where models are calibrated for ``cpu``, None without one.

    ExportError names the known ones, and a ``cpu`` without a target.
    """
    if target is None:
        if cpu != Cpu.ANY:
            raise ExportError(f"cpu {cpu} says which CPUs the files of a target are for: give target too")
        return None
    profile = profile_of(target)
    return profile if cpu_of(cpu, profile) is Cpu.ANY else replace(profile, narrow=False)


def cpu_of(cpu: str, profile: Profile) -> Cpu:
    """Return the CPUs that a file is for; ExportError names the known ones, and targets that are no CPU."""
    known = [str(one) for one in Cpu]
    if cpu not in known:
        raise ExportError(f"cpu '{cpu}' does not exist{did_you_mean(str(cpu), known)}")
    if profile.runtime is None and cpu != Cpu.ANY:
        raise ExportError(f"{profile.name} runs on no x86 CPU, so no file of it is for --cpu {cpu}; leave --cpu out")
    return Cpu(cpu)


def weight_bits_for(bits: int, profile: Profile) -> int:
    """Return the bits to calibrate a weight with beside activations of 8 bits, as ``bits_for`` does."""
    return bits_for(Bits(bits, 8), profile).weights


def bits_for(bits: Bits, profile: Profile) -> Bits:
    """Return the bits to calibrate ``profile`` with: one less for weights that would overflow in its int8 kernels."""
    if not profile.narrow or bits.activations == FLOATING_POINT:
        return bits
    if bits.weights == FLOATING_POINT or not overflows(2 ** (bits.weights - 1), 2**bits.activations - 1):
        return bits
    return Bits(bits.weights - 1, bits.activations)

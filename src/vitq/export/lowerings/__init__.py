"""How each number format is written for a runtime: one file per format or family, with its operations."""

from vitq.export.lowerings.affine import affine, affine_float
from vitq.export.lowerings.codebook import codebook
from vitq.export.lowerings.logarithm import table
from vitq.export.lowerings.lowering import (
    LOWERINGS,
    Arguments,
    Codes,
    Lowering,
    WeightLowering,
    operation_of,
    refusal,
    register_lowering,
)
from vitq.export.lowerings.piecewise import piecewise
from vitq.export.lowerings.twin import twin

__all__ = [
    "LOWERINGS",
    "Arguments",
    "Codes",
    "Lowering",
    "WeightLowering",
    "affine",
    "affine_float",
    "codebook",
    "operation_of",
    "piecewise",
    "refusal",
    "register_lowering",
    "table",
    "twin",
]

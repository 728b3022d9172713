"""How each number format is written for a runtime: one file per format or family, with its operations."""

from vitq.export.lowerings.affine import affine, affine_float
from vitq.export.lowerings.channel_factors import with_channel_scale
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
from vitq.export.lowerings.matthew import matthew
from vitq.export.lowerings.piecewise import piecewise
from vitq.export.lowerings.shifted_logarithm import adalog, shift_uniform_log2
from vitq.export.lowerings.twin import twin

__all__ = [
    "LOWERINGS",
    "Arguments",
    "Codes",
    "Lowering",
    "WeightLowering",
    "adalog",
    "affine",
    "affine_float",
    "codebook",
    "matthew",
    "operation_of",
    "piecewise",
    "refusal",
    "register_lowering",
    "shift_uniform_log2",
    "table",
    "twin",
    "with_channel_scale",
]

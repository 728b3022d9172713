"""The reference integer executor: an artifact that works on its integer codes, in plain PyTorch."""

from vitq.integer.graph import Floating, IntegerGraph, integer_graph
from vitq.integer.modules import IntegerConvolution, IntegerLinear, IntegerProduct, int_mm

__all__ = [
    "Floating",
    "IntegerConvolution",
    "IntegerGraph",
    "IntegerLinear",
    "IntegerProduct",
    "int_mm",
    "integer_graph",
]

"""The reference integer executor: an artifact whose products are of int8 codes, added in int32, in plain PyTorch."""

from vitq.integer.graph import IntegerGraph, integer_graph
from vitq.integer.modules import IntegerConvolution, IntegerLinear, IntegerProduct, int_mm

__all__ = ["IntegerConvolution", "IntegerGraph", "IntegerLinear", "IntegerProduct", "int_mm", "integer_graph"]

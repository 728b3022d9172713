"""Number formats: pure functions first, a thin module around them."""

from vitq.quantizers.affine import AffineQuantizer, affine_from_range, fake_quantize_affine
from vitq.quantizers.base import Quantizer
from vitq.quantizers.compiled import compile_failure, compiling, use_compiled_kernels, worth_compiling
from vitq.quantizers.drop import DropMask
from vitq.quantizers.format import Format, Granularity
from vitq.quantizers.granularity import activation_axis, parameter_shape, reduce_dims, weight_axis
from vitq.quantizers.kernels import LARGEST_SCALE, SMALLEST_SCALE, Kernel, clamp_scale
from vitq.quantizers.log2 import Log2FlushQuantizer, Log2Quantizer
from vitq.quantizers.log_sqrt2 import LogSqrt2Quantizer
from vitq.quantizers.packing import pack, packed_size, unpack
from vitq.quantizers.piecewise import PiecewiseQuantizer
from vitq.quantizers.registry import FORMATS, make_quantizer, register_format
from vitq.quantizers.simulation import fake_quantize

__all__ = [
    "FORMATS",
    "LARGEST_SCALE",
    "SMALLEST_SCALE",
    "AffineQuantizer",
    "DropMask",
    "Format",
    "Granularity",
    "Kernel",
    "Log2FlushQuantizer",
    "Log2Quantizer",
    "LogSqrt2Quantizer",
    "PiecewiseQuantizer",
    "Quantizer",
    "activation_axis",
    "affine_from_range",
    "clamp_scale",
    "compile_failure",
    "compiling",
    "fake_quantize",
    "fake_quantize_affine",
    "make_quantizer",
    "pack",
    "packed_size",
    "parameter_shape",
    "reduce_dims",
    "register_format",
    "unpack",
    "use_compiled_kernels",
    "weight_axis",
    "worth_compiling",
]

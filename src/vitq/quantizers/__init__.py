"""Number formats: pure functions first, a thin module around them."""

from vitq.quantizers.adalog import AdaLog
from vitq.quantizers.affine import Affine, affine_from_range, fake_quantize_affine
from vitq.quantizers.base import Quantizer, make_quantizer
from vitq.quantizers.codebook import Codebook
from vitq.quantizers.codec import SCALE, ZERO_POINT, Codec, IntegerView, Parameter, Parameters
from vitq.quantizers.compiled import compile_failure, compiling, use_compiled_kernels, worth_compiling
from vitq.quantizers.drop import DropMask
from vitq.quantizers.format import GRANULARITIES, Format, Granularity
from vitq.quantizers.granularity import activation_axis, parameter_shape, reduce_dims, weight_axis
from vitq.quantizers.log2 import Log2, Log2Flush, Logarithm
from vitq.quantizers.log_sqrt2 import LogSqrt2
from vitq.quantizers.matthew import Matthew
from vitq.quantizers.outlier_channels import OutlierChannels
from vitq.quantizers.packing import pack, packed_size, unpack
from vitq.quantizers.piecewise import Piecewise
from vitq.quantizers.power_of_two_factor import PowerOfTwoFactor
from vitq.quantizers.pwlq import Pwlq
from vitq.quantizers.registry import FORMATS, register_format
from vitq.quantizers.scales import LARGEST_SCALE, SMALLEST_SCALE, clamp_scale
from vitq.quantizers.shift_uniform_log2 import ShiftUniformLog2
from vitq.quantizers.simulation import fake_quantize
from vitq.quantizers.subset import Subset
from vitq.quantizers.twin import Twin
from vitq.quantizers.twin_sign import TwinSign
from vitq.quantizers.whole_factor import WholeFactor

__all__ = [
    "FORMATS",
    "GRANULARITIES",
    "LARGEST_SCALE",
    "SCALE",
    "SMALLEST_SCALE",
    "ZERO_POINT",
    "AdaLog",
    "Affine",
    "Codebook",
    "Codec",
    "DropMask",
    "Format",
    "Granularity",
    "IntegerView",
    "Log2",
    "Log2Flush",
    "LogSqrt2",
    "Logarithm",
    "Matthew",
    "OutlierChannels",
    "Parameter",
    "Parameters",
    "Piecewise",
    "PowerOfTwoFactor",
    "Pwlq",
    "Quantizer",
    "ShiftUniformLog2",
    "Subset",
    "Twin",
    "TwinSign",
    "WholeFactor",
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

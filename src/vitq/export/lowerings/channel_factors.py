"""Affine codes whose scale is one for all channels times a factor for each: affine with a scale per channel."""

from collections.abc import Callable, Mapping

from torch import Tensor

from vitq.export.lowerings.affine import affine, affine_float, affine_signed
from vitq.export.lowerings.lowering import Arguing, Arguments, Lowering, register_lowering
from vitq.quantizers import PowerOfTwoFactor, Quantizer


def multiplied(arguments: Callable[[Quantizer, Mapping[str, Tensor]], Arguments]) -> Arguing:
    """Return what an affine operation takes, with the scale of each channel."""

    def given(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
        codec = quantizer.codec
        assert isinstance(codec, PowerOfTwoFactor)
        scale = parameters["scale"] * codec.factor(parameters)
        return arguments(quantizer, {"scale": scale, "zero_point": parameters["zero_point"]})

    return given


for name in ("power_of_two_factor", "outlier_channels"):
    register_lowering(
        name,
        "affine",
        floating=Lowering("affine_float", multiplied(affine_float)),
        signed=Lowering("affine", multiplied(affine_signed)),
    )(multiplied(affine))

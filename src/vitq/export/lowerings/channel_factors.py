"""Affine codes whose scale is one for all channels times a factor for each: affine with a scale per channel."""

from collections.abc import Mapping

from torch import Tensor

from vitq.export.lowerings.affine import affine, affine_float, affine_signed
from vitq.export.lowerings.lowering import Arguments, Lowering, MakeArguments, register_lowering
from vitq.quantizers import PowerOfTwoFactor, Quantizer


def with_channel_scale(arguments: MakeArguments) -> MakeArguments:
    """Return ``arguments`` of an affine operation, given the scale of each channel."""

    def given(quantizer: Quantizer, parameters: Mapping[str, Tensor]) -> Arguments:
        codec = quantizer.codec
        assert isinstance(codec, PowerOfTwoFactor)
        scale = parameters["scale"] * codec.factor(parameters)
        return arguments(quantizer, {"scale": scale, "zero_point": parameters["zero_point"]})

    return given


for name in ("power_of_two_factor", "whole_factor", "outlier_channels"):
    register_lowering(
        name,
        "affine",
        floating=Lowering("affine_float", with_channel_scale(affine_float)),
        signed=Lowering("affine", with_channel_scale(affine_signed)),
    )(with_channel_scale(affine))

"""Format values, their validation, and the shapes that follow from a granularity."""

import pytest
import torch

from vitq.errors import RecipeError
from vitq.quantizers import (
    FORMATS,
    GRANULARITIES,
    Format,
    Granularity,
    activation_axis,
    make_quantizer,
    parameter_shape,
    reduce_dims,
    register_format,
    weight_axis,
)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("granularity", [*GRANULARITIES, Granularity.group(32)])
def test_dict_round_trip(bits: int, granularity: Granularity) -> None:
    value = Format("affine", bits, granularity, symmetric=True)
    assert Format.from_dict(value.to_dict()) == value
    assert type(value.to_dict()["granularity"]) is str
    assert value.qmax == 2**bits - 1


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bits": 1}, "2 to 8 bits"),
        ({"bits": 9}, "2 to 8 bits"),
        ({"bits": 4.0}, "2 to 8 bits"),
        ({"bits": True}, "2 to 8 bits"),
        ({"symmetric": "no"}, "true or false"),
        ({"granularity": "chanel"}, "did you mean 'channel'"),
        ({"bit": 4}, "did you mean 'bits'"),
    ],
)
def test_invalid_formats_say_what_is_wrong(values: dict[str, object], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        Format.from_dict(values)


def test_a_string_granularity_becomes_an_enum() -> None:
    assert Format("affine", 4, "head").granularity == Granularity.HEAD  # type: ignore[arg-type]


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'affine'"):
        make_quantizer(Format("afine"))


def test_a_name_registers_once() -> None:
    with pytest.raises(RecipeError, match="already registered"):
        register_format("affine")(type(FORMATS["log2"]))


@pytest.mark.parametrize(("granularity", "axis"), [("tensor", -1), ("channel", None), ("channel", 1)])
def test_axis_must_fit_the_granularity(granularity: str, axis: int | None) -> None:
    with pytest.raises(RecipeError, match="axis"):
        make_quantizer(Format("affine", 4, Granularity(granularity)), axis)


@pytest.mark.parametrize("name", ["log2", "log2_flush", "log_sqrt2", "piecewise"])
def test_one_sided_formats_have_no_sign(name: str) -> None:
    with pytest.raises(RecipeError, match="symmetric"):
        make_quantizer(Format(name, 4, symmetric=True))


@pytest.mark.parametrize(
    ("shape", "axis", "expected"),
    [
        ((8, 5), None, ()),
        ((8, 5), 0, (8, 1)),
        ((8, 3, 2, 2), 0, (8, 1, 1, 1)),
        ((4, 7, 6), -1, (6,)),
        ((4, 7, 6), -2, (7, 1)),
        ((4, 2, 7, 6), -3, (2, 1, 1)),
    ],
)
def test_parameter_shape_broadcasts_and_matches_the_reduction(
    shape: tuple[int, ...], axis: int | None, expected: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    assert parameter_shape(shape, axis) == expected
    assert torch.broadcast_shapes(shape, expected) == shape
    dims = reduce_dims(x, axis)
    least = x.amin(dims).reshape(expected)
    assert bool((x >= least).all())
    assert torch.equal((x == least).sum(dims).flatten(), torch.ones(least.numel(), dtype=torch.long))


def test_axes_of_weights_and_activations() -> None:
    assert [activation_axis(g) for g in GRANULARITIES] == [None, -1, -3, -2]
    assert activation_axis(Granularity.CHANNEL, channels_first=True) == -3
    assert weight_axis(Granularity.CHANNEL) == 0
    assert weight_axis(Granularity.TENSOR) is None
    with pytest.raises(RecipeError, match="head"):
        weight_axis(Granularity.HEAD)
    with pytest.raises(RecipeError, match="axis -3"):
        parameter_shape((2, 2), -3)

"""Costs by hand."""

import pytest
import torch
from torch import nn

from vitq.allocate import site_costs
from vitq.allocate.costs import stored_bytes
from vitq.graph import capture
from vitq.quantizers import Format, Granularity


def test_elements_and_multiplications_are_those_counted_by_hand(attend: nn.Module) -> None:
    costs = site_costs(capture(attend, torch.randn(2, 3, 8, 8)))
    assert {product.name.rpartition("_")[0] or product.name for product in costs.products}
    macs = {(p.left, p.right): p.macs for p in costs.products}
    assert macs == {
        ("patch/input", "patch/weight"): 8 * 4 * 3 * 16,
        ("qkv/input", "qkv/weight"): 4 * 8 * 24,
        ("matmul/query", "matmul/key"): 4 * 4 * 8,
        ("matmul_1/probabilities", "matmul_1/value"): 4 * 4 * 8,
        ("proj/input", "proj/weight"): 4 * 8 * 8,
        ("fc/input", "fc/weight"): 4 * 8 * 8,
        ("head/input", "head/weight"): 8 * 5,
    }
    assert costs.macs == sum(macs.values())
    assert (costs.sites["patch/input"].elements, costs.sites["qkv/weight"].elements) == (3 * 8 * 8, 24 * 8)
    assert costs.sites["matmul_1/probabilities"].elements == 16


def test_bit_operations_and_averages_count_what_has_no_bits_as_32(attend: nn.Module) -> None:
    costs = site_costs(capture(attend, torch.randn(2, 3, 8, 8)))
    fc = costs.bit_operations({"fc/input": 4, "fc/weight": 2}) - costs.bit_operations({})
    assert fc == 256 * (4 * 2 - 32 * 32)
    assert costs.average({"fc/weight": 2, "head/weight": 8}, weights=True) == pytest.approx((64 * 2 + 40 * 8) / 104)
    assert costs.average({"fc/weight": 2}, weights=False) is None


class Convolutions(nn.Module):
    """A grouped and a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.up = nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.up(self.grouped(x_BCHW)).mean((2, 3))
        return result


def test_groups_divide_and_transposed_convolutions_count_by_their_input() -> None:
    costs = site_costs(capture(Convolutions(), torch.randn(2, 4, 6, 6)))
    macs = {p.right: p.macs for p in costs.products}
    assert macs == {"grouped/weight": 36 * 8 * 2 * 9, "up/weight": 36 * 8 * 3 * 4}


@pytest.mark.parametrize(
    ("form", "numbers"),
    [
        (Format("affine", 3, Granularity.CHANNEL, True), 24 * 2),
        (Format("affine", 3, Granularity("group(4)")), 24 * 2 * 2),
        (Format("codebook", 3, Granularity.CHANNEL), 24 * 8),
    ],
    ids=["affine", "groups", "codebook"],
)
def test_a_weight_costs_its_codes_and_every_number_of_its_parameters(
    attend: nn.Module, form: Format, numbers: int
) -> None:
    weight = site_costs(capture(attend, torch.randn(2, 3, 8, 8))).sites["qkv/weight"]
    assert stored_bytes(weight, form, 0, (24, 8)) == 24 * 8 * 3 // 8 + 4 * numbers

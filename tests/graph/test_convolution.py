"""A convolution is the product of its patches and its weights, transposed or not."""

import pytest
import torch
from torch import nn

from vitq.calibrate.groups import input_matrix, weight_matrix
from vitq.graph import capture
from vitq.graph.convolution import convolution
from vitq.graph.ops import CONV, is_op

LAYERS: dict[str, nn.Module] = {
    "conv2d": nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)),
    "conv2d same": nn.Conv2d(3, 4, 4, padding="same", dilation=2),
    "conv2d valid": nn.Conv2d(3, 4, 3, padding="valid"),
    "conv1d": nn.Conv1d(3, 4, 3, stride=2, padding=1, dilation=2),
    "conv1d same": nn.Conv1d(3, 4, 4, padding="same"),
    "transposed": nn.ConvTranspose2d(3, 4, 2, stride=2),
    "transposed with overlaps": nn.ConvTranspose2d(3, 4, (3, 4), stride=(2, 3), padding=(1, 2), output_padding=(1, 2)),
    "transposed, dilated": nn.ConvTranspose2d(3, 4, 3, dilation=2, bias=False),
    "transposed, cropped": nn.ConvTranspose2d(3, 4, 2, stride=2, padding=2),
    "transposed 1d": nn.ConvTranspose1d(3, 4, 5, stride=3, padding=2, output_padding=1),
}


@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_patches_times_weights_are_the_convolution(name: str) -> None:
    layer, generator = LAYERS[name], torch.Generator().manual_seed(0)
    shape = (2, 3, 9) if "1d" in name else (2, 3, 9, 8)
    x = torch.randn(shape, generator=generator)
    (node,) = [n for n in capture(layer, x).module.graph.nodes if is_op(n, CONV)]
    weight, bias = layer.get_parameter("weight"), layer.bias if isinstance(layer.bias, torch.Tensor) else 0.0
    w_OI = weight_matrix(node, weight)
    assert w_OI is not None
    expected = layer(x)
    found = (input_matrix(node, x) @ w_OI.T + bias).reshape(2, -1, 4).mT.reshape(expected.shape)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_groups_and_three_dimensions_are_no_plain_product() -> None:
    for layer, shape in ((nn.Conv2d(4, 4, 3, groups=2), (2, 4, 8, 8)), (nn.Conv3d(4, 4, 1), (2, 4, 3, 8, 8))):
        graph = capture(layer, torch.randn(shape)).module.graph
        (node,) = [n for n in graph.nodes if n.op == "call_function"]
        geometry = convolution(node)
        assert geometry is None or geometry.groups == 2
        assert weight_matrix(node, layer.get_parameter("weight")) is None

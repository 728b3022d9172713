"""The reference integer executor: an artifact whose linears multiply int8 codes and add in int32, in plain PyTorch."""

import copy
from collections.abc import Mapping

import torch
from torch import fx, nn

from vitq.errors import ExportError
from vitq.graph import Graph
from vitq.graph.ops import LINEAR, attribute, is_op
from vitq.quantizers import Quantizer

OFFSET = 128
"""What turns uint8 codes into int8 ones."""
ROWS = 256
"""Rows at a time on a CPU: what is in between stays in its caches (benchmarks/deploy.md)."""


class IntegerLinear(nn.Module):
    """y = s_x s_w Σ (a - z_x) (w - z_w), the sum in integers: x_…I (floating point) to y_…O.

    ``quantizer`` gives the codes a; weights are int8 codes w of shape (I, O), with a scale and zero point per O.
    """

    def __init__(self, quantizer: Quantizer, codes_OI: torch.Tensor, weight: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer
        parameters = weight.parameters_dict()
        zero_O = parameters["zero_point"].round().flatten().to(torch.int32) - OFFSET
        outputs, inputs = codes_OI.shape
        w_IO = (codes_OI ^ OFFSET).view(torch.int8).T.contiguous()
        self.register_buffer("w_IO", w_IO)
        self.register_buffer("scale_O", parameters["scale"].flatten().expand(outputs).clone())
        self.register_buffer("zero_O", zero_O.expand(outputs).clone())
        self.register_buffer("sum_O", w_IO.sum(0, dtype=torch.int32) - inputs * self.zero_O)
        self.has_zeros = bool(zero_O.any())

    w_IO: torch.Tensor
    scale_O: torch.Tensor
    zero_O: torch.Tensor
    sum_O: torch.Tensor

    def forward(self, x: torch.Tensor, bias_O: torch.Tensor | None = None) -> torch.Tensor:
        """Return the product plus the bias in float32."""
        x_TI = x.reshape(-1, x.shape[-1])
        y_TO = x_TI.new_empty(len(x_TI), len(self.scale_O), dtype=torch.float32)
        rows = len(x_TI) if x.is_cuda else ROWS
        for part_TI, out_TO in zip(x_TI.split(rows), y_TO.split(rows), strict=True):
            self._multiply(part_TI, out_TO)
            if bias_O is not None:
                out_TO += bias_O
        return y_TO.reshape(*x.shape[:-1], -1)

    def _multiply(self, x_TI: torch.Tensor, y_TO: torch.Tensor) -> None:
        """Write the product into ``y_TO``."""
        a_TI, zero = self._codes(x_TI)
        total_TO = int_mm(a_TI, self.w_IO)
        if self.has_zeros:
            total_TO.addcmul_(a_TI.sum(1, keepdim=True, dtype=torch.int32), self.zero_O, value=-1)
        total_TO -= zero * self.sum_O
        torch.mul(total_TO, self.quantizer.scale * self.scale_O, out=y_TO)

    def _codes(self, x_TI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return int8 codes of one step, and their zero point; piecewise values are whole multiples of the scale."""
        zero = self.quantizer.get_parameter("zero_point").round().to(torch.int32)
        codes = self.quantizer.encode(x_TI)
        if self.quantizer.format.name == "piecewise":
            codes = ((self.quantizer.decode(codes) / self.quantizer.scale).round() + zero).to(torch.uint8)
        return (codes ^ OFFSET).view(torch.int8), zero - OFFSET  # the highest bit flipped: 128 less, as int8


def int_mm(a_TI: torch.Tensor, w_IO: torch.Tensor) -> torch.Tensor:
    """Return the int32 product of int8 matrices; CUDA's kernel wants sizes that are multiples of 8, thus padding."""
    if not a_TI.is_cuda:
        return torch._int_mm(a_TI, w_IO)
    rows, inputs, outputs = len(a_TI), *w_IO.shape
    more = [-size % 8 for size in (rows, inputs, outputs)]
    more[0] += 24 if rows + more[0] <= 16 else 0
    a = nn.functional.pad(a_TI, (0, more[1], 0, more[0]))
    w = nn.functional.pad(w_IO, (0, more[2], 0, more[1]))
    return torch._int_mm(a, w)[:rows, :outputs]


def integer_graph(graph: Graph, weights: Mapping[str, Quantizer]) -> tuple[fx.GraphModule, int]:
    """Return a copy of ``graph`` whose linears are integer ones, and how many they are.

    A linear stays in floating point where its input or weight has no codes of one scale and zero point. Raises
    ExportError where none is left.
    """
    module = copy.deepcopy(graph.module)
    nodes = {node.name: node for node in module.graph.nodes}
    count = 0
    for name, quantizer in weights.items():
        source = nodes[graph.sites[name].node]
        for linear in [user for user in source.users if is_op(user, LINEAR)]:
            entry = linear.args[0]
            reader = module.get_submodule(str(entry.target)) if entry.op == "call_module" else None
            if not isinstance(reader, Quantizer) or not reader.has_integer_values or quantizer.format.name != "affine":
                continue
            target, tensor = f"integer_{linear.name}", attribute(module, str(source.target))
            module.add_submodule(target, IntegerLinear(reader, quantizer.encode(tensor), quantizer))
            with module.graph.inserting_before(linear):
                new = module.graph.call_module(target, (entry.args[0], *linear.args[2:]))
            linear.replace_all_uses_with(new)
            module.graph.erase_node(linear)
            count += 1
    if not count:
        raise ExportError("no linear of this model has integer codes on both sides, so there is nothing to run")
    module.graph.eliminate_dead_code()
    module.recompile()
    return module, count

"""Weights as integer codes, and the linears that read them as products of codes."""

from collections.abc import Collection

import torch
from torch import fx

from vitq.errors import ExportError
from vitq.export.lowerings import LOWERINGS, operation_of, refusal
from vitq.export.parts import parts_of, read
from vitq.graph.edit import insert_constant, replace
from vitq.graph.ops import LINEAR, MATMUL, attribute, is_op, value
from vitq.quantizers import Quantizer

WHOLE = slice(None)
VALUES = "weight_values"
"""The operation for affine weights that no integer kernel takes."""


def lower_weight(
    module: fx.GraphModule, source: fx.Node, quantizer: Quantizer, keep: Collection[str], unsigned: bool = False
) -> dict[str, int]:
    """Replace a weight by its codes, offset to be signed or ``unsigned``; return the bits of each buffer of codes.

    Linears that read it become products with its transpose, one for each part where the result is taken apart; nodes
    to ``keep`` stay.
    """
    lowering = LOWERINGS[quantizer.format.name].weight
    if lowering is None:
        raise ExportError(f"site '{quantizer.site}': {refusal(quantizer, is_weight=True)}")
    operation = operation_of(lowering.operation)
    codes, tensors = lowering.codes(quantizer, quantizer.encode(attribute(module, str(source.target))), unsigned)
    axis = (quantizer.axis or 0) % codes.ndim
    found: dict[str, int] = {}

    def values(
        name: str, held: torch.Tensor, rows: slice, axis: int, before: fx.Node, reader: fx.Node | None = None
    ) -> fx.Node:
        """Call the operation on these rows of codes, whose outputs are along ``axis``, and of the other tensors."""
        found[name] = quantizer.format.bits
        own = {f"{name}_{key}": t[rows].movedim(0, -1 if axis else 0) if t.ndim else t for key, t in tensors.items()}
        given = [constant(module, key, tensor, before) for key, tensor in {name: held, **own}.items()]
        affine = lowering.operation == "weight" and tensors["scale"].ndim == 1
        plain = affine and reader is not None and not _has_kernel(reader, source, axis)
        return module.graph.call_function(operation_of(VALUES) if plain else operation, (*given, axis))

    for user in list(source.users):
        if not is_op(user, LINEAR):
            with module.graph.inserting_before(user):
                user.replace_input_with(source, values(f"{source.name}_codes", codes, WHOLE, axis, user, user))
            continue
        parts = parts_of(user, keep)
        for part in parts:
            with module.graph.inserting_before(part.reader):
                name = f"{source.name}_codes_{part.rows.start}_t"
                held = values(name, codes[part.rows].T.contiguous(), part.rows, 1, part.reader)
                read(module.graph, part, _product(module.graph, user, held, part.rows))
        if not parts:
            with module.graph.inserting_before(user):
                held = values(f"{source.name}_codes_t", codes.T.contiguous(), WHOLE, 1, user)
                product = _product(module.graph, user, held, WHOLE)
            replace(module, user, product)
    return found


def _has_kernel(reader: fx.Node, source: fx.Node, axis: int) -> bool:
    """Whether runtimes have an integer kernel for a weight with scales along ``axis``: none for stacks of matrices.

    ONNX Runtime takes their scales for those of one matrix, and then fails (SAM's relative positions).
    """
    if not is_op(reader, MATMUL):
        return True
    return value(source).ndim == 2 and axis == 1 and reader.args[1] is source


def _product(graph: fx.Graph, linear: fx.Node, values: fx.Node, rows: slice) -> fx.Node:
    """Write a linear, or these ``rows`` of its weight, as product and sum.

    With one row per image it gets a dimension more: ONNX Runtime makes a float Gemm of a flat product and sum.
    """
    x = linear.args[0]
    flat = isinstance(x, fx.Node) and value(x).ndim == 2
    if flat:
        x = graph.call_function(torch.ops.aten.unsqueeze.default, (x, 1))
    product = graph.call_function(torch.ops.vitq.linear.default, (x, values))
    if len(linear.args) > 2 and linear.args[2] is not None:
        bias = linear.args[2]
        if rows != WHOLE:
            bias = graph.call_function(torch.ops.aten.slice.Tensor, (bias, 0, rows.start, rows.stop))
        product = graph.call_function(torch.ops.aten.add.Tensor, (product, bias))
    return graph.call_function(torch.ops.aten.squeeze.dim, (product, 1)) if flat else product


def constant(module: fx.GraphModule, name: str, tensor: torch.Tensor, before: fx.Node) -> fx.Node:
    """Read a new buffer, made once."""
    if hasattr(module, name):
        with module.graph.inserting_before(before):
            return module.graph.get_attr(name)
    return insert_constant(module, name, tensor.detach().clone(), before=before)

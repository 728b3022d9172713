"""Types of the values in a saved graph: operations that convert none get operands of one type."""

import torch
from torch import fx

from vitq.errors import GraphError

ALIKE = frozenset({
    "addmm", "baddbmm", "batch_norm", "bmm", "conv1d", "conv2d", "conv3d", "convolution", "einsum", "group_norm",
    "layer_norm", "linear", "matmul", "mm", "native_layer_norm", "rms_norm", "scaled_dot_product_attention",
})  # fmt: skip
"""Operations whose kernels refuse operands of two types; fake values do not notice them."""


def require_alike(module: fx.GraphModule) -> None:
    """Raise GraphError where an operation of ``ALIKE`` reads tensors of two types; a mask may be of truth values."""
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.removeprefix("aten::")
        values = [source.meta.get("val") for source in node.all_input_nodes] if name in ALIKE else []
        types = {value.dtype for value in values if isinstance(value, torch.Tensor)}
        if name == "scaled_dot_product_attention":
            types -= {torch.bool}
        if len(types) > 1:
            shown = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
            raise GraphError(f"node '{node.name}' ({name}) reads tensors of types {shown}")

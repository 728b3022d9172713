"""Operands in a saved graph that torch refuses only when it computes; fake values do not notice them."""

import torch
from torch import fx

from vitq.errors import GraphError

ALIKE = frozenset({
    "addmm", "baddbmm", "batch_norm", "bmm", "conv1d", "conv2d", "conv3d", "convolution", "einsum", "group_norm",
    "layer_norm", "linear", "matmul", "mm", "native_layer_norm", "rms_norm", "scaled_dot_product_attention",
})  # fmt: skip
"""Operations whose kernels refuse operands of two types."""


def require_computable(module: fx.GraphModule) -> None:
    """Raise GraphError where an operation of ``ALIKE`` reads tensors of two types, or a linear adds a bias that is no
    vector; a mask may be of truth values.
    """
    for node in module.graph.nodes:
        if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
            continue
        name = node.target._schema.name.removeprefix("aten::")
        values = [source.meta.get("val") for source in node.all_input_nodes] if name in ALIKE else []
        if name == "linear" and len(values) > 2 and isinstance(values[2], torch.Tensor) and values[2].ndim != 1:
            raise GraphError(f"node '{node.name}' (linear) adds a bias of shape {tuple(values[2].shape)}")
        types = {value.dtype for value in values if isinstance(value, torch.Tensor)}
        if name == "scaled_dot_product_attention":
            types -= {torch.bool}
        if len(types) > 1:
            shown = " and ".join(sorted(str(kind).removeprefix("torch.") for kind in types))
            raise GraphError(f"node '{node.name}' ({name}) reads tensors of types {shown}")

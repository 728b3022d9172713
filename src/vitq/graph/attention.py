"""Open fused attention into its matmul, softmax, matmul, so that its inside can be quantized."""

import math
from typing import Any

import torch
from torch import fx

from vitq.errors import GraphError
from vitq.graph.edit import Emitter, replace
from vitq.graph.ops import ATTENTION, aten, attribute, is_op, origin, value

_NAMES = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


def open_attention(module: fx.GraphModule) -> int:
    """Rewrite each ``scaled_dot_product_attention`` as softmax(q·s @ kᵀ + mask) @ v and count them.

    q_BHND, k_BHMD and v_BHMD give the same result up to floating-point order; the scale is applied to the
    query, as in timm's unfused path.
    """
    fused = [n for n in module.graph.nodes if is_op(n, ATTENTION)]
    for node in fused:
        _open(module, node)
    module.graph.eliminate_dead_code()
    module.recompile()
    return len(fused)


def _open(module: fx.GraphModule, node: fx.Node) -> None:
    arguments: dict[str, Any] = dict(zip(_NAMES, node.args, strict=False)) | dict(node.kwargs)
    query, key, mask = arguments["query"], arguments["key"], arguments.get("attn_mask")
    if arguments.get("enable_gqa"):
        raise GraphError(f"attention '{node.name}' groups its queries (enable_gqa); vitq cannot open it yet")
    scale = arguments.get("scale") or 1.0 / math.sqrt(value(query).shape[-1])
    emit = Emitter(module, node)
    scaled = emit(aten.mul.Tensor, query, scale)
    scores = emit(aten.matmul.default, scaled, emit(aten.transpose.int, key, -2, -1))
    if arguments.get("is_causal"):
        mask = emit.constant(torch.ones(value(scores).shape[-2:], dtype=torch.bool).tril())
    if mask is not None and not _always_true(module, mask):
        if value(mask).dtype == torch.bool:
            floor = emit.constant(torch.tensor(torch.finfo(value(scores).dtype).min))
            scores = emit(aten.where.self, mask, scores, floor)
        else:
            scores = emit(aten.add.Tensor, scores, mask)
    probabilities = emit(aten.softmax.int, scores, -1)
    replace(module, node, emit(aten.matmul.default, probabilities, arguments["value"]), keep_name=False)


def _always_true(module: fx.GraphModule, mask: fx.Node) -> bool:
    """Tell whether ``mask`` is a constant that hides nothing, as some libraries pass for whole images."""
    source = origin(mask)
    if source.op != "get_attr" or value(source).dtype != torch.bool:
        return False
    return bool(attribute(module, str(source.target)).all())

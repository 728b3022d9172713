"""Fold batch norms, which scale and shift by constants, into the convolution or the linear before them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from vitq.graph.edit import delete_unused_tensors, finish, insert_constant, replace, replace_tensor
from vitq.graph.functional import NORM
from vitq.graph.ops import CONV, LINEAR, VIEW, aten, attribute, is_op, is_transposed, value

MOVED = VIEW | {aten.reshape.default, aten.flatten.using_ints}


@dataclass(frozen=True)
class Norm:
    """A batch norm as y = factor_C * x + shift_C, in double precision, and the product that gives x."""

    node: fx.Node
    product: fx.Node
    factor_C: torch.Tensor
    shift_C: torch.Tensor


def fold_batch_norms(module: fx.GraphModule) -> int:
    """Scale the weights before each batch norm instead of their products, and count the norms that are gone.

    Same result up to floating-point order. A norm stays where its input has other readers, or where its product's
    weights or bias serve another operation or are computed. Source: Jacob et al. (arXiv 1712.05877), section 3.2.
    """
    norms = [norm for node in list(module.graph.nodes) if (norm := _foldable(module, node)) is not None]
    for norm in norms:
        _fold(module, norm)
    if norms:
        delete_unused_tensors(module)
        finish(module)
    return len(norms)


def _foldable(module: fx.GraphModule, node: fx.Node) -> Norm | None:
    if not is_op(node, {NORM}) or any(user.args[1] != 0 for user in node.users):
        return None
    args: tuple[Any, ...] = node.args
    x, *stored, _, epsilon = args
    product = _product(x)
    if product is None or any(part is not None and not _is_stored(part) for part in stored):
        return None
    own = product.args[1:3]
    if not all(part is None or (_is_stored(part) and _serves_one(module, part)) for part in own):
        return None
    scale_C, bias_C, mean_C, variance_C = (None if part is None else _double(module, part) for part in stored)
    assert mean_C is not None and variance_C is not None
    factor_C = torch.rsqrt(variance_C + epsilon) * (1 if scale_C is None else scale_C)
    return Norm(node, product, factor_C, (0 if bias_C is None else bias_C) - mean_C * factor_C)


def _product(x: fx.Node) -> fx.Node | None:
    """Return the convolution whose channels a norm reads, or the linear, from which views may lead to (N, C)."""
    node, rows = x, value(x).ndim == 2
    while len(node.users) == 1:
        if is_op(node, LINEAR if rows else CONV):
            return None if node.kwargs else node
        source: Any = node.args[0] if rows and is_op(node, MOVED) else None
        if source is None or value(source).shape[-1] != value(x).shape[-1]:
            return None
        node = source
    return None


def _fold(module: fx.GraphModule, norm: Norm) -> None:
    product, factor_C = norm.product, norm.factor_C
    args: tuple[Any, ...] = product.args
    x, weight, *others = args
    w, kind = _double(module, weight), attribute(module, weight.target).dtype
    if is_transposed(product):  # (I, O / groups, ...), the groups along I
        groups = factor_C.numel() // w.shape[1]
        scaled = (w.unflatten(0, (groups, -1)) * factor_C.view(groups, 1, -1, *[1] * (w.ndim - 2))).flatten(0, 1)
    else:
        scaled = w * factor_C.view(-1, *[1] * (w.ndim - 1))
    replace_tensor(module, weight.target, scaled.to(kind))
    if others and others[0] is not None:
        shift_C = norm.shift_C + _double(module, others[0]) * factor_C
        replace_tensor(module, others[0].target, shift_C.to(kind))
    else:
        shift_C = norm.shift_C.to(kind)
        bias = insert_constant(module, f"{product.name}_bias", shift_C, before=product, parameter=True)
        product.args = (x, weight, bias, *others[1:])
    given: Any = norm.node.args[0]
    for result in list(norm.node.users):
        replace(module, result, given, keep_name=False)
    module.graph.erase_node(norm.node)


def _is_stored(part: Any) -> bool:
    return isinstance(part, fx.Node) and part.op == "get_attr"


def _serves_one(module: fx.GraphModule, part: Any) -> bool:
    """Tell whether a single operation reads the tensor, under whatever name."""
    held = attribute(module, part.target)
    readers = [n for n in module.graph.nodes if n.op == "get_attr" and attribute(module, n.target) is held]
    return sum(len(node.users) for node in readers) == 1


def _double(module: fx.GraphModule, part: Any) -> torch.Tensor:
    held: torch.Tensor = attribute(module, part.target).detach()
    return held.double()

"""Open products that are written in another way (einsum, tensordot, baddbmm, addmm): their operands become sites."""

from collections.abc import Callable
from typing import Any

from torch import fx

from vitq.graph.edit import Emitter
from vitq.graph.fold import fold_constants
from vitq.graph.ops import aten, value

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Stand for the dimensions of an ellipsis; torch takes both cases, so those that an equation names are left out."""


def open_products(module: fx.GraphModule) -> int:
    """Rewrite each einsum of two tensors, ``tensordot``, ``baddbmm`` and ``addmm`` as a matmul and count them.

    Same result up to floating-point order. An einsum of other form (one tensor, three, a diagonal, no contraction)
    stays as it is.
    """
    opened = 0
    for node in list(module.graph.nodes):
        open_one = OPENED.get(node.target) if node.op == "call_function" else None
        result = None if open_one is None else open_one(Emitter(module, node), node)
        if result is not None:
            node.replace_all_uses_with(result)
            module.graph.erase_node(node)
            opened += 1
    if opened:
        fold_constants(module)
        module.recompile()
    return opened


def _einsum(emit: Emitter, node: fx.Node) -> fx.Node | None:
    """Return an einsum of two tensors as a matmul."""
    equation: Any = node.args[0]
    operands: Any = node.args[1]
    parsed = _parse(equation, [value(operand).ndim for operand in operands]) if len(operands) == 2 else None
    return None if parsed is None else _contract(emit, operands, *parsed)


def _tensordot(emit: Emitter, node: fx.Node) -> fx.Node | None:
    """Return a product over named dimensions as a matmul."""
    operands: Any = node.args[:2]
    dims: Any = node.args[2:4]
    left, right = (
        list(part) for part in (LETTERS[: value(operands[0]).ndim], LETTERS[::-1][: value(operands[1]).ndim])
    )
    for own, other in zip(*dims, strict=True):
        right[other] = left[own]
    kept = [
        [x for i, x in enumerate(side) if i - len(side) not in d and i not in d]
        for side, d in ((left, dims[0]), (right, dims[1]))
    ]
    return _contract(emit, operands, ["".join(left), "".join(right)], "".join(kept[0] + kept[1]))


def _contract(emit: Emitter, operands: Any, letters: list[str], out: str) -> fx.Node | None:
    """Return a @ b, with a as (left…, right…, shared…, row, k) and b as (left…, right…, shared…, k, column).

    A dimension of one stands where an operand has none of its own: no size is needed, and the batch stays dynamic.
    """
    left, right = letters
    a, left = _sum_away(emit, operands[0], left, right + out)
    b, right = _sum_away(emit, operands[1], right, left + out)
    shared = [x for x in left if x in right and x in out]
    inner = [x for x in left if x in right and x not in out]
    rows, columns = ([x for x in side if x not in shared + inner] for side in (left, right))
    if not inner:
        return None
    row, column = rows[-1:], columns[-1:]
    front = rows[:-1] + columns[:-1] + shared
    a = _flat(emit, _arranged(emit, a, left, [*front, *(row or ["row"]), *inner]), len(inner))
    b = _arranged(emit, b, right, [*front, *inner, *(column or ["column"])])
    if len(inner) > 1:
        b = emit(aten.flatten.using_ints, b, -1 - len(inner), -2)
    product = emit(aten.matmul.default, a, b)
    if not column:
        product = emit(aten.squeeze.dim, product, -1)
    if not row:
        product = emit(aten.squeeze.dim, product, -2 if column else -1)
    return _permuted(emit, product, [*front, *row, *column], list(out))


def _baddbmm(emit: Emitter, node: fx.Node) -> fx.Node:
    """Return β·input + α·(a @ b); input is left out where β is 0, as torch does."""
    given, a, b = node.args[:3]
    beta, alpha = node.kwargs.get("beta", 1), node.kwargs.get("alpha", 1)
    product = emit(aten.matmul.default, a, b)
    if alpha != 1:
        product = emit(aten.mul.Tensor, product, alpha)
    if beta == 0:
        return product
    return emit(aten.add.Tensor, product, given if beta == 1 else emit(aten.mul.Tensor, given, beta))


OPENED: dict[Any, Callable[[Emitter, fx.Node], fx.Node | None]] = {
    aten.einsum.default: _einsum,
    aten.tensordot.default: _tensordot,
    aten.baddbmm.default: _baddbmm,
    aten.addmm.default: _baddbmm,
}


def _parse(equation: str, dimensions: list[int]) -> tuple[list[str], str] | None:
    """Return the letters of both operands and of the result; None for a diagonal."""
    inputs, arrow, out = equation.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if not arrow:
        letters = sorted({x for x in inputs if x.isalpha() and inputs.count(x) == 1})
        out = ("..." if "..." in inputs else "") + "".join(letters)
    spare = [x for x in LETTERS if x not in equation]
    widest = 0
    for i, (term, ndim) in enumerate(zip(terms, dimensions, strict=True)):
        if "..." in term:
            hidden = ndim - len(term) + 3
            widest = max(widest, hidden)
            terms[i] = term.replace("...", "".join(spare[-hidden:] if hidden else ""))
    out = out.replace("...", "".join(spare[-widest:] if widest else ""))
    if any(len(set(term)) != len(term) for term in (*terms, out)):
        return None
    return terms, out


def _sum_away(emit: Emitter, x: fx.Node, letters: str, used: str) -> tuple[fx.Node, str]:
    """Sum over the dimensions that neither the other operand nor the result has."""
    lost = [i for i, letter in enumerate(letters) if letter not in used]
    if lost:
        x = emit(aten.sum.dim_IntList, x, lost)
    return x, "".join(letter for letter in letters if letter in used)


def _arranged(emit: Emitter, x: fx.Node, letters: str, wanted: list[str]) -> fx.Node:
    """Permute ``x`` to the letters that it has among ``wanted``, and give it a dimension of one for each other."""
    x = _permuted(emit, x, list(letters), [letter for letter in wanted if letter in letters])
    for place, letter in enumerate(wanted):
        if letter not in letters:
            x = emit(aten.unsqueeze.default, x, place)
    return x


def _permuted(emit: Emitter, x: fx.Node, letters: list[str], wanted: list[str]) -> fx.Node:
    return x if letters == wanted else emit(aten.permute.default, x, [letters.index(letter) for letter in wanted])


def _flat(emit: Emitter, x: fx.Node, last: int) -> fx.Node:
    """Join the ``last`` dimensions."""
    return emit(aten.flatten.using_ints, x, -last, -1) if last > 1 else x

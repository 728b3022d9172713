"""The source of a site: the operation that makes the values which it carries."""

from dataclasses import dataclass
from enum import StrEnum

from torch import fx

from vitq.graph.edit import node_named
from vitq.graph.graph import Graph
from vitq.graph.ops import (
    ACTIVATION,
    ADD,
    CONV,
    LINEAR,
    MATMUL,
    NORM,
    SOFTMAX,
    aten,
    is_op,
    is_written_activation,
    origin,
)
from vitq.graph.parameters import behind_quantizer
from vitq.graph.queries.numbers import is_scalar_product, tensor_inputs
from vitq.graph.sites import Site


class Kind(StrEnum):
    """What makes a site's values, as far as the graph knows."""

    IMAGE = "image"
    CONSTANT = "constant"
    LINEAR = "linear"
    CONVOLUTION = "convolution"
    NORM = "norm"
    ACTIVATION = "activation"
    SOFTMAX = "softmax"
    PRODUCT = "product"
    SUM = "sum"
    OTHER = "other"


KINDS = {
    Kind.LINEAR: LINEAR,
    Kind.CONVOLUTION: CONV,
    Kind.NORM: NORM,
    Kind.ACTIVATION: ACTIVATION,
    Kind.SOFTMAX: SOFTMAX,
    Kind.PRODUCT: MATMUL,
    Kind.SUM: ADD,
}


@dataclass(frozen=True)
class Source:
    """The operation behind a site, its kind, and the stored constants that multiply its result on the way, in order."""

    node: fx.Node
    kind: Kind
    factors: tuple[fx.Node, ...]


def source_of(graph: Graph, site: Site) -> Source:
    """Return the source of ``site``, behind moves, quantizers, numbers and stored factors."""
    node, factors = node_named(graph.module, site.node), list[fx.Node]()
    while True:
        node = behind_quantizer(origin(node))
        pair = _stored_factor(node)
        if pair is not None:
            factors.append(pair[0])
            node = pair[1]
        elif is_scalar_product(node):
            (node,) = tensor_inputs(node)
        elif node is origin(node):
            return Source(node, _kind(node), tuple(reversed(factors)))


def _kind(node: fx.Node) -> Kind:
    if node.op in ("placeholder", "get_attr"):
        return Kind.IMAGE if node.op == "placeholder" else Kind.CONSTANT
    if is_written_activation(node):
        return Kind.ACTIVATION
    return next((kind for kind, targets in KINDS.items() if is_op(node, targets)), Kind.OTHER)


def _stored_factor(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Return constant and tensor of a product with a stored constant."""
    if is_op(node, {aten.mul.Tensor}):
        for constant, other in (node.args[:2], reversed(node.args[:2])):
            if isinstance(constant, fx.Node) and isinstance(other, fx.Node) and constant.op == "get_attr":
                return constant, other
    return None

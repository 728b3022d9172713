"""What every site costs, exact and from the graph: elements, multiply-accumulates, bytes, bit operations."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from vitq.bits import FLOATING_POINT
from vitq.graph import Graph, Site
from vitq.graph.ops import CONV, attribute, is_op, is_transposed, value
from vitq.quantizers import Format, make_quantizer, packed_size

NUMBER_BYTES = 4
"""Of a number of a parameter on disk."""
PLACE_BYTES = 8
"""Of the place of a token on disk."""


@dataclass(frozen=True)
class SiteCost:
    """One site: the elements of a weight, or those of an activation per image, and the products that read it.

    ``macs`` are the multiply-accumulates per image of the products that read the site.
    """

    name: str
    role: str
    is_weight: bool
    elements: int
    macs: int


@dataclass(frozen=True)
class Product:
    """One linear, convolution or matmul: its two operands by site name, and its multiply-accumulates per image."""

    name: str
    left: str
    right: str
    macs: int


@dataclass(frozen=True)
class Costs:
    """Sites by name, in the graph's order, and the products that read them."""

    sites: Mapping[str, SiteCost]
    products: tuple[Product, ...]

    def average(self, bits: Mapping[str, int], *, weights: bool) -> float | None:
        """Return the average bits of the weights or activations among ``bits``, by elements; None without any."""
        sites = [self.sites[name] for name in bits if self.sites[name].is_weight == weights]
        total = sum(site.elements for site in sites)
        return sum(site.elements * bits[site.name] for site in sites) / total if total else None

    def bit_operations(self, bits: Mapping[str, int]) -> int:
        """Return multiply-accumulates times the bits of both operands, per image; what has no bits has 32."""
        return sum(p.macs * bits.get(p.left, FLOATING_POINT) * bits.get(p.right, FLOATING_POINT) for p in self.products)

    @property
    def macs(self) -> int:
        """Multiply-accumulates per image of all products."""
        return sum(product.macs for product in self.products)


def site_costs(graph: Graph) -> Costs:
    """Return the costs of every site of ``graph``; operations without sites (a 3D convolution) have none. Source: vitq.

    Per image means for a batch of one: a tensor of windows counts all of them.
    """
    nodes = {node.name: node for node in graph.module.graph.nodes}
    readers: dict[str, list[Site]] = {}
    for site in graph.sites.values():
        for consumer in site.consumers if site.of_product else ():
            readers.setdefault(consumer, []).append(site)
    products = []
    for name, operands in readers.items():
        left, right = sorted((operands * 2)[:2], key=lambda site: site.is_weight)
        products.append(Product(name, left.name, right.name, multiplications(nodes[name])))
    macs = {product.name: product.macs for product in products}
    sites = {
        site.name: SiteCost(
            site.name,
            str(site.role),
            site.is_weight,
            elements(nodes[site.node]),
            sum(macs.get(consumer, 0) for consumer in site.consumers),
        )
        for site in graph.sites.values()
    }
    return Costs(sites, tuple(products))


def elements(node: fx.Node) -> int:
    """Return how many numbers the tensor at ``node`` holds for one image."""
    return math.prod(shape_of(node))


def multiplications(node: fx.Node) -> int:
    """Return the multiply-accumulates of a linear, convolution or matmul for one image; padding counts."""
    first, second = node.args[0], node.args[1]
    assert isinstance(first, fx.Node) and isinstance(second, fx.Node)
    if is_transposed(node):
        return elements(first) * math.prod(shape_of(second)[1:])
    inner = math.prod(shape_of(second)[1:]) if is_op(node, CONV) else shape_of(first)[-1]
    return elements(node) * inner


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of the tensor at ``node`` for one image."""
    return tuple(_size(size) for size in value(node).shape)


def stored_bytes(site: SiteCost, form: Format | None, axis: int | None, shape: tuple[int, ...], apart: int = 0) -> int:
    """Return what an artifact stores for a site at ``form``: the packed codes of a weight, and all parameters.

    ``shape``: of the site's tensor, for one image; ``apart``: how many of its tokens have parameters of their own,
    which are stored with these tokens' places. Without a form, in floating point, that is the weight itself.
    """
    if form is None:
        return site.elements * NUMBER_BYTES if site.is_weight else 0
    codes = packed_size(site.elements, form.bits) if site.is_weight else 0
    quantizer = make_quantizer(form, axis)
    numbers = sum(math.prod(quantizer.shape_of(parameter, shape)) for parameter in quantizer.codec.parameters)
    return codes + numbers * NUMBER_BYTES * (2 if apart else 1) + apart * PLACE_BYTES


def floating_bytes(graph: Graph, without: set[str]) -> int:
    """Return the bytes of the tensors that an artifact of ``graph`` stores as they are: all but weights ``without``."""
    coded = {graph.parameter(site.node)[0] for site in graph.sites.values() if site.name in without and site.is_weight}
    read = {str(node.target) for node in graph.module.graph.nodes if node.op == "get_attr"} - coded
    tensors = (attribute(graph.module, path) for path in sorted(read))
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, torch.Tensor))


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    return int(expression.subs({symbol: 1 for symbol in expression.free_symbols}))

"""How much each output of a product matters: squared gradients of the model's loss, on some rows of the product.

PTQ4ViT (arXiv 2111.12293) weighs the error of output y by (dL/dy)², L the divergence of the quantized model's outputs
from the true ones. Its code takes the gradient in floating point, where it is zero but for rounding. Here all sites
have their first parameters, so that the gradient is that of an error that is there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod

import torch
from torch import fx

from vitq.calibrate.groups import Group
from vitq.graph import Graph
from vitq.graph.convolution import convolution
from vitq.graph.ops import CONV, is_op, value
from vitq.graph.outputs import as_outputs
from vitq.quantizers import Quantizer
from vitq.tasks import Task

ROWS = 1024
"""Rows of a layer's output whose gradients are kept."""

ELEMENTS = 1 << 20
"""Elements of a matmul's largest tensor on which its gradients are kept."""

IMAGES = 8
"""Images of one backward pass."""


@dataclass(frozen=True)
class Sensitivity:
    """Squared gradients (R, ..., O), of mean 1 or all zero, at the chosen rows.

    Rows of a layer are tokens or places of all images; those of a matmul of two activations, whole entries of the
    first axis.
    """

    rows_R: torch.Tensor
    weights: torch.Tensor


@dataclass
class _Kept:
    """Gradients of one product as they come, chunk by chunk: a sample of ``most`` of all ``total`` rows.

    Priority sampling (Duffield, Lund, Thorup, JACM 2007): rows of large squared gradient are kept for certain, as are
    all rows where there are few; the others stand for those that are left out. In the last block of a ViT the class
    tokens alone have a gradient, and an even sample would miss most of them.
    """

    node: fx.Node
    weighted: bool
    most: int
    total: int
    generator: torch.Generator
    seen: int = 0
    rows_R: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    priority_R: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    gradients: torch.Tensor | None = None

    def add(self, gradient: torch.Tensor) -> None:
        """Keep of the next chunk and of what was kept the rows of highest priority, one more than ``most``."""
        new = (_rows(self.node, gradient) if self.weighted else gradient).float()
        drawn = torch.rand(len(new), generator=self.generator, dtype=torch.float64).clamp(min=1e-12)
        priority_N = torch.cat((self.priority_R, _energy(new) / drawn))
        rows_N = torch.cat((self.rows_R, torch.arange(self.seen, self.seen + len(new))))
        best_R = priority_N.argsort(descending=True, stable=True)[: self.most + 1]
        joined = new if self.gradients is None else torch.cat((self.gradients, new))
        self.gradients = joined[best_R.to(new.device)]
        self.rows_R, self.priority_R = rows_N[best_R], priority_N[best_R]
        self.seen += len(new)

    def squared(self) -> Sensitivity:
        """Return the squared gradients, each row times what it stands for, divided by their mean."""
        assert self.gradients is not None
        gradients, least = self.gradients[: self.most], 0.0
        if len(self.rows_R) > self.most:
            least = float(self.priority_R[-1])
        energy_R = _energy(gradients)
        share_R = torch.where(energy_R > 0, energy_R.clamp(min=least) / energy_R, 1.0).sqrt().float()
        gradients = gradients * share_R.to(gradients.device).reshape(-1, *(1 for _ in gradients.shape[1:]))
        size = gradients.square().mean().sqrt().clamp(min=torch.finfo(torch.float32).tiny)
        return Sensitivity(self.rows_R[: self.most].to(gradients.device), (gradients / size).square_())


def _energy(gradients: torch.Tensor) -> torch.Tensor:
    """Return the sum of squares of each row."""
    return gradients.flatten(1).double().square().sum(1).cpu()


def sensitivities(
    student: Graph,
    teacher: Graph,
    task: Task,
    images_NCHW: torch.Tensor,
    groups: Sequence[Group],
    device: torch.device,
    generator: Callable[[str], torch.Generator],
) -> dict[str, Sensitivity]:
    """Return the sensitivity of the products of ``groups``, by their nodes' names.

    Gradients are of ``task``'s distance between the outputs of ``student``, as it is quantized now, and ``teacher``;
    quantizers without parameters are passed over. Rows are drawn by ``generator`` of the product's name. A product
    that the images do not reach has none.
    """
    layers = {layer.name: (layer, group) for group in groups for layer in group.layers}
    if not layers:
        return {}
    names = list(student.outputs)
    module = _tapped(student, [*student.outputs.values(), *layers])
    kept: dict[str, _Kept] = {}
    for x_BCHW in images_NCHW.split(IMAGES):
        x = x_BCHW.to(device).float().requires_grad_()
        with torch.no_grad():
            wanted = {n: y.float() for n, y in as_outputs(teacher(x.detach())).items()}
        with torch.enable_grad():
            found = module(x)
            outputs = dict(zip(names, found, strict=False))
            for name, y in zip(layers, found[len(names) :], strict=True):
                if y.requires_grad:
                    layer, group = layers[name]
                    kept.setdefault(name, _start(layer, group, y, len(images_NCHW) / len(x), generator))
                    y.register_hook(kept[name].add)
            loss = len(x) * task.distance({n: y.float() for n, y in outputs.items()}, wanted)
        torch.autograd.grad(loss, x, allow_unused=True)
    return {name: k.squared() for name, k in kept.items() if k.seen == k.total}


def _start(
    layer: fx.Node, group: Group, y: torch.Tensor, chunks: float, generator: Callable[[str], torch.Generator]
) -> _Kept:
    """Return what keeps rows of a product, from the output of its first chunk."""
    weighted = bool(group.weights)
    total = round(len(_rows(layer, y) if weighted else y) * chunks)
    keep = ROWS
    if not weighted:
        largest = max(prod(int(size) for size in value(n).shape[1:]) for n in (layer, *layer.all_input_nodes))
        keep = max(ELEMENTS // max(largest, 1), 1)
    return _Kept(layer, weighted, keep, total, generator(layer.name))


def _rows(layer: fx.Node, y: torch.Tensor) -> torch.Tensor:
    """Return a layer's output, or its gradient, as rows that go with those of ``input_rows``."""
    if is_op(layer, CONV) and convolution(layer) is not None:
        y = y.flatten(2).mT
    return y.reshape(-1, y.shape[-1])


def _tapped(student: Graph, nodes: Sequence[str]) -> fx.GraphModule:
    """Return the student as a module that gives the tensors at ``nodes``, without uncalibrated quantizers."""
    module = student.segment(student.cuts[0], nodes[0], nodes[1:])
    for node in list(module.graph.find_nodes(op="call_module")):
        quantizer = module.get_submodule(str(node.target))
        if isinstance(quantizer, Quantizer) and not quantizer.calibrated:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return module

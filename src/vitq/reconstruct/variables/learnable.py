"""What of a segment a reconstruction may learn, each kind with its own learning rate."""

from collections.abc import Mapping

import torch
from torch import fx, nn

from vitq.errors import RecipeError
from vitq.graph import Graph
from vitq.graph.edit import quantizer_target
from vitq.graph.ops import CONV, LINEAR, NORM, attribute, is_op, is_transposed
from vitq.quantizers import Quantizer
from vitq.reconstruct.variables.rounding import AdaRound
from vitq.reconstruct.variables.variables import ScaledParameter, Variables

KINDS = ("weights", "rounding", "weight_scales", "activation_scales", "zero_points", "biases", "norms")

FLOATING_STEP = 0.25
"""A weight without a quantizer learns in units of this part of its channel's largest magnitude (3 bits' step)."""

LEAST_SCALE = 0.05
"""A learnt scale stays above this part of its initial value: it can never reach zero."""


def learnable(student: Graph, segment: fx.GraphModule, rates: Mapping[str, float]) -> Variables:
    """Select what ``rates`` (kind -> learning rate) names among the parameters of ``segment`` and make it trainable.

    ``segment`` is an extract of ``student``. Rounding replaces the weight's quantizer inside ``segment`` only.
    """
    for kind in rates:
        if kind not in KINDS:
            raise RecipeError(f"nothing called '{kind}' to learn; choose among {', '.join(KINDS)}")
    variables = Variables()
    sites = {quantizer_target(name): name for name in student.quantizers}
    for node in list(segment.graph.nodes):
        if node.op == "call_module" and node.target in sites:
            site = student.sites[sites[node.target]]
            quantizer = student.quantizers[site.name]
            assert isinstance(quantizer, Quantizer)
            if site.is_weight:
                _weight(student, site.node, quantizer, node.target, rates, variables)
            else:
                _parameters(variables, node.target, quantizer, rates.get("activation_scales"), rates.get("zero_points"))
    _floating_weights(segment, rates, variables)
    _vectors(segment, rates, variables)
    return variables


def _floating_weights(segment: fx.GraphModule, rates: Mapping[str, float], variables: Variables) -> None:
    """Weights of linears and convolutions that no quantizer reads; they can be learnt, but not their rounding."""
    for node in segment.graph.nodes:
        weight = node.args[1] if is_op(node, LINEAR | CONV) else None
        if isinstance(weight, fx.Node) and weight.op == "get_attr" and "weights" in rates:
            tensor = attribute(segment, str(weight.target))
            others = [dim for dim in range(tensor.ndim) if dim != int(is_transposed(node))]
            unit = FLOATING_STEP * tensor.detach().abs().amax(others, keepdim=True).clamp(min=1e-6)
            unit = unit.expand_as(tensor).clone()
            _add_scaled(variables, str(weight.target), tensor, rates["weights"], unit)


def _weight(
    student: Graph,
    node: str,
    quantizer: Quantizer,
    target: str,
    rates: Mapping[str, float],
    variables: Variables,
) -> None:
    path, weight = student.parameter(node)
    variables.weight_targets.append(target)
    if "rounding" in rates:
        if not quantizer.codec.uniform:
            raise RecipeError(
                f"rounding can only be learnt where all codes are one scale apart; '{quantizer.site}' is "
                f"{quantizer.format}"
            )
        stand_in = AdaRound(quantizer, weight)
        variables.roundings[path] = variables.stand_ins[target] = stand_in
        variables.tensors[path] = weight
        variables.groups.append({"params": [stand_in.v], "lr": rates["rounding"]})
    elif "weights" in rates:
        _add_scaled(variables, path, weight, rates["weights"], quantizer.resolution(weight).detach().clone())
    if "rounding" not in rates:
        _parameters(variables, target, quantizer, rates.get("weight_scales"), None)


def _vectors(segment: fx.GraphModule, rates: Mapping[str, float], variables: Variables) -> None:
    """Biases of weighted operations, and weights and biases of norms, by the position of their node's use."""
    for node in segment.graph.nodes:
        if node.op != "get_attr":
            continue
        owner, _, name = str(node.target).rpartition(".")
        tensor = getattr(segment.get_submodule(owner), name)
        kind = "norms" if any(is_op(user, NORM) for user in node.users) else "biases"
        if tensor.ndim == 1 and any(is_op(user, NORM | LINEAR | CONV) for user in node.users):
            _add(variables, str(node.target), tensor, rates.get(kind))


def _add(variables: Variables, path: str, tensor: torch.Tensor, rate: float | None) -> None:
    if rate is None or path in variables.tensors:
        return
    tensor.requires_grad_(True)
    variables.tensors[path] = tensor
    variables.groups.append({"params": [tensor], "lr": rate})


def _parameters(
    variables: Variables, target: str, quantizer: Quantizer, scale_rate: float | None, code_rate: float | None
) -> None:
    """Those of a quantizer that its codec lets be learnt; a symmetric format's zero points are fixed."""
    for prefix, own in quantizer.kinds:
        for parameter in quantizer.codec.parameters:
            path, tensor = f"{target}.{prefix}{parameter.name}", own.get_parameter(parameter.name)
            if parameter.learnt == "scale" and scale_rate is not None:
                _add_scaled(variables, path, tensor, scale_rate, tensor.detach().clone(), LEAST_SCALE)
            elif parameter.learnt == "codes" and not quantizer.format.symmetric:
                _add(variables, path, tensor, code_rate)


def _add_scaled(
    variables: Variables, path: str, tensor: torch.Tensor, rate: float, unit: torch.Tensor, least: float | None = None
) -> None:
    if path in variables.tensors:
        return
    tensor.requires_grad_(True)
    optimized = nn.Parameter(tensor.detach() / unit)
    variables.tensors[path] = tensor
    variables.scaled.append(ScaledParameter(tensor, unit, optimized, least))
    variables.groups.append({"params": [optimized], "lr": rate})

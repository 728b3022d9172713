"""What a loaded graph may cost, asked before an operation runs on fake values and of what it then gives.

Operators trust some of their arguments, and some make one Python object per part or step: these are looked at before.
"""

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from vitq.errors import GraphError
from vitq.graph.ops import aten

MOST_BYTES, MOST_ALIVE = 1 << 33, 1 << 35
"""Bytes of one tensor, and of all that are alive at once, for one image."""

MOST_DIMENSIONS, MOST_PARTS, MOST_STEPS, MOST_LAYERS, MOST_FACTORS = 32, 1 << 16, 4096, 64, 4
"""Dimensions of a tensor, tensors in a tuple, steps and layers of a recurrence, factors of a power."""

LARGEST_SIZE = 1 << 40

_NUMBERS_ONLY = {operator.add, operator.mul, operator.mod, operator.pow}
"""Arithmetic that repeats, joins or formats what is no number."""

_JUMPS = {getattr(operator, name) for name in ("eq", "ne", "lt", "le", "gt", "ge", "mod", "pow")}
"""Arithmetic that may do for one batch size what it does for no other."""

_RECURRENT = {aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input}
_PARTS = {aten.split.Tensor, aten.unsafe_split.Tensor}


def require_affordable(node: fx.Node, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise GraphError where ``node`` would take long, or read what is not there, on these fake arguments."""
    if node.target in _NUMBERS_ONLY:
        numbers = all(isinstance(a, int | float) for a in args)
        power = node.target is operator.pow
        if not numbers or (power and (abs(args[0]) > LARGEST_SIZE or not 0 <= args[1] <= MOST_FACTORS)):
            raise GraphError(f"node '{node.name}' computes {node.target} of what is no size")
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return
    given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    given |= dict(zip((a.name for a in schema.arguments), args, strict=False)) | dict(kwargs)
    if _parts(node.target, given) > MOST_PARTS:
        raise GraphError(f"node '{node.name}' takes a tensor into more than {MOST_PARTS} parts")
    if node.target in _RECURRENT and _steps(given) > MOST_STEPS * MOST_LAYERS:
        raise GraphError(f"node '{node.name}' has more than {MOST_STEPS} steps of {MOST_LAYERS} layers")
    if node.target is aten._native_batch_norm_legit_no_training.default and not _one_a_channel(given):
        raise GraphError(f"node '{node.name}' has statistics for other channels than its input's")


def require_bounded(node: fx.Node, result: Any, batch: int) -> None:
    """Raise GraphError for tensors that no image needs, or numbers that are no sizes."""
    parts = result if isinstance(result, tuple | list) else (result,)
    if len(parts) > MOST_PARTS:
        raise GraphError(f"node '{node.name}' gives {len(parts)} tensors, more than {MOST_PARTS}")
    for part in parts:
        if isinstance(part, torch.Tensor):
            if size_of(part, batch) > MOST_BYTES or part.ndim > MOST_DIMENSIONS:
                raise GraphError(f"node '{node.name}' makes a tensor of shape {tuple(part.shape)} for {batch} images")
        elif isinstance(part, int | float) and abs(part) > LARGEST_SIZE * batch**2:
            raise GraphError(f"node '{node.name}' computes {part:.3g}, which is no size")


def require_kept(node: fx.Node, x: Any, quantizer: nn.Module) -> None:
    """Raise GraphError where the parameters of a quantizer do not fit ``x``, or would make more of it."""
    if not isinstance(x, torch.Tensor):
        raise GraphError(f"node '{node.name}' quantizes what is no tensor")
    for parameter in (*quantizer.parameters(), *quantizer.buffers()):
        if not parameter.is_floating_point():  # places of tokens
            _require_places(node, parameter, x)
            continue
        try:
            kept = torch.broadcast_shapes(parameter.shape, x.shape) == x.shape
        except RuntimeError:
            kept = False
        if not kept:
            raise GraphError(
                f"node '{node.name}' has parameters of shape {tuple(parameter.shape)} for a tensor of {tuple(x.shape)}"
            )


def _require_places(node: fx.Node, places_P: torch.Tensor, x: torch.Tensor) -> None:
    """Raise GraphError where the tensor that is quantized has no tokens at these places."""
    count = x.shape[-2] if x.ndim > 1 and isinstance(x.shape[-2], int) else 0
    if places_P.ndim != 1 or not all(0 <= int(place) < count for place in places_P.tolist()):
        raise GraphError(f"node '{node.name}' keeps tokens {places_P.tolist()} apart, of a tensor of {tuple(x.shape)}")


def require_steady(node: fx.Node, first: Any, second: Any) -> None:
    """Raise GraphError where arithmetic may jump: its numbers, ``first`` and ``second``, depend on the batch."""
    if node.target in _JUMPS and not isinstance(first[0], torch.Tensor) and first != second:
        raise GraphError(f"node '{node.name}' computes {node.target} of the batch, which no saved graph needs")


def require_room(graph: fx.Graph, results: Mapping[fx.Node, Any], batch: int) -> None:
    """Raise GraphError where the tensors that are alive at once need more than ``MOST_ALIVE`` for one image."""
    last = {source: node for node in graph.nodes for source in node.all_input_nodes}
    ending: dict[fx.Node, list[fx.Node]] = {}
    for source, node in last.items():
        ending.setdefault(node, []).append(source)
    alive = 0
    for node in graph.nodes:
        alive += _held(node, results, batch)
        if alive > MOST_ALIVE:
            raise GraphError(f"at node '{node.name}' more than {MOST_ALIVE >> 30} GiB are alive for one image")
        alive -= sum(_held(source, results, batch) for source in ending.get(node, ()))
        alive -= 0 if node in last else _held(node, results, batch)


def size_of(tensor: torch.Tensor, batch: int) -> int:
    """Return the bytes of ``tensor``, for one image where it holds ``batch`` of them."""
    return tensor.numel() * tensor.element_size() // (1 if tensor.numel() % batch else batch)


def _held(node: fx.Node, results: Mapping[fx.Node, Any], batch: int) -> int:
    result = results.get(node) if node.op == "call_function" else None
    return size_of(result, batch) if isinstance(result, torch.Tensor) else 0


def _parts(target: Any, given: Mapping[str, Any]) -> int:
    """Return into how many parts an operator takes its tensor, as far as a number or a size says it."""
    number = max((int(given[name]) for name in ("chunks", "sections") if isinstance(given.get(name), int)), default=0)
    if target is not aten.unbind.int and target not in _PARTS:
        return number
    length = given["self"].shape[given["dim"]]
    return int(length // max(given["split_size"], 1) if target in _PARTS else length)


def _steps(given: Mapping[str, Any]) -> int:
    """Return the steps of a recurrence times its layers."""
    return int(given["input"].shape[1 if given["batch_first"] else 0] * max(given["num_layers"], 1))


def _one_a_channel(given: Mapping[str, Any]) -> bool:
    """Tell whether the vectors of a batch norm have an element for each channel; its kernel does not look."""
    vectors = [given.get(name) for name in ("weight", "bias", "running_mean", "running_var")]
    channels = given["input"].shape[1]
    return all(v is None or tuple(v.shape) == (channels,) for v in vectors)

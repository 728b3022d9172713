"""Capture any model as one flat graph of ATen operations with a dynamic batch."""

import copy
import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from vitq.errors import ModelError
from vitq.graph.fold import depends_on_image, fold_constants, simplify
from vitq.graph.noise import random_nodes


def capture(model: nn.Module, example_BCHW: torch.Tensor) -> fx.GraphModule:
    """Return ``model`` as a GraphModule with one input (B, C, H, W), one tensor output and dynamic B.

    The caller's model is not changed; parameters keep their names. Raises ModelError where ``torch.export``
    refuses the model or its output is not one tensor. Source: vitq, on ``torch.export``.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    example = example_BCHW if len(example_BCHW) > 1 else torch.cat((example_BCHW, example_BCHW))
    try:
        with _float32():
            module = _export(frozen, example)
    except ModelError:
        raise
    except Exception as error:  # torch.export raises many unrelated types
        if _differs(frozen, example):
            raise is_random(type(model).__name__) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(
            f"torch.export cannot capture {type(model).__name__}: {reason}; "
            "vitq needs a model without branches on values or on the batch size (x.shape[0], not len(x))"
        ) from error
    _check_signature(module, type(model).__name__)
    if drawn := random_nodes(module.graph):
        raise is_random(type(model).__name__, drawn[0])
    plain = fx.GraphModule(module, _without_guards(module.graph))
    with _float32():
        fold_constants(plain)
    simplify(plain)
    return plain.eval()


def is_random(name: str, drawn: fx.Node | None = None) -> ModelError:
    """The error for a model that gives other outputs each time, and the operation that draws numbers in it."""
    where = "" if drawn is None else f" ({drawn.target} draws numbers)"
    return ModelError(
        f"{name} is random in eval mode: two runs on the same images differ{where}. Turn off what draws numbers "
        "there, such as F.dropout(x, p) without training=self.training, or noise"
    )


def _differs(model: nn.Module, x_BCHW: torch.Tensor) -> bool:
    """Whether two runs on the same images give other outputs."""
    try:
        with torch.no_grad():
            first, second = model(x_BCHW), model(x_BCHW)
    except Exception:  # whatever ended the export ends the model too
        return False
    return isinstance(first, torch.Tensor) and not torch.allclose(first, second, rtol=0, atol=0, equal_nan=True)


@contextmanager
def _float32() -> Iterator[None]:
    """Make tensors without a type float32, whatever the caller's default is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _export(model: nn.Module, example: torch.Tensor) -> fx.GraphModule:
    """Export with a dynamic batch and nothing in place, without torch's remarks about its own inside."""
    shapes = _dynamic_batch(model, example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
        module: fx.GraphModule = program.run_decompositions({}).module()
    return module


def _dynamic_batch(model: nn.Module, example: torch.Tensor) -> dict[str, Any]:
    """Name the image's argument as the model's ``forward`` does, inside ``*args`` where it takes those."""
    batch = {0: torch.export.Dim("batch", min=1, max=65536)}
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(example).arguments
    except TypeError as error:
        raise ModelError(
            f"{type(model).__name__}.forward{signature} cannot be called with one image tensor ({error}); "
            "wrap the model in a module whose forward(self, x) calls it"
        ) from error
    return {name: (batch,) if isinstance(value, tuple) else batch for name, value in bound.items()}


def _check_signature(module: fx.GraphModule, name: str) -> None:
    inputs = [n for n in module.graph.nodes if n.op == "placeholder"]
    output: Any = next(n for n in module.graph.nodes if n.op == "output").args[0]
    outputs = output if isinstance(output, tuple | list) else (output,)
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{name} takes {len(inputs)} inputs and returns {len(outputs)} values; "
            "vitq needs one image tensor in and one tensor out: wrap the model in a module that picks them"
        )
    if outputs[0] not in depends_on_image(module.graph):
        raise ModelError(f"the output of {name} does not depend on its input; give vitq the model that does")


def _without_guards(graph: fx.Graph) -> fx.Graph:
    """Copy ``graph`` with a plain single-tensor signature."""
    clean = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            continue
        if node.op == "output":
            (result,) = node.args[0] if isinstance(node.args[0], tuple | list) else (node.args[0],)
            clean.output(copies[result])
            continue
        copies[node] = clean.node_copy(node, lambda n: copies[n])
    clean.lint()
    return clean

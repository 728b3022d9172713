"""Capture any model as one flat graph of ATen operations with a dynamic batch."""

import copy
import inspect
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import TreeSpec, tree_unflatten

from vitq.errors import ModelError
from vitq.graph.branches import tie_branches
from vitq.graph.fold import depends_on_image, fold_constants, simplify
from vitq.graph.functional import functional
from vitq.graph.noise import random_nodes
from vitq.graph.ops import is_tensor
from vitq.graph.outputs import form, named_outputs


def capture(model: nn.Module, example_BCHW: torch.Tensor) -> fx.GraphModule:
    """Return ``model`` as a GraphModule with one input (B, C, H, W), dynamic B, and one tensor or several by name.

    The caller's model is not changed; parameters keep their names. Raises ModelError where ``torch.export``
    refuses the model or an output is no function of the images. Source: vitq, on ``torch.export``.
    """
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    example = example_BCHW if len(example_BCHW) > 1 else torch.cat((example_BCHW, example_BCHW))
    try:
        with _float32():
            module, structure = _export(frozen, example)
    except ModelError:
        raise
    except Exception as error:  # torch.export raises many unrelated types
        if _differs(frozen, example):
            raise is_random(type(model).__name__) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(
            f"torch.export cannot capture {type(model).__name__}: {reason}; "
            "vitq needs a model without branches on values or on the batch size, such as a loop over the images"
        ) from error
    outputs = _outputs(module, structure, type(model).__name__)
    if drawn := random_nodes(module.graph):
        raise is_random(type(model).__name__, drawn[0])
    plain = fx.GraphModule(module, _without_guards(module.graph, outputs))
    with _float32():
        fold_constants(plain)
    simplify(plain)
    tie_branches(plain.graph)
    plain.recompile()
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
            first, second = named_outputs(model(x_BCHW)), named_outputs(model(x_BCHW))
    except Exception:  # whatever ended the export ends the model too
        return False
    return not all(torch.allclose(y, second[name], rtol=0, atol=0, equal_nan=True) for name, y in first.items())


@contextmanager
def _float32() -> Iterator[None]:
    """Make tensors without a type float32, whatever the caller's default is."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(default)


def _export(model: nn.Module, example: torch.Tensor) -> tuple[fx.GraphModule, TreeSpec]:
    """Export with a dynamic batch and nothing in place, without torch's remarks about its own inside.

    The second result says how the outputs are nested.
    """
    shapes = _dynamic_batch(model, example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _length_as_size(model), without_autocast():
            program = torch.export.export(model, (example,), dynamic_shapes=shapes)
        return functional(program), program.call_spec.out_spec


@contextmanager
def _length_as_size(model: nn.Module) -> Iterator[None]:
    """Let ``len(x)`` in the files of the model's classes be the size that it is: Python's own makes it one number."""
    files = {kind.__module__ for part in model.modules() for kind in type(part).__mro__}
    own = sorted(file for file in files if file in sys.modules and not file.startswith(("torch.", "builtins")))
    spaces = [space for file in own if "len" not in (space := vars(sys.modules[file]))]
    for space in spaces:
        space["len"] = _length
    try:
        yield
    finally:
        for space in spaces:
            space.pop("len", None)


@contextmanager
def without_autocast() -> Iterator[set[torch.dtype]]:
    """Let a model that turns on autocast compute in float32, the type that it is quantized from. Source: vitq.

    Yields the types that it has asked for so far. Other threads, which may train meanwhile, keep theirs.
    """
    kind: Any = torch.autocast
    enter, leave, own, ignored = kind.__enter__, kind.__exit__, get_ident(), set[torch.dtype]()

    def ignore(asked: Any) -> Any:
        if get_ident() != own:
            return enter(asked)
        ignored.update({asked.fast_dtype} if asked._enabled else ())
        return asked

    kind.__enter__ = ignore
    kind.__exit__ = lambda self, *error: False if get_ident() == own else leave(self, *error)
    try:
        yield ignored
    finally:
        kind.__enter__, kind.__exit__ = enter, leave


def _length(x: Any) -> Any:
    return x.shape[0] if isinstance(x, torch.Tensor) and x.ndim else len(x)


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


def _outputs(module: fx.GraphModule, structure: TreeSpec, name: str) -> dict[str, fx.Node]:
    """Return the nodes that hold the outputs, by name; ModelError for another signature than images to tensors."""
    inputs = [n for n in module.graph.nodes if n.op == "placeholder"]
    output: Any = next(n for n in module.graph.nodes if n.op == "output").args[0]
    flat = list(output) if isinstance(output, tuple | list) else [output]
    nested = tree_unflatten([n if isinstance(n, fx.Node) and is_tensor(n) else None for n in flat], structure)
    nodes = named_outputs(nested, fx.Node)
    if len(inputs) != 1 or not nodes:
        raise ModelError(
            f"{name} takes {len(inputs)} inputs and returns {len(nodes)} tensors; "
            "vitq needs one image tensor in and tensors out: wrap the model in a module that picks them"
        )
    dependent = depends_on_image(module.graph)
    if constant := [output for output, node in nodes.items() if node not in dependent]:
        which = f"the output '{constant[0]}'" if len(nodes) > 1 else "the output"
        raise ModelError(f"{which} of {name} does not depend on its input; give vitq the model that does")
    return nodes


def _without_guards(graph: fx.Graph, outputs: Mapping[str, fx.Node]) -> fx.Graph:
    """Copy ``graph`` with a plain signature: one tensor in, one tensor or several by name out."""
    clean = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            continue
        if node.op == "output":
            clean.output(form({name: copies[result] for name, result in outputs.items()}))
            continue
        copies[node] = clean.node_copy(node, lambda n: copies[n])
    clean.lint()
    return clean

"""What a captured model takes: the shape and type of one batch, checked before it runs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from vitq.errors import DataError
from vitq.graph import Graph
from vitq.graph.ops import value
from vitq.modes import forward_modes


def image_shape(graph: Graph) -> tuple[int, ...]:
    """Return the shape of one image (C, H, W) that ``graph`` was captured for."""
    image = next(value(node) for node in graph.module.graph.nodes if node.op == "placeholder")
    return tuple(int(size) for size in image.shape[1:])


def as_batch(x: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """Return ``x`` as a float32 batch (B, *shape); floats of another width and NumPy's are converted.

    Raises DataError for anything else: whole numbers are no preprocessed images, and a graph runs at one size only.
    """
    takes = f"this model takes preprocessed images as a float tensor (B, {', '.join(map(str, shape))})"
    if isinstance(x, np.ndarray) and x.dtype.kind == "f":
        x = torch.from_numpy(np.array(x, dtype=np.float32))
    whole = isinstance(x, np.ndarray) and x.dtype.kind in "iub"
    if whole or (isinstance(x, torch.Tensor) and not x.is_floating_point()):
        hint = "preprocess the pictures first, or give them to 'evaluate', which does"
        raise DataError(f"{takes}, not one of {_name(x.dtype)}; {hint}")
    if not isinstance(x, torch.Tensor):
        raise DataError(f"{takes}, not a {type(x).__name__}")
    if x.layout is not torch.strided or x.is_meta:
        raise DataError(f"{takes}, not one that is {'on the meta device' if x.is_meta else _name(x.layout)}")
    if tuple(x.shape) == shape:
        raise DataError(f"{takes}, not one image {shape}: add a batch axis, x[None]")
    if x.ndim != 1 + len(shape) or tuple(x.shape[1:]) != shape or len(x) == 0:
        raise DataError(f"{takes}, not one of shape {tuple(x.shape)}; it was calibrated for images of this size alone")
    return x.float()


class Checked(nn.Module):
    """A module x_BCHW -> outputs that checks its input and runs without gradients or autocast."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.module = module
        self.shape = shape

    def forward(self, x_BCHW: Any) -> Any:
        """Return the output for a batch; raise DataError for an input that the module does not take."""
        return run_checked(self.module, x_BCHW, self.shape)


def run_checked(forward: Callable[[torch.Tensor], Any], x: Any, shape: tuple[int, ...]) -> Any:
    """Run ``forward`` on ``x`` where it is a batch of ``shape``."""
    with forward_modes():
        return forward(as_batch(x, shape))


def _name(kind: torch.dtype | torch.layout | np.dtype[Any]) -> str:
    return str(kind).removeprefix("torch.")

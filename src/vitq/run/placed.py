"""What a step will put on the sites of a graph: the currency of previews and plans."""

from collections.abc import Mapping
from dataclasses import dataclass

from vitq.errors import GraphError
from vitq.quantizers import Format


@dataclass(frozen=True)
class Placed:
    """The format of one site, the axis that has parameters of its own, and the operations that read it quantized."""

    format: Format
    axis: int | None
    readers: tuple[str, ...]


def joined(plans: Mapping[str, Placed], more: Mapping[str, Placed]) -> dict[str, Placed]:
    """Return both plans as one; GraphError where they name the same site."""
    for name in more:
        if name in plans:
            raise GraphError(f"site '{name}' is already quantized; remove its quantizer first")
    return {**plans, **more}

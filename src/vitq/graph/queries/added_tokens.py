"""Tokens that the model adds to those of the image: class, register and query tokens."""

from torch import fx

from vitq.graph.fold import holds_image
from vitq.graph.ops import aten, is_op, value

AXIS = 1
"""Where x_BTC has its tokens."""


def added_tokens(graph: fx.Graph) -> dict[int, tuple[int, ...]]:
    """Return the places of the added tokens, by the number of all tokens; nothing where a model adds none.

    They are what a concatenation along the tokens puts beside what follows from the image. Slices of such a result keep
    theirs, so registers may be put behind a class token later.
    """
    image, found = holds_image(graph), dict[int, tuple[int, ...]]()
    for node in graph.nodes:
        if not (is_op(node, {aten.cat.default}) and node in image and value(node).ndim == 3):
            continue
        if len(node.args) < 2 or node.args[1] not in (AXIS, AXIS - 3):
            continue
        places, first = list[int](), 0
        for part in node.args[0]:
            places += [first + place for place in _places(part, image, found)]
            first += _length(part)
        if places:
            found[first] = tuple(places)
    return found


def _places(part: fx.Node, image: set[fx.Node], found: dict[int, tuple[int, ...]]) -> tuple[int, ...]:
    """Return which tokens of a part are added ones."""
    if part not in image:
        return tuple(range(_length(part)))
    if is_op(part, {aten.slice.Tensor}) and part.args[1] in (AXIS, AXIS - 3):
        whole = part.args[0]
        assert isinstance(whole, fx.Node)
        start = part.args[2] if len(part.args) > 2 and isinstance(part.args[2], int) else 0
        start += _length(whole) if start < 0 else 0
        return tuple(p - start for p in found.get(_length(whole), ()) if start <= p < start + _length(part))
    return found.get(_length(part), ())


def _length(node: fx.Node) -> int:
    return int(value(node).shape[AXIS])

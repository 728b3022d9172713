"""A span: a segment by its ends, and how spans are named."""

from collections import Counter
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Span:
    """A segment by its ends: the tensor at node ``start`` to the tensor at node ``end``.

    ``cut`` is the chain cut from which the tensor at ``start`` is computed; it equals ``start`` except for
    layer-wise spans, which begin inside a unit.
    """

    name: str
    start: str
    end: str
    cut: str


def number_repeats(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Number the repeats of a name: ``fc``, ``fc.2``."""
    seen: Counter[str] = Counter()
    result: list[Span] = []
    for span in spans:
        seen[span.name] += 1
        result.append(replace(span, name=f"{span.name}.{seen[span.name]}") if seen[span.name] > 1 else span)
    return tuple(result)


def joined_name(first: list[str], last: list[str]) -> str:
    """Join two dotted paths: ``blocks.0.attn`` where they agree, ``blocks.0-1`` where list items differ."""
    depth = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    shared = ".".join(first[:depth])
    if depth == min(len(first), len(last)):
        return shared
    a, b = first[depth], last[depth]
    if a.isdigit() and b.isdigit():
        return f"{shared}.{a}-{b}"
    return shared or f"{a}-{b}"

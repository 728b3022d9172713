"""Granularity: which cuts are kept, so which segments are reconstructed together."""

from dataclasses import replace
from functools import cached_property
from itertools import pairwise

from torch import fx

from vitq.errors import RecipeError
from vitq.graph.branches import trunk
from vitq.graph.cuts import find_cuts
from vitq.graph.fold import depends_on_image, depends_on_input
from vitq.graph.modules import list_items, module_paths
from vitq.graph.ops import ADD, CONV, LINEAR, is_op
from vitq.graph.outputs import returned
from vitq.graph.sites import layer_name
from vitq.graph.span import Span, joined_name, number_repeats


class Granularity:
    """Every named way to slice one graph, found from its cuts and from where its modules end."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.cuts = find_cuts(graph)
        self.nodes = {node.name: node for node in graph.nodes}
        self.outputs = {name: node.name for name, node in returned(graph).items()}

    def spans(self, name: str) -> tuple[Span, ...]:
        """Return the spans of "layer", "unit", "block", "2" (blocks; any number), "stage" or "network"."""
        if name == "layer":
            return number_repeats(self._layers())
        if name == "unit":
            return number_repeats(self._chain(self._unit_ends()))
        if name == "block":
            return number_repeats(self._chain(self._grouped(1)))
        if name.isdecimal() and int(name) > 0:
            return number_repeats(self._chain(self._grouped(int(name))))
        if name == "stage":
            return number_repeats(self._chain(self._grouped(len(self._blocks))))
        if name == "network":
            return self._chain([])
        raise RecipeError(
            f"granularity '{name}' unknown; choose layer, unit, block, stage, network or a number of blocks"
        )

    @cached_property
    def feature(self) -> str:
        """The penultimate feature: the last linear's input where one activation is alive, else the output.

        Where several heads stand behind the last block, it is the last cut that all of them follow from.
        """
        blocks = [self._place[end] for _, end, _ in self._blocks]
        behind = [node for node in self._beside if self._place[node] > max(blocks, default=0)]
        if behind:
            return max(
                (cut for cut in self.cuts if self._place[cut] < self._place[behind[0]]), key=self._place.__getitem__
            )
        linears = [n for n in self.graph.nodes if is_op(n, LINEAR) and n in self._dependent]
        entry = str(linears[-1].args[0]) if linears else ""
        return entry if entry in self.cuts[-6:] else self.cuts[-1]

    @cached_property
    def compared(self) -> frozenset[str]:
        """Nodes that have to hold the same in teacher and student: ends of units, the feature, the outputs."""
        return frozenset({self.feature, *self.outputs.values(), *(span.end for span in self.spans("unit"))})

    def sides(self, start: str, end: str) -> tuple[str, ...]:
        """Return the nodes that are returned and lie between two cuts, in order; between other nodes there are none."""
        if not {start, end} <= set(self.cuts):
            return ()
        first, last = self._place[start], self._place[end]
        inside = (node for node in self.outputs.values() if first < self._place[node] < last)
        return tuple(sorted(dict.fromkeys(inside), key=self._place.__getitem__))

    def outputs_from(self, start: str) -> dict[str, str]:
        """Return the outputs computed at ``start`` or behind it: names of nodes by the name of the output."""
        return {name: node for name, node in self.outputs.items() if self._place[node] >= self._place[start]}

    @cached_property
    def _place(self) -> dict[str, int]:
        return {node.name: place for place, node in enumerate(self.graph.nodes)}

    @cached_property
    def _trunk(self) -> set[fx.Node]:
        """What the last cut follows from: the chain of cuts, without branches to other outputs."""
        return trunk(self.graph) if len(self.outputs) > 1 else set(self.graph.nodes)

    @cached_property
    def _beside(self) -> list[str]:
        """The outputs that are no cuts, in order: ends of branches."""
        beside = set(self.outputs.values()) - set(self.cuts)
        return sorted(beside, key=self._place.__getitem__)

    @cached_property
    def _dependent(self) -> set[fx.Node]:
        return depends_on_input(self.graph)

    @cached_property
    def _pieces(self) -> list[tuple[str, set[str], int]]:
        """Per cut-to-cut piece: its end, the list items that hold all of it, how many weighted operations."""
        pieces: list[tuple[str, set[str], int]] = []
        image, items = depends_on_image(self.graph), list_items(self.graph)
        ends = iter(self.cuts[1:])
        end, around, weighted = next(ends, None), set(items), 0
        for node in self.graph.nodes:
            if node.op == "call_function" and node in image and node in self._trunk:
                around &= set(module_paths(node))
            weighted += is_op(node, LINEAR | CONV) and node in self._dependent
            if node.name == end:
                pieces.append((node.name, around, weighted))
                end, around, weighted = next(ends, None), set(items), 0
        return pieces

    @cached_property
    def _own_weights(self) -> list[int]:
        """Per piece, how many of its weighted operations lie on the chain and in no branch beside it."""
        weighted = [n for n in self.graph.nodes if is_op(n, LINEAR | CONV) and n in self._dependent]
        beside = [self._place[n.name] for n in weighted if n not in self._trunk]
        limits = pairwise(self._place[cut] for cut in self.cuts)
        return [
            count - sum(a < place < b for place in beside)
            for (_, _, count), (a, b) in zip(self._pieces, limits, strict=True)
        ]

    @cached_property
    def _blocks(self) -> list[tuple[str, str, str]]:
        """(first cut, last cut, path) of every block: an innermost list item with two weighted operations."""
        runs: dict[str, list[int]] = {}
        for i, (_, items, _) in enumerate(self._pieces):
            for item in items:
                runs.setdefault(item, []).append(i)
        whole = {
            item: run
            for item, run in runs.items()
            if run == list(range(run[0], run[-1] + 1)) and sum(self._own_weights[i] for i in run) >= 2
        }
        inner = [p for p in whole if not any(q != p and q.startswith(p + ".") for q in whole)]
        ordered = sorted(inner, key=lambda p: whole[p][0])
        return [(self.cuts[whole[p][0]], self._pieces[whole[p][-1]][0], p) for p in ordered]

    def _stage(self, path: str) -> str:
        """Name the stage of a block: its outermost enclosing list item, else the list itself."""
        parts = path.split(".")
        outer = next((i for i, part in enumerate(parts[:-1]) if part.isdigit()), len(parts) - 2)
        return ".".join(parts[: outer + 1])

    def _grouped(self, size: int) -> list[str]:
        """Return the ends of runs of ``size`` blocks, never across a stage; what lies between stays alone."""
        ends: list[str] = []
        count, previous, last = 0, None, ""
        for first, end, path in self._blocks:
            joined = previous == self._stage(path) and count < size and not self._weights_between(last, first)
            if joined:
                ends.pop()
            else:
                ends.append(first)
            count = count + 1 if joined else 1
            ends.append(end)
            previous, last = self._stage(path), end
        return ends

    def _weights_between(self, start: str, end: str) -> int:
        """Count the weighted operations between two cuts."""
        return sum(w for _, _, w in self._pieces[self.cuts.index(start) : self.cuts.index(end)])

    def _unit_ends(self) -> list[str]:
        """Return the block ends and every residual add inside a block that is a cut."""
        residual = [
            c
            for c in self.cuts
            if is_op(self.nodes[c], ADD)
            and all(isinstance(a, fx.Node) and a in self._dependent for a in self.nodes[c].args)
        ]
        return sorted({*self._grouped(1), *residual}, key=self.cuts.index)

    def _chain(self, ends: list[str]) -> tuple[Span, ...]:
        """Turn kept cuts into spans from input to output; a piece without weights joins what is before it."""
        weighted = {end: count for end, _, count in self._pieces}
        spans: list[Span] = []
        start, total = self.cuts[0], 0
        kept = set(ends) | {self.cuts[-1]}
        for cut in self.cuts[1:]:
            total += weighted[cut]
            if cut not in kept:
                continue
            if total:
                spans.append(Span(self._span_name(start, cut), start, cut, start))
            elif spans:
                spans[-1] = replace(spans[-1], end=cut)
            if spans:
                start, total = cut, 0
        if not spans:
            return (Span(self.cuts[-1], self.cuts[0], self.cuts[-1], self.cuts[0]),)
        return (*spans[:-1], replace(spans[-1], end=self.cuts[-1]))

    def _span_name(self, start: str, end: str) -> str:
        """Name a span after the modules of its weighted operations, as far as they agree."""
        inside = list(self.cuts)[self.cuts.index(start) : self.cuts.index(end) + 1]
        first, last = self.nodes[inside[0]], self.nodes[inside[-1]]
        between, found = False, list[tuple[str, bool]]()
        for node in self.graph.nodes:
            if between and is_op(node, LINEAR | CONV) and node in self._dependent:
                found.append((layer_name(node), node in self._trunk))
            between = (between or node is first) and node is not last
        nodes = [name for name, on_trunk in found if on_trunk] or [name for name, _ in found]
        if not nodes:
            return end
        return joined_name(nodes[0].split("."), nodes[-1].split("."))

    def _layers(self) -> tuple[Span, ...]:
        cut, spans = self.cuts[0], list[Span]()
        known = set(self.cuts)
        for node in self.graph.nodes:
            if is_op(node, LINEAR | CONV) and node in self._dependent:
                spans.append(Span(layer_name(node), str(node.args[0]), node.name, cut))
            if node.name in known:
                cut = node.name
        return tuple(spans)

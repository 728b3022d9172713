"""What a run at 8 bits says about 4: the size that it would have, what it takes, what it loses elsewhere."""

from vitq.allocate import site_costs
from vitq.graph import Graph
from vitq.report.units import duration, size

FEWER = 4
SECONDS = 1080.0
"""Of ``mgrq`` with budget quick on DeiT-Tiny, two CPU cores. Source: benchmarks/results/mgrq.jsonl, a test compares."""

MACS = 1_253_683_200
"""Multiply-accumulates of DeiT-Tiny for one image."""

LOST = (6, 12)
"""Points of top-1 that W4A4 loses on DeiT-Tiny and ViT-Tiny, rounded. Source: the same."""


def fewer_bits(graph: Graph, size_bytes: int) -> str:
    """Return a sentence on 4 bits for a quantized model of this size.

    The time is DeiT-Tiny's by the model's multiply-accumulates, so it is a guess for every other model.
    """
    costs = site_costs(graph)
    weights = [name for name in graph.quantizers if costs.sites[name].is_weight]
    saved = sum(costs.sites[n].elements * max(graph.quantizers[n].bits - FEWER, 0) / 8 for n in weights)
    spent = duration(SECONDS * costs.macs / MACS)
    return (
        f"fewer bits: --bits w{FEWER}a{FEWER} would take about {size(size_bytes - saved)} instead of {size(size_bytes)} "
        f"and about {spent} of training on two CPU cores; on the two models measured it loses {LOST[0]} to {LOST[1]} "
        "points of top-1"
    )

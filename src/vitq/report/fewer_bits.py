"""What a run at 8 bits says about 4: the size that it would have, what it takes, what it loses elsewhere."""

from vitq.allocate import site_costs
from vitq.artifact.artifact import Artifact
from vitq.report.units import duration, size

FEWER = 4
SECONDS = 1080.0
"""Of ``mgrq`` with budget quick on DeiT-Tiny, two CPU cores. Source: benchmarks/results/mgrq.jsonl, a test compares."""

MACS = 1_253_683_200
"""Multiply-accumulates of DeiT-Tiny for one image."""

LOST = (6, 12)
"""Points of top-1 that W4A4 loses on DeiT-Tiny and ViT-Tiny, rounded. Source: the same."""


def fewer_bits(artifact: Artifact) -> str:
    """Return a sentence on 4 bits for a quantized model.

    The time is DeiT-Tiny's by the model's multiply-accumulates, so it is a guess for every other model.
    """
    costs, now = site_costs(artifact.graph), artifact.metrics.size_bytes
    saved = sum(costs.sites[n].elements * max(q.format.bits - FEWER, 0) / 8 for n, q in artifact.weights.items())
    space = "" if now is None else f"about {size(now - saved)} instead of {size(now)} and "
    spent = duration(SECONDS * costs.macs / MACS)
    return (
        f"fewer bits: --bits w{FEWER}a{FEWER} would take {space}about {spent} of training on two CPU cores; on the two "
        f"models measured it loses {LOST[0]} to {LOST[1]} points of top-1"
    )

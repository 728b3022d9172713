"""The verdict on a run: is the quantized model to be taken, what did it lose, what did it gain."""

from dataclasses import dataclass
from enum import StrEnum

from vitq.artifact.metrics import RunMetrics
from vitq.bench.saved import Bench, Row
from vitq.evidence import Pairs
from vitq.report.paired import Loss, bounded_loss, expected_loss, paired_loss
from vitq.report.units import number, size

WITHIN = 1.0
"""Points that may be lost, where nobody says otherwise."""

COLLAPSED = 0.5
"""Share of floating point's accuracy below which nothing usable is left."""

NEAR, FAR = 0.1, 0.5
"""Relative errors of outputs that are no classes: up to the one they are accepted, from the other nothing is left."""


class Kind(StrEnum):
    """What to do with a model: take it, look again, or give these settings up."""

    ACCEPT = "accept"
    REGRESSION = "regression"
    INFEASIBLE = "infeasible"


@dataclass(frozen=True)
class Verdict:
    """The verdict in one word, the reason in one sentence, and what was gained; ``loss`` where one is known."""

    kind: Kind
    reason: str
    gains: tuple[str, ...]
    loss: Loss | None = None


def verdict_of(metrics: RunMetrics, pairs: Pairs | None, bench: Bench | None, within: float = WITHIN) -> Verdict:
    """Return the verdict: accepted where at most ``within`` points of the score are lost, or no loss is certain."""
    loss = loss_of(metrics, pairs)
    kind, reason = _judged(metrics, loss, within)
    return Verdict(kind, reason, (*_smaller(metrics), *_faster(bench)), loss)


def loss_of(metrics: RunMetrics, pairs: Pairs | None) -> Loss | None:
    """Return what was lost with its noise: by labels, by both accuracies, by what is expected; else None."""
    if pairs is not None and pairs.floating:
        return paired_loss(pairs.floating, pairs.quantized)
    if metrics.top1 is not None and metrics.fp_top1 is not None and metrics.agreement is not None and metrics.images:
        return bounded_loss(metrics.fp_top1 - metrics.top1, metrics.agreement, metrics.images)
    if pairs is not None:
        return expected_loss(pairs.expected_loss, pairs.expected_deviation, pairs.images)
    return None


def _judged(metrics: RunMetrics, loss: Loss | None, within: float) -> tuple[Kind, str]:
    if metrics.images == 0:
        return Kind.INFEASIBLE, "The quantized model could not be measured."
    if any(name == "not-finite" for name, _ in metrics.warnings):
        return Kind.INFEASIBLE, "The quantized model gives NaN or infinity for some images."
    if loss is not None:
        return _by_loss(metrics, loss, within)
    if metrics.relative_error is not None:
        return _by_error(metrics.relative_error)
    if metrics.agreement is not None:
        apart = 100 - metrics.agreement
        kind = Kind.ACCEPT if apart <= within else Kind.REGRESSION
        return kind, f"Both models predict the same for {metrics.agreement:.1f} % of {metrics.images:,} images."
    return Kind.REGRESSION, "Nothing was measured that says what was lost; give labelled images with --validation."


def _by_loss(metrics: RunMetrics, loss: Loss, within: float) -> tuple[Kind, str]:
    interval = f"95 % interval {loss.low:+.1f} to {loss.high:+.1f}"
    tested = "" if loss.p is None else f", p {'< 0.001' if loss.p < 0.001 else f'= {loss.p:.2g}'} by McNemar's test"
    change = "lost" if loss.points >= 0 else "gained"
    how = change if loss.p is not None else f"expected to be {change} (no labels)"
    noise = "within noise" if loss.within_noise else "more than noise"
    points = f"{abs(loss.points):.1f} points of top-1 {how} on {loss.images:,} images"
    found = f"{points}, {noise} (loss: {interval}{tested})"
    left = None if not metrics.fp_top1 or metrics.top1 is None else metrics.top1 / metrics.fp_top1
    if loss.p is None:
        left = metrics.agreement / 100 if metrics.agreement is not None else left
    if left is not None and left < COLLAPSED:
        return Kind.INFEASIBLE, f"{found}: nothing usable is left."
    if loss.points <= within and (loss.within_noise or loss.high <= within):
        few = loss.high > within
        tail = f"; so few images cannot rule out {loss.high:.1f} points" if few else ""
        return Kind.ACCEPT, f"{found}{tail}."
    if loss.points <= within:
        return Kind.ACCEPT, f"{found}, and no more than the {_points(within)} that may be lost."
    chance = "; on so few images it may be chance, so measure on more" if loss.within_noise else ""
    return Kind.REGRESSION, f"{found}; {_points(within)} may be lost{chance}."


def _points(within: float) -> str:
    return f"{within:g} point{'' if within == 1 else 's'}"


def _by_error(error: float) -> tuple[Kind, str]:
    text = f"Outputs are {number(error)} off those of floating point, relative to their size"
    if error >= FAR:
        return Kind.INFEASIBLE, f"{text}: nothing usable is left."
    return (Kind.ACCEPT if error <= NEAR else Kind.REGRESSION), f"{text}; up to {NEAR} is accepted."


def _smaller(metrics: RunMetrics) -> tuple[str, ...]:
    before, after = metrics.fp_size_bytes, metrics.size_bytes
    if not before or not after:
        return ()
    smaller = f"{before / after:.1f} times smaller"
    larger = f"{after / before:.1f} times the original's size: it gained nothing"
    return (f"{size(after)} instead of {size(before)}, {smaller if after < before else larger}",)


def _faster(bench: Bench | None) -> tuple[str, ...]:
    if bench is None:
        return ("speed not measured: 'vitq bench RUN --images DIR' does",)
    lines = []
    for runtime in dict.fromkeys(row.runtime for row in bench.own()):
        for batch in sorted({batch for row in bench.own() for batch in row.milliseconds}):
            rows = [row for row in bench.own() if row.runtime == runtime and batch in row.milliseconds]
            best: Row = min(rows, key=lambda row: row.milliseconds[batch])
            threads = f"{bench.threads} thread{'s' if bench.threads > 1 else ''}"
            time = f"{best.milliseconds[batch]:.1f} ms a batch of {batch} in {runtime}, {threads}"
            lines.append(f"{time}: {best.ratios[batch]:.2f} times the speed of float32")
    return tuple(lines)

"""The end-to-end half of a proof: classes and accuracy of the file, of its simulation and of floating point."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch

from vitq.export.runtimes import Session
from vitq.measure import Forward, measure

Batches = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor | None]]]
"""Gives (x_BCHW, labels_B or None) anew each time."""

NUDGE = 1e-6
"""Part by which inputs are scaled to see how steady the simulation is: a low-bit model is chaotic (measured: W3A3
DeiT-Tiny agrees with itself on 69 % of 64 images, W4A4 on 95 %), and no exact file can agree with it more often."""

MARGIN, DROP, FLOATING_ERROR = 20.0, 1.0, 1e-3
"""Bounds: points of agreement below the simulation's own, of top-1 below its, error of the floating-point file."""

ERROR_MARGIN = 0.05
"""Relative error that outputs which are no classes may have beyond twice the simulation's with itself."""


@dataclass(frozen=True)
class EndToEnd:
    """``agreement`` of the file's top-1 with the simulation's in percent, and top-1 of both where there are labels.

    ``self_agreement`` is the simulation's with itself on inputs scaled by 1 + 1e-6. Where outputs are no classes,
    ``relative_error`` and ``self_error`` of the outputs stand for these two. ``floating_top1`` is that of the
    floating-point file, ``floating_error`` the largest relative error of its logits; None without that model.
    """

    images: int
    agreement: float | None
    self_agreement: float | None
    top1: float | None
    simulated_top1: float | None
    floating_top1: float | None = None
    floating_error: float | None = None
    relative_error: float | None = None
    self_error: float | None = None


@dataclass(frozen=True)
class Floating:
    """The floating-point model, and the session of its file."""

    forward: Forward
    session: Session


@torch.no_grad()
def compare(simulated: Forward, file: Session, batches: Batches, floating: Floating | None = None) -> EndToEnd:
    """Run all of them over the same images."""
    device = torch.device("cpu")
    expected, given_N = measure(simulated, batches(), device)
    got, _ = measure(lambda x_BCHW: file(x_BCHW)[0], batches(), device, given_N, broken=_pass)
    nudged, _ = measure(lambda x_BCHW: simulated(x_BCHW * (1 + NUDGE)), batches(), device, given_N)
    result = EndToEnd(
        got.images,
        got.agreement,
        nudged.agreement,
        got.top1,
        expected.top1,
        relative_error=got.relative_error,
        self_error=nudged.relative_error,
    )
    if floating is None:
        return result
    session, errors = floating.session, list[float]()

    def logits(x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BK, expected_BK = session(x_BCHW)[0], floating.forward(x_BCHW)
        errors.append(float(((y_BK - expected_BK).norm(dim=1) / expected_BK.norm(dim=1).clamp(min=1e-12)).max()))
        return y_BK

    plain, _ = measure(logits, batches(), device, broken=_pass)
    return replace(result, floating_top1=plain.top1, floating_error=max(errors))


def _pass(message: str) -> None:
    """Outputs that are not finite agree with nothing, which is told by ``complaints``."""


def complaints(result: EndToEnd) -> list[str]:
    """Return what is out of bounds; a top-1 may be lower by two standard errors of the images that differ, besides."""
    lines: list[str] = []
    drop = DROP
    if result.agreement is not None and result.self_agreement is not None:
        least = result.self_agreement - MARGIN
        if result.agreement < least:
            lines.append(f"top-1 agrees with the simulation on {result.agreement:.1f} % of the images ({least:.1f} %)")
        drop += 2 * (100 * (100 - result.agreement) / result.images) ** 0.5
    elif result.relative_error is None or result.self_error is None:
        lines.append("the outputs are NaN or infinite for every image")
    elif not result.relative_error <= (most := ERROR_MARGIN + 2 * result.self_error):
        lines.append(f"the outputs are {result.relative_error:.2g} off the simulation's (bound {most:.2g})")
    if result.top1 is not None and result.simulated_top1 is not None and result.top1 < result.simulated_top1 - drop:
        lines.append(
            f"top-1 is {result.top1:.1f}, the simulation's {result.simulated_top1:.1f} ({drop:.1f} less at most)"
        )
    if result.floating_error is not None and result.floating_error > FLOATING_ERROR:
        error, bound = result.floating_error, FLOATING_ERROR
        lines.append(f"the floating-point file is {error:.2g} off the model itself (bound {bound:g})")
    return lines

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

ERROR = 0.1
"""Bound of a single output's relative error, beside twice the simulation's own on the nudged images."""


@dataclass(frozen=True)
class EndToEnd:
    """``agreement`` of the file's top-1 with the simulation's in percent, and top-1 of both where there are labels.

    ``self_agreement`` is the simulation's with itself on inputs scaled by 1 + 1e-6. ``floating_top1`` is that of the
    floating-point file, ``floating_error`` the largest relative error of its logits; None without that model.
    A model with one output has no top-1: its agreements are None, and ``error``, relative, over all images,
    ``cosine`` and ``self_error`` say how near the outputs are.
    """

    images: int
    agreement: float | None
    self_agreement: float | None
    top1: float | None
    simulated_top1: float | None
    floating_top1: float | None = None
    floating_error: float | None = None
    error: float | None = None
    cosine: float | None = None
    self_error: float | None = None


@dataclass(frozen=True)
class Floating:
    """The floating-point model, and the session of its file."""

    forward: Forward
    session: Session


class Single:
    """A model that keeps its outputs where it has one for each image: no classes, but numbers to compare."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward
        self.outputs: list[torch.Tensor] = []

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the outputs."""
        y_BK = self.forward(x_BCHW)
        if y_BK.shape[-1] == 1:
            self.outputs.append(y_BK.flatten().double())
        return y_BK

    def distance(self, other: "Single") -> tuple[float, float]:
        """Return the relative error and the cosine to the outputs of ``other``, over all images."""
        y_N, expected_N = torch.cat(self.outputs), torch.cat(other.outputs)
        error = (y_N - expected_N).norm() / expected_N.norm().clamp(min=1e-12)
        return float(error), float(torch.nn.functional.cosine_similarity(y_N, expected_N, dim=0))


@torch.no_grad()
def compare(simulated: Forward, file: Session, batches: Batches, floating: Floating | None = None) -> EndToEnd:
    """Run all of them over the same images."""
    device = torch.device("cpu")
    own, its, other = Single(simulated), Single(lambda x: file(x)[0]), Single(lambda x: simulated(x * (1 + NUDGE)))
    expected, classes_N = measure(own, batches(), device)
    got, _ = measure(its, batches(), device, classes_N)
    nudged, _ = measure(other, batches(), device, classes_N)
    result = EndToEnd(got.images, got.agreement, nudged.agreement, got.top1, expected.top1)
    if own.outputs:
        error, cosine = its.distance(own)
        off = other.distance(own)[0]
        result = replace(result, agreement=None, self_agreement=None, error=error, cosine=cosine, self_error=off)
    if floating is None:
        return result
    session, errors = floating.session, list[float]()

    def logits(x_BCHW: torch.Tensor) -> torch.Tensor:
        y_BK, expected_BK = session(x_BCHW)[0], floating.forward(x_BCHW)
        errors.append(float(((y_BK - expected_BK).norm(dim=1) / expected_BK.norm(dim=1).clamp(min=1e-12)).max()))
        return y_BK

    plain, _ = measure(logits, batches(), device)
    return replace(result, floating_top1=plain.top1, floating_error=max(errors))


def complaints(result: EndToEnd) -> list[str]:
    """Return what is out of bounds; a top-1 may be lower by two standard errors of the images that differ, besides."""
    lines = _single(result) if result.agreement is None else _classes(result, result.agreement)
    if result.floating_error is not None and result.floating_error > FLOATING_ERROR:
        error, bound = result.floating_error, FLOATING_ERROR
        lines.append(f"the floating-point file is {error:.2g} off the model itself (bound {bound:g})")
    return lines


def _classes(result: EndToEnd, agreement: float) -> list[str]:
    lines: list[str] = []
    least = (100.0 if result.self_agreement is None else result.self_agreement) - MARGIN
    if agreement < least:
        lines.append(f"top-1 agrees with the simulation on {agreement:.1f} % of the images ({least:.1f} %)")
    drop = DROP + 2 * (100 * (100 - agreement) / result.images) ** 0.5
    if result.top1 is not None and result.simulated_top1 is not None and result.top1 < result.simulated_top1 - drop:
        lines.append(
            f"top-1 is {result.top1:.1f}, the simulation's {result.simulated_top1:.1f} ({drop:.1f} less at most)"
        )
    return lines


def _single(result: EndToEnd) -> list[str]:
    bound = ERROR + 2 * (result.self_error or 0.0)
    if result.error is None or result.error <= bound:
        return []
    return [f"outputs are {result.error:.2g} off the simulation's (bound {bound:.2g}, cosine {result.cosine:.3f})"]

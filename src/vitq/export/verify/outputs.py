"""The end-to-end half of a proof: outputs and scores of the file, of its simulation and of floating point."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from vitq.evaluation import Forward, measure
from vitq.export.runtimes import Session
from vitq.graph.outputs import ONLY, Outputs, as_outputs

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
    ``relative_error`` and ``self_error`` of the outputs stand for these two, of several outputs the worst; ``outputs``
    has both of each of several that is no class. ``floating_top1`` is that of the floating-point file,
    ``floating_error`` the largest relative error of its outputs; None without that model.
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
    outputs: Mapping[str, tuple[float, float]] | None = None
    agrees: str = "top-1"
    """What ``agreement`` is of."""


@dataclass(frozen=True)
class Floating:
    """The floating-point model, and the session of its file."""

    forward: Forward
    session: Session


def by_name(file: Session, names: Sequence[str]) -> Callable[[torch.Tensor], Outputs]:
    """Return what a file computes of images, its outputs by name."""
    return lambda x_BCHW: dict(zip(names, file(x_BCHW), strict=True))


def largest_error(expected: torch.Tensor, got: torch.Tensor) -> float:
    """Return the largest relative error of an image, which is the first axis of both."""
    error_B = (expected - got).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp(min=1e-12)
    return float(error_B.max())


@torch.no_grad()
def compare(
    simulated: Forward,
    file: Session,
    batches: Batches,
    floating: Floating | None = None,
    names: Sequence[str] = (ONLY,),
    task: str | None = None,
) -> EndToEnd:
    """Run all of them over the same images.

    ``names`` are those of the file's outputs; ``task`` says what they mean, without it what they look like.
    """
    device = torch.device("cpu")
    expected, given = measure(simulated, batches(), device, task=task)
    got, _ = measure(by_name(file, names), batches(), device, given, broken=_pass, task=task)
    nudged, _ = measure(lambda x_BCHW: simulated(x_BCHW * (1 + NUDGE)), batches(), device, given, task=task)
    own = nudged.outputs or {}
    off, nan = got.outputs or {}, {"relative_error": float("nan")}
    each = {
        name: (off.get(name, nan)["relative_error"], near["relative_error"])
        for name, near in own.items()
        if name not in given.task.matched
    }
    result = EndToEnd(
        got.images,
        got.agreement,
        nudged.agreement,
        got.top1,
        expected.top1,
        relative_error=got.relative_error,
        self_error=nudged.relative_error,
        outputs=each or None,
        agrees=given.task.agrees,
    )
    if floating is None:
        return result
    forward, errors, meaning = by_name(floating.session, names), list[float](), given.task

    def outputs(x_BCHW: torch.Tensor) -> Outputs:
        own, expected = forward(x_BCHW), as_outputs(floating.forward(x_BCHW))
        like = meaning.matched_to(expected, own)
        errors.extend(largest_error(y, like[name]) for name, y in expected.items())
        return own

    plain, _ = measure(outputs, batches(), device, broken=_pass, task=task)
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
            lines.append(
                f"{result.agrees} agrees with the simulation on {result.agreement:.1f} % of the images ({least:.1f} %)"
            )
        drop += 2 * (100 * (100 - result.agreement) / result.images) ** 0.5
    elif result.relative_error is None or result.self_error is None:
        lines.append("the outputs are NaN or infinite for every image")
    elif result.outputs is None and not result.relative_error <= (most := ERROR_MARGIN + 2 * result.self_error):
        lines.append(f"the outputs are {result.relative_error:.2g} off the simulation's (bound {most:.2g})")
    for name, (error, own) in (result.outputs or {}).items():
        if not error <= (most := ERROR_MARGIN + 2 * own):
            lines.append(f"output '{name}' is {error:.2g} off the simulation's (bound {most:.2g})")
    if result.top1 is not None and result.simulated_top1 is not None and result.top1 < result.simulated_top1 - drop:
        lines.append(
            f"top-1 is {result.top1:.1f}, the simulation's {result.simulated_top1:.1f} ({drop:.1f} less at most)"
        )
    if result.floating_error is not None and result.floating_error > FLOATING_ERROR:
        error, bound = result.floating_error, FLOATING_ERROR
        lines.append(f"the floating-point file is {error:.2g} off the model itself (bound {bound:g})")
    return lines

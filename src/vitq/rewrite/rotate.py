"""Step ``rotate``: turn the channels of heads and of residual streams, so that no channel stands out.

With an orthogonal Q per head, (q Q)(k Q)ᵀ = q kᵀ, and v Q meets Qᵀ in the projection. A residual stream x becomes x Q
where all who write it are multiplied by Q and all who read it by Qᵀ, behind norms that lost scale and bias to them.
All of it is merged into weights and costs nothing when the model runs. A layer norm commutes with a Q that keeps the
vector of ones (vitq); any other Q needs RMS norms, which layer norms are on a stream without mean (SliceGPT,
arXiv 2401.15024). Teacher and student are turned alike, so that they agree at every cut.
Sources: QuaRot (arXiv 2404.00456), GLF-Q.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Literal

import torch
from pydantic import Field

from vitq.activations import forward_outputs
from vitq.errors import GraphError, RecipeError
from vitq.graph import Graph, Role, Site
from vitq.graph.outputs import Outputs
from vitq.graph.queries import HeadPair, query_key, residual_stream, residual_streams, value_path
from vitq.rewrite.hadamard import ones_preserving, randomized_hadamard
from vitq.rewrite.norms import require_floating
from vitq.rewrite.turn import turn_heads, turn_stream, why_not_heads, why_not_stream
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run

Residual = Literal["none", "ones", "hadamard"]

PAIRS: dict[Role, Callable[[Graph, Site], HeadPair]] = {Role.QUERY: query_key, Role.VALUE: value_path}


@register_step("rotate")
class Rotate(Step):
    """Rotate heads and residual streams of teacher and student; run it before ``insert``.

    ``residual``: "ones" keeps layer norms, "hadamard" makes them RMS norms. With ``choose`` the quick steps of the
    recipe that follow are run for every combination of the two. Each rotation is kept only where they then give less
    error at the model's output on the last ``held_out`` images (at most a fifth), which they do not see.
    """

    heads: bool = True
    residual: Residual = "ones"
    choose: bool = True
    held_out: int = Field(64, ge=1)

    def apply(self, run: "Run") -> None:
        """Rewrite ``run.teacher`` and ``run.student``; what cannot be turned exactly gets a named warning."""
        require_floating(run.student, "rotate")
        taken = self._choose(run) if self.choose else self
        turned = taken._turn(run)
        run.events.log("rotate", heads=taken.heads, residual=taken.residual, turned=turned)

    def _candidates(self) -> list["Rotate"]:
        """Return all combinations of what is switched on, from nothing to everything."""
        heads, residuals = (False, self.heads), ("none", self.residual)
        pairs = dict.fromkeys(product(heads, residuals))
        return [self.model_copy(update={"heads": h, "residual": r}) for h, r in sorted(pairs, key=self._size)]

    @staticmethod
    def _size(pair: tuple[bool, str]) -> int:
        return pair[0] + (pair[1] != "none")

    def _choose(self, run: "Run") -> "Rotate":
        """Return the candidate of least error on held-out images; of equal ones the one that turns least."""
        candidates = self._candidates()
        saved = run.restore(run.stage)
        if saved is not None:
            return candidates[int(saved[1]["taken"])]
        held_out = min(self.held_out, len(run.images_NCHW) // 5)
        if held_out == 0:
            raise RecipeError("choose needs at least 5 calibration images; give more, or set choose: false")
        target = forward_outputs(run.teacher, run.images_NCHW[-held_out:], run.device)
        errors: list[float] = []
        with run.events.task("rotate", total=len(candidates)) as task:
            for candidate in candidates:
                errors.append(candidate._error(run, held_out, target))
                task.advance(heads=candidate.heads, residual=candidate.residual, error=errors[-1])
        taken = min(range(len(candidates)), key=errors.__getitem__)
        run.save(run.stage, {}, {"taken": taken, "errors": errors})
        return candidates[taken]

    def _error(self, run: "Run", held_out: int, target: Outputs) -> float:
        """Return the squared error of a trial's outputs, relative to the target's energy, averaged over outputs."""
        with Events() as events:
            trial = replace(
                run,
                student=run.student.clone(),
                images_NCHW=run.images_NCHW[:-held_out],
                events=events,
                checkpoints=Checkpoints(),
            )
            self._turn(trial)
            run.rehearse(trial)
        if not trial.student.quantizers:
            raise RecipeError("choose needs 'insert' and 'calibrate' behind it; add them, or set choose: false")
        outputs = forward_outputs(trial.student, run.images_NCHW[-held_out:], run.device)
        errors = [float((outputs[name] - y).square().mean() / y.square().mean()) for name, y in target.items()]
        return sum(errors) / len(errors)

    def _turn(self, run: "Run") -> list[str]:
        """Turn what this candidate turns and return its names."""
        if not self.heads and self.residual == "none":
            return []
        run.teacher = run.teacher.clone()
        turned = _turn_pairs(run) if self.heads else []
        return turned if self.residual == "none" else [*turned, *_turn_streams(run, self.residual)]


def _turn_pairs(run: "Run") -> list[str]:
    """Turn the heads of every attention that allows it, query with key and value with projection."""
    turned, refused = list[str](), dict[Role, list[str]]()
    sites = [site for site in run.student.sites.values() if site.role in PAIRS]
    for site in sites:
        try:
            pairs = [PAIRS[site.role](graph, site) for graph in (run.teacher, run.student)]
            if reason := why_not_heads(pairs[0]):
                raise GraphError(reason)
        except GraphError as error:
            refused.setdefault(site.role, []).append(f"'{site.name}': {error}")
            continue
        heads, width = pairs[0].first.index_HD.shape
        generator = run.generator(run.stage, site.name)
        q_HDD = torch.stack([randomized_hadamard(width, generator) for _ in range(heads)])
        for graph, pair in zip((run.teacher, run.student), pairs, strict=True):
            turn_heads(graph, pair, q_HDD)
        turned.append(site.name)
    total = Counter(site.role for site in sites)
    for role, reasons in refused.items():
        told = f"heads of {len(reasons)} of {total[role]} {role} tensors stay as they are; {reasons[0]}"
        run.events.warn("rotate-skipped", told)
    return turned


def _turn_streams(run: "Run", residual: Residual) -> list[str]:
    """Turn every residual stream that allows it and return a tensor of each."""
    draw, keeps_ones = (ones_preserving, True) if residual == "ones" else (randomized_hadamard, False)
    turned, graphs = list[str](), (run.teacher, run.student)
    for at in _tensors_of_streams(run):
        streams = [residual_stream(graph, at) for graph in graphs]
        reasons = [
            why_not_stream(graph, stream, keeps_ones=keeps_ones) for graph, stream in zip(graphs, streams, strict=True)
        ]
        if any(reasons):
            reason = next(filter(None, reasons))
            run.events.warn("rotate-skipped", f"the residual stream at '{at}' stays as it is: {reason}")
            continue
        q_CC = draw(streams[0].channels, run.generator(run.stage, at))
        for graph in graphs:
            turn_stream(graph, at, q_CC, keeps_ones=keeps_ones)
        turned.append(at)
    return turned


def _tensors_of_streams(run: "Run") -> list[str]:
    """Return the name of one tensor of each residual stream."""
    cuts = set(run.student.cuts)
    try:
        streams = residual_streams(run.student)
    except GraphError as error:
        run.events.warn("rotate-skipped", f"the residual streams stay as they are: {error}")
        return []
    return [next(node.name for node in stream.axes if node.name in cuts) for stream in streams]

"""The recipe step that reconstructs the student, segment by segment."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Literal

import torch
from pydantic import Field

from vitq.devices import cache_home, supports_bfloat16
from vitq.errors import RecipeError
from vitq.graph import Graph, Span
from vitq.graph.insert import set_attribute
from vitq.quantizers import compiling, use_compiled_kernels, worth_compiling
from vitq.reconstruct.activations import Pair, Prefix, first_output, forward_all
from vitq.reconstruct.choose import Choice, Choose, choose
from vitq.reconstruct.curvature import LOW_RANK, Weigh
from vitq.reconstruct.data import Data
from vitq.reconstruct.objectives import LOCAL, BlockTerm, FeatureTerm, Fusion, LocalTerm, LogitsTerm, LowRankTerm, Term
from vitq.reconstruct.schedule import Order, Piece, plan
from vitq.reconstruct.segment import prepare
from vitq.reconstruct.settings import Settings
from vitq.reconstruct.slicings import Slicing
from vitq.reconstruct.train import train
from vitq.run import Run
from vitq.step import Step, register_step

Learnable = Literal["weights", "rounding", "weight_scales", "activation_scales", "zero_points", "biases", "norms"]


@register_step("reconstruct")
class Reconstruct(Step):
    """Train each segment of a schedule on quantized-prefix inputs against floating-point targets.

    ``learn`` maps what is learnt to its Adam rate: ``weights`` (straight-through; in steps of their channel),
    ``rounding`` (AdaRound's V), ``weight_scales``, ``activation_scales`` (relative), ``zero_points`` (codes),
    ``biases``, ``norms``. ``block``, ``global`` and ``local`` weigh the terms of the objective; 0 switches one off.
    ``even``: ``steps`` are those of a block, and every level or slicing takes as many in total; else of any segment.
    """

    schedule: tuple[str, ...] = ("block",)
    order: Order = "level"
    choose: Choose | None = None
    inputs: Literal["quantized", "floating"] = "quantized"
    steps: int = Field(500, ge=0)
    even: bool = False
    batch: int = Field(32, ge=1)
    learn: dict[Learnable, float] = Field({"weights": 0.03, "activation_scales": 0.03})
    block: float = Field(1.0, ge=0)
    weigh: Weigh = "none"
    weigh_images: int = Field(128, ge=1)
    refreshes: int = Field(1, ge=1)
    low_rank: float = Field(0.0, ge=0)
    drop_smallest: float = Field(0.0, ge=0, lt=1)
    global_: float = Field(0.0, ge=0, alias="global")
    global_on: Literal["feature", "logits"] = "feature"
    global_batch: int = Field(32, ge=1)
    temperature: float = Field(4.0, gt=0)
    local: float = Field(0.0, ge=0)
    local_batch: int = Field(8, ge=1)
    local_by: Literal["moments", "kl", "mse"] = "moments"
    drop_activations: float = Field(0.5, ge=0, le=1)
    mix_inputs: float = Field(0.5, ge=0, le=1)
    average: float = Field(0.0, ge=0, lt=1)
    rounding_weight: float = Field(0.01, ge=0)
    rounding_warmup: float = Field(0.2, ge=0, lt=1)
    held_out: int = Field(64, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: Literal["float32", "bfloat16"] = "float32"

    def apply(self, run: Run) -> None:
        """Reconstruct every segment of the schedule, or of the slicing that is chosen."""
        if self.choose is None:
            self.sweep(run, plan(run.student, self.schedule, self.order))
        else:
            self._sliced(run, self.choice(run).best, self.steps)

    def choice(self, run: Run) -> Choice:
        """Try the candidates of ``choose`` and return what was measured; the student stays as it is."""
        options = self.choose or Choose()
        return choose(run, options, lambda copy, slicing: self._sliced(copy, slicing, options.steps))

    def _sliced(self, run: Run, slicing: Slicing, steps: int) -> None:
        self.model_copy(update={"choose": None, "steps": steps}).sweep(run, slicing.pieces)

    def steps_of(self, graph: Graph, pieces: Sequence[Piece]) -> dict[str, int]:
        """Return the steps that each segment of ``pieces`` takes, by level. Source: vitq."""
        segments, blocks = Counter(piece.level for piece in pieces), len(graph.spans("block"))
        if not self.even:
            return dict.fromkeys(segments, self.steps)
        return {level: max(round(self.steps * blocks / count), min(self.steps, 1)) for level, count in segments.items()}

    def sweep(self, run: Run, pieces: Sequence[Piece]) -> None:
        """Reconstruct ``pieces`` in order, checkpointing each; finished ones of a resumed run are read back."""
        goal = run.teacher.feature if self.global_on == "feature" else run.teacher.cuts[-1]
        kept = run.images_NCHW.to(cache_home(run.device, run.images_NCHW.nbytes))
        images = kept.to(torch.bfloat16 if self.cache == "bfloat16" else torch.float32)
        first, last = run.teacher.cuts[0], run.teacher.cuts[-1]
        goals = _teacher(run, first, goal, kept) if self.global_ > 0 else None
        known = (first, kept) if goals is None else (goal, goals)
        logits = None if self.weigh == "none" else _teacher(run, known[0], last, known[1])
        prefix = Prefix(run.student, run.teacher, images, run.device)
        seen = len(images) + self.steps * self.batch
        steps = self.steps_of(run.student, pieces)
        with (
            use_compiled_kernels(compiling() or worth_compiling(seen, images.shape)),
            run.events.task("reconstruct", len(pieces)) as task,
        ):
            for done, piece in enumerate(pieces):
                key = f"{run.stage}-{done:03d}-{piece.level}"
                after = self._reconstruct(run, piece.span, steps[piece.level], prefix, goal, goals, logits, key)
                prefix.trained(piece.span, after, {later.span.cut for later in pieces[done + 1 :]})
                task.advance()

    def _reconstruct(
        self,
        run: Run,
        span: Span,
        steps: int,
        prefix: Prefix,
        goal: str,
        goals: torch.Tensor | None,
        logits: torch.Tensor | None,
        key: str,
    ) -> Pair | None:
        """Train the span or read it back; return the activations at its end where they are known."""
        saved = run.store.load(key)
        if saved is not None:
            for path, tensor in saved[0].items():
                set_attribute(run.student.module, path, tensor.to(run.device))
            run.events.log("segment", name=span.name, resumed=True, **saved[1])
            return None
        here = prefix.at(span.cut)
        if span.start != span.cut:
            here = prefix.between(span.cut, span.start, here)
        segment = prepare(run.student, run.teacher, span, goal, self._rates(), self.local > 0)
        target, layers = segment.targets(here.teacher_N, LOCAL[self.local_by].summary, run.device)
        visible = goals if segment.supervision.reachable else None
        held_out = self.held_out * len(target) // len(run.images_NCHW)
        train_images = max(len(target) - held_out, min(len(target), self.batch))
        x_student = here.student_N if self.inputs == "quantized" else here.teacher_N
        if logits is not None and (segment.to_logits is None or len(target) != len(logits)):
            raise RecipeError(
                f"reconstruct.weigh={self.weigh} needs segments that end where one activation is alive, with one row "
                f"per image; '{span.name}' does not: choose schedule unit, block or coarser, or weigh=none"
            )
        data = Data(x_student, here.teacher_N, target, visible, logits, layers, train_images)
        generator = run.generator(key)
        outcome = train(
            segment,
            data,
            Fusion(self._terms(visible)),
            self._settings(run, steps),
            run.device,
            generator,
            run.events,
        )
        facts = vars(outcome)
        run.store.save(key, segment.variables.snapshot(), facts)
        run.events.log("segment", name=span.name, **facts)
        if span.start != span.cut:
            return None
        if self.inputs == "floating":
            return Pair(target, target)
        return Pair(forward_all(first_output(segment.student), here.student_N, run.device), target)

    def _rates(self) -> dict[str, float]:
        return {kind: rate for kind, rate in self.learn.items() if rate > 0}

    def _terms(self, goals: torch.Tensor | None) -> dict[str, tuple[float, Term]]:
        terms: dict[str, tuple[float, Term]] = {"block": (self.block, BlockTerm(self.drop_smallest))}
        if self.weigh in LOW_RANK:
            terms["low_rank"] = (self.low_rank, LowRankTerm())
        if goals is not None:
            terms["global"] = (
                self.global_,
                FeatureTerm() if self.global_on == "feature" else LogitsTerm(self.temperature),
            )
        if self.local > 0:
            terms["local"] = (self.local, LocalTerm(self.local_by))
        return terms

    def _settings(self, run: Run, steps: int) -> Settings:
        fast = supports_bfloat16(run.device) if self.precision == "auto" else self.precision == "bfloat16"
        own = {f.name: getattr(self, f.name) for f in fields(Settings) if f.name not in ("steps", "bfloat16")}
        return Settings(**own, steps=steps, bfloat16=fast)


def _teacher(run: Run, start: str, end: str, x_N: torch.Tensor) -> torch.Tensor:
    """Return the teacher's activations at node ``end`` from those at ``start``."""
    return x_N if start == end else forward_all(run.teacher.segment(start, end), x_N, run.device)

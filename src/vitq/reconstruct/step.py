"""The recipe step that reconstructs the student, segment by segment."""

from dataclasses import fields
from typing import Literal

import torch
from pydantic import Field

from vitq.graph import Span
from vitq.graph.insert import set_attribute
from vitq.quantizers import use_compiled_kernels, worth_compiling
from vitq.reconstruct.activations import Forward, Pair, forward_all, supports_bfloat16
from vitq.reconstruct.objectives import BlockTerm, FeatureTerm, Fusion, LocalTerm, LogitsTerm, Term
from vitq.reconstruct.schedule import levels
from vitq.reconstruct.segment import prepare
from vitq.reconstruct.train import Data, Settings, train
from vitq.run import Run
from vitq.step import Step, register_step

Learnable = Literal["weights", "rounding", "weight_scales", "activation_scales", "zero_points", "biases", "norms"]


@register_step("reconstruct")
class Reconstruct(Step):
    """Train each segment of a schedule on quantized-prefix inputs against floating-point targets.

    ``learn`` maps what is learnt to its Adam rate: ``weights`` (straight-through; in steps of their channel),
    ``rounding`` (AdaRound's V), ``weight_scales``, ``activation_scales`` (relative), ``zero_points`` (codes),
    ``biases``, ``norms``. ``block``, ``global`` and ``local`` weigh the terms of the objective; 0 switches one off.
    """

    schedule: tuple[str, ...] = ("block",)
    steps: int = Field(500, ge=0)
    batch: int = Field(32, ge=1)
    learn: dict[Learnable, float] = Field({"weights": 0.03, "activation_scales": 0.03})
    block: float = Field(1.0, ge=0)
    global_: float = Field(0.0, ge=0, alias="global")
    global_on: Literal["feature", "logits"] = "feature"
    global_batch: int = Field(32, ge=1)
    temperature: float = Field(4.0, gt=0)
    local: float = Field(0.0, ge=0)
    local_batch: int = Field(8, ge=1)
    local_by: Literal["moments", "kl", "mse"] = "moments"
    drop_activations: float = Field(0.5, ge=0, le=1)
    mix_inputs: float = Field(0.5, ge=0, le=1)
    rounding_weight: float = Field(0.01, ge=0)
    rounding_warmup: float = Field(0.2, ge=0, lt=1)
    held_out: int = Field(64, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: Literal["float32", "bfloat16"] = "float32"

    def apply(self, run: Run) -> None:
        """Reconstruct every segment, checkpointing each; finished segments of a resumed run are read back."""
        goal = run.teacher.feature if self.global_on == "feature" else run.teacher.cuts[-1]
        images = run.images_NCHW.to(torch.bfloat16 if self.cache == "bfloat16" else torch.float32)
        plan = levels(run.student, self.schedule)
        goals = self._goals(run, goal) if self.global_ > 0 else None
        done = 0
        with (
            use_compiled_kernels(worth_compiling(self.steps * self.batch, run.images_NCHW.shape)),
            run.events.task("reconstruct", sum(len(spans) for _, spans in plan)) as task,
        ):
            for name, spans in plan:
                pair = Pair(run.teacher.cuts[0], images, images)
                for span in spans:
                    key = f"{run.stage}-{done:03d}-{name}"
                    pair = self._reconstruct(run, span, pair, goal, goals, key)
                    done += 1
                    task.advance()

    def _goals(self, run: Run, goal: str) -> torch.Tensor:
        suffix = run.teacher.segment(run.teacher.cuts[0], goal)
        return forward_all(suffix, run.images_NCHW, run.device)

    def _reconstruct(self, run: Run, span: Span, pair: Pair, goal: str, goals: torch.Tensor | None, key: str) -> Pair:
        """Bring the cached activations to the span's cut, then train or read back the span."""
        if pair.cut != span.cut:
            pair = _advance(run, pair, span.cut)
        saved = run.store.load(key)
        if saved is not None:
            for path, tensor in saved[0].items():
                set_attribute(run.student.module, path, tensor.to(run.device))
            run.events.log("segment", name=span.name, resumed=True, **saved[1])
            return pair
        here = pair if span.start == span.cut else _advance(run, pair, span.start)
        segment = prepare(run.student, run.teacher, span, goal, self._rates(), self.local > 0)
        target = forward_all(run.teacher.segment(span.start, span.end), here.teacher_N, run.device)
        visible = goals if segment.supervision.reachable else None
        held_out = self.held_out * len(target) // len(run.images_NCHW)
        train_images = max(len(target) - held_out, min(len(target), self.batch))
        data = Data(here.student_N, here.teacher_N, target, visible, train_images)
        generator = run.generator(key)
        outcome = train(
            segment,
            data,
            Fusion(self._terms(visible)),
            self._settings(run),
            run.device,
            generator,
            run.events,
        )
        facts = vars(outcome)
        run.store.save(key, segment.variables.snapshot(), facts)
        run.events.log("segment", name=span.name, **facts)
        if span.start != span.cut:
            return pair
        return Pair(span.end, forward_all(_without_taps(segment.student), pair.student_N, run.device), target)

    def _rates(self) -> dict[str, float]:
        return {kind: rate for kind, rate in self.learn.items() if rate > 0}

    def _terms(self, goals: torch.Tensor | None) -> dict[str, tuple[float, Term]]:
        terms: dict[str, tuple[float, Term]] = {"block": (self.block, BlockTerm())}
        if goals is not None:
            terms["global"] = (
                self.global_,
                FeatureTerm() if self.global_on == "feature" else LogitsTerm(self.temperature),
            )
        if self.local > 0:
            terms["local"] = (self.local, LocalTerm(self.local_by))
        return terms

    def _settings(self, run: Run) -> Settings:
        fast = supports_bfloat16(run.device) if self.precision == "auto" else self.precision == "bfloat16"
        own = {field.name: getattr(self, field.name) for field in fields(Settings) if field.name != "bfloat16"}
        return Settings(**own, bfloat16=fast)


def _advance(run: Run, pair: Pair, end: str) -> Pair:
    return pair.through(end, run.student.segment(pair.cut, end), run.teacher.segment(pair.cut, end), run.device)


def _without_taps(module: torch.nn.Module) -> Forward:
    def forward(x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor | tuple[torch.Tensor, ...] = module(x)
        return result[0] if isinstance(result, tuple) else result

    return forward

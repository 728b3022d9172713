"""The options of the reconstruct step, and what follows from them alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from vitq.devices import supports_bfloat16
from vitq.graph import Graph
from vitq.reconstruct.groups import Compute, Evaluation, Noise, Objective, Rate, Rounding, Views
from vitq.reconstruct.settings import Settings
from vitq.reconstruct.slicing.choose import Choose
from vitq.reconstruct.slicing.schedule import Order, Piece, check_name
from vitq.run.step import Step

Learnable = Literal["weights", "rounding", "weight_scales", "activation_scales", "zero_points", "biases", "norms"]


class Options(Step):
    """How segments are chosen, trained and evaluated.

    ``learn`` maps what is learnt to its Adam rate: ``weights`` (straight-through; in steps of their channel),
    ``rounding`` (AdaRound's V), ``weight_scales``, ``activation_scales`` (relative), ``zero_points`` (codes),
    ``biases``, ``norms``. With ``equal_total_steps``, ``steps`` are those of a block, and every level or slicing takes
    as many in total; else of any segment. ``images`` is how many calibration images take part, with those held out; by
    default all. The groups are described by their classes. ``views`` and ``images`` are written out only where they
    differ from their defaults.
    """

    unwritten: ClassVar = ("views", "images")
    renamed: ClassVar[Mapping[str, str]] = {
        "even": "equal_total_steps",
        "weigh": "objective.curvature",
        "weigh_images": "objective.curvature_images",
        "refreshes": "objective.curvature_refreshes",
        "rounding_weight": "rounding.weight",
        "rounding_warmup": "rounding.warmup",
        "held_out": "evaluation.held_out",
    }

    schedule: tuple[str, ...] = Field(("block",), min_length=1)
    order: Order = "level"
    choose: Choose | None = None
    inputs: Literal["quantized", "floating"] = "quantized"
    steps: int = Field(500, ge=0)
    equal_total_steps: bool = False
    batch: int = Field(32, ge=1)
    images: int | None = Field(None, ge=2)
    learn: dict[Learnable, Rate] = Field({"weights": 0.03, "activation_scales": 0.03})
    objective: Objective = Objective()
    noise: Noise = Noise()
    rounding: Rounding = Rounding()
    evaluation: Evaluation = Evaluation()
    compute: Compute = Compute()
    views: Views = Views()

    @model_validator(mode="after")
    def _rounding_is_decided_once(self) -> Self:
        if self.learn.get("rounding", 0) > 0 and len(self.schedule) > 1:
            raise ValueError(
                f"rounding is decided once, and each level of schedule {list(self.schedule)} would decide it: "
                "learn weights instead, or name one level"
            )
        return self

    @field_validator("schedule")
    @classmethod
    def _known_schedules(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            check_name(name)
        return names

    def rates(self) -> dict[str, float]:
        """Return the rates of what is learnt at all."""
        return {kind: rate for kind, rate in self.learn.items() if rate > 0}

    def steps_of(self, graph: Graph, pieces: Sequence[Piece]) -> dict[str, int]:
        """Return the steps that each segment of ``pieces`` takes, by level. Source: vitq."""
        segments, blocks = Counter(piece.level for piece in pieces), len(graph.spans("block"))
        if not self.equal_total_steps:
            return dict.fromkeys(segments, self.steps)
        return {level: max(round(self.steps * blocks / count), min(self.steps, 1)) for level, count in segments.items()}

    def settings(self, device: torch.device, steps: int) -> Settings:
        """Return what the training of one segment needs."""
        precision = self.compute.precision
        fast = supports_bfloat16(device) if precision == "auto" else precision == "bfloat16"
        return Settings(steps, self.batch, self.objective, self.noise, self.rounding, self.evaluation, fast)

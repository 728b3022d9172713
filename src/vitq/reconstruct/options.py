"""The options of the reconstruct step, and what follows from them alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from vitq.devices import supports_bfloat16
from vitq.graph import Graph
from vitq.reconstruct.objective.curvature import CURVATURES, NONE, Weigh
from vitq.reconstruct.objective.terms import (
    DISTANCES,
    TERMS,
    BlockTerm,
    FeatureTerm,
    LocalTerm,
    LogitsTerm,
    LowRankTerm,
    Term,
)
from vitq.reconstruct.settings import Settings
from vitq.reconstruct.slicing.choose import Choose
from vitq.reconstruct.slicing.schedule import Order, Piece, check_name
from vitq.run.step import Step

Learnable = Literal["weights", "rounding", "weight_scales", "activation_scales", "zero_points", "biases", "norms"]

Rate = Annotated[float, Field(ge=0)]


class Options(Step):
    """How segments are chosen, trained and judged.

    ``learn`` maps what is learnt to its Adam rate: ``weights`` (straight-through; in steps of their channel),
    ``rounding`` (AdaRound's V), ``weight_scales``, ``activation_scales`` (relative), ``zero_points`` (codes),
    ``biases``, ``norms``. ``block``, ``global`` and ``local`` weigh the terms of the objective; 0 switches one off.
    ``extra`` weighs registered terms, by name; it is written out only where it names one.
    ``even``: ``steps`` are those of a block, and every level or slicing takes as many in total; else of any segment.
    """

    schedule: tuple[str, ...] = Field(("block",), min_length=1)
    order: Order = "level"
    choose: Choose | None = None
    inputs: Literal["quantized", "floating"] = "quantized"
    steps: int = Field(500, ge=0)
    even: bool = False
    batch: int = Field(32, ge=1)
    learn: dict[Learnable, Rate] = Field({"weights": 0.03, "activation_scales": 0.03})
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
    local_by: Annotated[str, AfterValidator(DISTANCES.option)] = "moments"
    extra: dict[str, Rate] = Field(default_factory=dict)
    drop_activations: float = Field(0.5, ge=0, le=1)
    mix_inputs: float = Field(0.5, ge=0, le=1)
    average: float = Field(0.0, ge=0, lt=1)
    rounding_weight: float = Field(0.01, ge=0)
    rounding_warmup: float = Field(0.2, ge=0, lt=1)
    held_out: int = Field(64, ge=0)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: Literal["float32", "bfloat16"] = "float32"

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

    @field_validator("extra")
    @classmethod
    def _known_terms(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            if name in TERMS.reserved:
                raise ValueError(f"term '{name}' has an option of its own; leave it out of extra")
            TERMS.option(name)
        return weights

    @model_serializer(mode="wrap")
    def _without_empty_extra(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in written(self).items() if key != "extra" or value}

    def rates(self) -> dict[str, float]:
        """Return the rates of what is learnt at all."""
        return {kind: rate for kind, rate in self.learn.items() if rate > 0}

    def steps_of(self, graph: Graph, pieces: Sequence[Piece]) -> dict[str, int]:
        """Return the steps that each segment of ``pieces`` takes, by level. Source: vitq."""
        segments, blocks = Counter(piece.level for piece in pieces), len(graph.spans("block"))
        if not self.even:
            return dict.fromkeys(segments, self.steps)
        return {level: max(round(self.steps * blocks / count), min(self.steps, 1)) for level, count in segments.items()}

    def terms(self, reachable: bool) -> dict[str, tuple[float, Term]]:
        """Return the weighed terms of the objective; the global one only where the goal is ``reachable``."""
        terms: dict[str, tuple[float, Term]] = {"block": (self.block, BlockTerm(self.drop_smallest))}
        if self.weigh != NONE and CURVATURES[self.weigh].low_rank:
            terms["low_rank"] = (self.low_rank, LowRankTerm())
        if reachable:
            on_feature = self.global_on == "feature"
            terms["global"] = (self.global_, FeatureTerm() if on_feature else LogitsTerm(self.temperature))
        if self.local > 0:
            terms["local"] = (self.local, LocalTerm(self.local_by))
        return terms | {name: (weight, TERMS[name]()) for name, weight in self.extra.items()}

    def settings(self, device: torch.device, steps: int) -> Settings:
        """Return what the training of one segment needs."""
        fast = supports_bfloat16(device) if self.precision == "auto" else self.precision == "bfloat16"
        own = {f.name: getattr(self, f.name) for f in fields(Settings) if f.name not in ("steps", "bfloat16")}
        return Settings(**own, steps=steps, bfloat16=fast)

"""The groups of options of the reconstruct step, each with its defaults."""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from vitq.reconstruct.objective.curvature import CURVATURES, NONE, CurvatureName
from vitq.reconstruct.objective.fusion import Balance
from vitq.reconstruct.objective.terms import (
    DISTANCES,
    TERMS,
    BlockTerm,
    FeatureTerm,
    LocalTerm,
    LowRankTerm,
    OutputsTerm,
    RankingTerm,
    Term,
    ToOutputs,
)
from vitq.run.step import OptionGroup

Rate = Annotated[float, Field(ge=0)]


class Objective(OptionGroup):
    """What training makes small: weights of the terms, and what each term needs.

    ``block``, ``global``, ``local`` and ``ranking`` weigh the terms; 0 switches one off. ``extra`` weighs registered
    terms, by name. Weights are shares of the first loss, or of the gradient at the segment's end (``balance``). The
    last three options are written out only where they differ from their defaults.
    """

    unwritten: ClassVar = ("extra", "ranking", "balance")

    block: float = Field(default=1.0, ge=0)
    drop_smallest: float = Field(default=0.0, ge=0, lt=1)
    curvature: CurvatureName = NONE
    curvature_images: int = Field(default=128, ge=1)
    curvature_refreshes: int = Field(default=1, ge=1)
    low_rank: float = Field(default=0.0, ge=0)
    global_: float = Field(default=0.0, ge=0, alias="global")
    global_on: Literal["feature", "outputs"] = "feature"
    global_batch: int = Field(default=32, ge=1)
    temperature: float = Field(default=4.0, gt=0)
    local: float = Field(default=0.0, ge=0)
    local_batch: int = Field(default=8, ge=1)
    local_by: Annotated[str, AfterValidator(DISTANCES.option)] = "moments"
    extra: dict[str, Rate] = Field(default_factory=dict)
    ranking: float = Field(default=0.0, ge=0)
    balance: Balance = "value"

    @field_validator("extra")
    @classmethod
    def _known_terms(cls, weights: dict[str, float]) -> dict[str, float]:
        for name in weights:
            if name in TERMS.reserved:
                raise ValueError(f"term '{name}' has an option of its own; leave it out of extra")
            TERMS.option(name)
        return weights

    @property
    def sees_end(self) -> bool:
        """Whether a term looks at the model's end."""
        return self.global_ > 0 or self.ranking > 0

    def terms(self, reachable: bool, to_outputs: ToOutputs | None = None) -> dict[str, tuple[float, Term]]:
        """Return the weighed terms of the objective; those of the model's end only where that is ``reachable``.

        ``to_outputs``: from the feature to the outputs, where the end is the feature and a term reads outputs.
        """
        terms: dict[str, tuple[float, Term]] = {"block": (self.block, BlockTerm(self.drop_smallest))}
        if self.curvature != NONE and CURVATURES[self.curvature].low_rank:
            terms["low_rank"] = (self.low_rank, LowRankTerm())
        if reachable:
            on_feature = self.global_on == "feature"
            terms["global"] = (self.global_, FeatureTerm() if on_feature else OutputsTerm(self.temperature))
            terms["ranking"] = (self.ranking, RankingTerm(to_outputs))
        if self.local > 0:
            terms["local"] = (self.local, LocalTerm(self.local_by))
        return terms | {name: (weight, TERMS[name]()) for name, weight in self.extra.items()}


class Noise(OptionGroup):
    """What training leaves in floating point at random: shares of activation elements and of input elements."""

    drop_activations: float = Field(default=0.5, ge=0, le=1)
    mix_inputs: float = Field(default=0.5, ge=0, le=1)


class Rounding(OptionGroup):
    """AdaRound's penalty, for ``learn.rounding``: its weight, and for which share of the steps it is off."""

    weight: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.2, ge=0, lt=1)


class Evaluation(OptionGroup):
    """What decides which values a segment keeps: those before, the last ones, or their moving average.

    ``held_out``: images that are not trained on and decide; ``average``: decay of the moving average, 0 without one;
    ``by``: the error at the model's end alone, where it is reached, or with the segment's own ("both", as long as a
    term looks at that end). ``by`` is written out only where it is "end".
    """

    unwritten: ClassVar = ("by",)

    held_out: int = Field(default=64, ge=0)
    average: float = Field(default=0.0, ge=0, lt=1)
    by: Literal["both", "end"] = "both"


class Views(OptionGroup):
    """Changes of the training images, drawn anew for every step.

    ``crop``: the least share of an image's area that a random crop keeps, 1 for the whole image; ``flip``, ``mix``: the
    shares of views that are mirrored, and that are mixed with another image; ``reuse``: how many steps see a view.
    """

    crop: float = Field(default=1.0, gt=0, le=1)
    flip: float = Field(default=0.0, ge=0, le=1)
    mix: float = Field(default=0.0, ge=0, le=1)
    reuse: int = Field(default=1, ge=1)

    @property
    def drawn(self) -> bool:
        """Whether there are views other than the images themselves."""
        return self.crop < 1 or self.flip > 0 or self.mix > 0


class Compute(OptionGroup):
    """Number types: those of products, and of the activations that wait between segments."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cache: Literal["float32", "bfloat16"] = "float32"

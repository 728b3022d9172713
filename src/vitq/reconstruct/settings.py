"""The options of the reconstruct step that one segment's training needs."""

from dataclasses import dataclass

from vitq.reconstruct.groups import Evaluation, Noise, Objective, Rounding


@dataclass(frozen=True)
class Settings:
    """How one segment is trained; see ``Options`` and its groups for meanings."""

    steps: int
    batch: int
    objective: Objective
    noise: Noise
    rounding: Rounding
    evaluation: Evaluation
    bfloat16: bool

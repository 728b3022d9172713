"""The options of the reconstruct step that one segment's training needs."""

from dataclasses import dataclass

from vitq.reconstruct.objective.curvature import Weigh


@dataclass(frozen=True)
class Settings:
    """How one segment is trained; see ``Options`` for meanings."""

    steps: int
    batch: int
    global_batch: int
    local_batch: int
    drop_activations: float
    mix_inputs: float
    rounding_weight: float
    rounding_warmup: float
    temperature: float
    weigh: Weigh
    weigh_images: int
    refreshes: int
    average: float
    bfloat16: bool

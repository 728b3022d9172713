"""What the steps of a recipe work on: one run, from its images to its student graph."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from vitq.bits import Bits
from vitq.graph import Graph, Site
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.run.placed import Placed
from vitq.tasks import Task, task_for


@dataclass
class Run:
    """One quantization in progress.

    ``teacher`` stays in floating point, ``student`` is changed by the steps; they share node names, not tensors.
    ``images_NCHW`` are preprocessed calibration images in float32 on the CPU.
    """

    teacher: Graph
    student: Graph
    images_NCHW: torch.Tensor
    bits: Bits
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    events: Events = field(default_factory=Events)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    stage: str = "run"
    """Name of the step at work, unique within the run: the prefix of its checkpoints."""
    placed_ahead: Callable[[], Mapping[str, Placed]] = dict
    """Return what the steps behind the one at work will put on the student's sites, as far as they say."""
    apart_ahead: Callable[[Site, torch.Tensor, int | None], tuple[int, ...]] = lambda *_: ()
    """Return the tokens of a site's values that the steps behind the one at work give parameters of their own."""
    before: tuple[Any, ...] = ()
    """The steps that were applied before the one at work."""
    rehearse: Callable[["Run"], None] = lambda _: None
    """Apply to another run the steps behind the one at work, up to the first that trains."""
    recipe: str = ""
    """Name of the recipe, for messages."""
    task_name: str | None = None
    """What the outputs mean, by the name of a registered task; None is vitq's own choice."""
    outliers: list[dict[str, Any]] = field(default_factory=list)
    """Massive tokens that calibration found, site by site, as plain values."""
    _reported: int = 0
    """How many warnings there were when ``restore`` was last called."""

    @cached_property
    def task(self) -> Task:
        """What the outputs mean."""
        return task_for(self.teacher.output_shapes, self.task_name)

    def restore(self, key: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """Return the (tensors, facts) kept under ``key``, None if there are none, and repeat its warnings."""
        saved = self.checkpoints.load(key)
        if saved is not None:
            for name, message in saved[1].pop("warnings", ()):
                self.events.warn(name, message)
        self._reported = len(self.events.warnings)
        return saved

    def save(self, key: str, tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any] | None = None) -> None:
        """Checkpoint a finished piece of work, with the warnings given since ``restore`` did not find it."""
        self.checkpoints.save(key, tensors, {**(facts or {}), "warnings": self.events.warnings[self._reported :]})

    def generator(self, *purpose: str | int) -> torch.Generator:
        """Return a CPU generator that depends on the seed and on ``purpose`` alone, so a resumed run draws the same."""
        text = ":".join(str(part) for part in (self.seed, *purpose))
        digest = hashlib.sha256(text.encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, Insert
from vitq.graph import Graph, capture
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.run.run import Run

IMAGES = 48


class Teachers(dict[str, Graph]):
    """Captures each family of ``tiny`` when it is first asked for."""

    def __init__(self, tiny: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.tiny = tiny

    def __missing__(self, family: str) -> Graph:
        self[family] = capture(self.tiny(family), torch.zeros(2, 3, 32, 32))
        return self[family]


@pytest.fixture(scope="session")
def teachers(tiny: Callable[..., nn.Module]) -> dict[str, Graph]:
    return Teachers(tiny)


@pytest.fixture
def kill_after() -> Callable[[Run, int], list[str]]:
    """Return a function that makes a run stop as if killed after so many checkpoints, and gives their keys."""

    def arm(run: Run, count: int) -> list[str]:
        save, saved = run.checkpoints.save, list[str]()

        def save_then_die(key: str, *rest: Any) -> None:
            save(key, *rest)
            saved.append(key)
            if len(saved) == count:
                raise KeyboardInterrupt

        run.checkpoints.save = save_then_die  # type: ignore[method-assign]
        return saved

    return arm


@pytest.fixture(scope="session")
def calibrated(teachers: dict[str, Graph]) -> Callable[[str, str], Run]:
    """Return a function that gives a calibrated run, each made once: whoever changes its student clones it."""
    done: dict[tuple[str, str], Run] = {}

    def make(model: str, bits: str) -> Run:
        if (model, bits) not in done:
            images = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(1))
            run = Run(teachers[model], teachers[model].clone(), images, Bits.parse(bits))
            Insert().apply(run)
            Calibrate(images=8, weights="mse", activations="mse").apply(run)
            done[model, bits] = run
        return done[model, bits]

    return make


@pytest.fixture
def make_run(calibrated: Callable[[str, str], Run]) -> Callable[..., Run]:
    """Return a function that makes a calibrated run at 3 bits."""

    def make(model: str = "vit", checkpoints: Path | None = None, resume: bool = False, bits: str = "w3a3") -> Run:
        start = calibrated(model, bits)
        return Run(
            start.teacher,
            start.student.clone(),
            start.images_NCHW.clone(),
            start.bits,
            events=Events(),
            checkpoints=Checkpoints(checkpoints, {"a": 1}, resume),
        )

    return make

"""Steps that exist only in these tests."""

from collections.abc import Iterator
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, field_validator

from vitq.run.step import STEPS, Step, register_step


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Mse(Frozen):
    kind: Literal["mse"] = "mse"
    weight: float = 1.0


class Kl(Frozen):
    kind: Literal["kl"] = "kl"
    weight: float = 1.0
    temperature: float = 4.0


class Rates(Frozen):
    weights: float = 4e-5
    scales: float = 4e-5


@pytest.fixture
def dummy_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the steps ``tune`` and ``look``, forget them afterwards, and import no others."""
    monkeypatch.setattr("vitq.recipes.known.STEP_PACKAGES", ())

    with STEPS.kept():

        @register_step("look")
        class Look(Step):
            images: int = Field(32, ge=1)
            search: Literal["mse", "percentile"] = "mse"

            def apply(self, run: object) -> None: ...

        @register_step("tune")
        class Tune(Step):
            steps: int = 1000
            drop: float = 0.5
            schedule: tuple[str, ...] = ("block",)
            rates: Rates = Rates(weights=1e-3)
            objective: Annotated[Mse | Kl, Field(discriminator="kind")] = Mse()
            shares: dict[str, float] = Field(default_factory=lambda: {"block": 1.0, "network": 0.5})
            rollback: bool = True
            global_: float = Field(0.0, alias="global")

            @field_validator("drop")
            @classmethod
            def _probability(cls, drop: float) -> float:
                if not 0 <= drop < 1:
                    raise ValueError("Drop is a probability below 1")
                return drop

            def apply(self, run: object) -> None: ...

        yield

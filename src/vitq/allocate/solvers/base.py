"""What a solver is: a function from a problem to a choice, and the registry that knows them by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from vitq.allocate.problem import Choice, Problem
from vitq.errors import AllocationError
from vitq.registry import Registry


@dataclass
class Search:
    """What a solver may use beside the problem.

    ``measure`` returns the real distance of a choice, None where model and images are not at hand; ``trials``: how
    often it may be asked; ``advance`` is told after each. ``warn`` takes a name and what the user should know.
    """

    measure: Callable[[Choice], float] | None = None
    trials: int = 64
    seed: int = 0
    advance: Callable[..., None] = lambda *_, **__: None
    warn: Callable[[str, str], None] = lambda *_: None
    _known: dict[bytes, float] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """How many trials are left."""
        return self.trials - len(self._known)

    @property
    def measured(self) -> bool:
        """Whether anything was measured."""
        return bool(self._known)

    def real(self, choice: Choice) -> float:
        """Return the real distance of ``choice``, measured once; AllocationError where it cannot be measured."""
        if self.measure is None:
            raise AllocationError(
                "this solver measures whole models: give the model and its images, or take greedy or program"
            )
        key = choice.astype(np.int8).tobytes()
        if key not in self._known:
            self._known[key] = self.measure(choice)
            self.advance(1, distance=min(self._known.values()))
        return self._known[key]


Solver = Callable[[Problem, Search], Choice]
SolverType = TypeVar("SolverType", bound=Solver)
SOLVERS: Registry[Solver] = Registry("solver", error=AllocationError)


def register_solver(name: str) -> Callable[[SolverType], SolverType]:
    """Register a solver under the name that ``vitq allocate --solver`` takes; AllocationError where it is taken."""
    return SOLVERS.register(name)


def solve(problem: Problem, solver: str, search: Search) -> Choice:
    """Return a choice within the problem's limits; AllocationError names the nearest where there is none."""
    problem.require_feasible()
    choice = SOLVERS[solver](problem, search)
    if unmet := problem.unmet(choice):
        raise AllocationError(f"solver '{solver}' exceeds {', '.join(unmet)}; it has to keep every limit")
    if parts := problem.split(choice):
        raise AllocationError(f"solver '{solver}' leaves one operand of a product in floating point: '{parts[0]}'")
    return choice

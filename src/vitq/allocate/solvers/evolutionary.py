"""Evolution: choices within the limits, changed and mixed, the best of them by the real distance."""

import numpy as np

from vitq.allocate.problem import Choice, Problem
from vitq.allocate.solvers.base import Search, register_solver
from vitq.allocate.solvers.proposals import crossed, mutated, starts

PARENTS = 8
SHARE = 0.1
"""Of the sites that a mutation moves."""
TIRED = 20
"""Children in a row that are known already, after which nothing new is expected."""


@register_solver("evolutionary")
def evolutionary(problem: Problem, search: Search) -> Choice:
    """Return the best choice that evolution from the other solvers' answers finds, each child measured as a whole.

    Source: BRECQ and Q-Limit search so under a budget (arXiv 2102.05426, section 3.4); starting from the program, a
    population of eight, one child at a time, by mutation and crossing in turn, are vitq's choices.
    """
    rng = np.random.default_rng(search.seed)
    population: dict[bytes, tuple[float, Choice]] = {}
    for choice in starts(problem, search):
        population[choice.tobytes()] = (search.real(choice), choice)
    seen, known = set(population), 0
    while search.left > 0 and known < TIRED:
        parents = sorted(population.values(), key=lambda scored: scored[0])[:PARENTS]
        picked = rng.integers(len(parents), size=2)
        first, second = (parents[place][1] for place in picked)
        mixed = rng.random() < 0.5 and picked[0] != picked[1]
        child = crossed(problem, first, second, rng) if mixed else mutated(problem, first, rng, SHARE)
        known = known + 1 if child.tobytes() in seen else 0
        if not known:
            seen.add(child.tobytes())
            population[child.tobytes()] = (search.real(child), child)
    return min(population.values(), key=lambda scored: scored[0])[1]

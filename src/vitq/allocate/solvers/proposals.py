"""Choices to try: at random near a good one, and back within the limits."""

import numpy as np

from vitq.allocate.problem import BIT_OPS, Choice, Problem
from vitq.allocate.solvers.base import Search
from vitq.allocate.solvers.greedy import greedy
from vitq.allocate.solvers.program import program


def starts(problem: Problem, search: Search) -> list[Choice]:
    """Return what the solvers without measurements choose."""
    return [program(problem, search), greedy(problem, search)]


def mutated(problem: Problem, choice: Choice, rng: np.random.Generator, share: float) -> Choice:
    """Move a share of the sites by one candidate up or down, then repair."""
    changed = choice.copy()
    moved = rng.random(len(choice)) < max(share, 1.5 / len(choice))
    changed[moved] += rng.choice((-1, 1), int(moved.sum()))
    return repaired(problem, changed, rng)


def crossed(problem: Problem, first: Choice, second: Choice, rng: np.random.Generator) -> Choice:
    """Take each site from one of two choices, then repair."""
    return repaired(problem, np.where(rng.random(len(first)) < 0.5, first, second), rng)


def repaired(problem: Problem, choice: Choice, rng: np.random.Generator) -> Choice:
    """Bring a choice to allowed candidates, within the limits, and fill what is left of them, at random."""
    places = np.arange(len(problem.bits))
    far_SB = np.where(problem.allowed_SB, np.abs(places - choice[:, None]), len(places) + 1)
    choice = np.argmin(far_SB, axis=1)
    for group in problem.tied:
        high = [site for site in group if choice[site] == problem.floating]
        if len(high) < len(group):
            choice[high] = [_next(problem, site, problem.floating, -1) for site in high]
    lowest, highest = problem.lowest, problem.highest
    unmet = problem.unmet(choice)
    for site in rng.permutation(len(choice)).repeat(len(places)):
        if not unmet:
            break
        if choice[site] > lowest[site] and any(_costs(problem, limit, int(site)) for limit in unmet):
            for other in problem.partners.get(int(site), (int(site),)) if choice[site] == problem.floating else (site,):
                choice[other] = _next(problem, int(other), int(choice[other]), -1)
            unmet = problem.unmet(choice)
    for site in rng.permutation(len(choice)):
        if choice[site] < highest[site]:
            before = choice[site]
            choice[site] = _next(problem, int(site), int(before), 1)
            if problem.unmet(choice) or (choice[site] == problem.floating and site in problem.partners):
                choice[site] = before
    return choice


def _next(problem: Problem, site: int, place: int, step: int) -> int:
    allowed = np.flatnonzero(problem.allowed_SB[site])
    return int(allowed[allowed < place][-1] if step < 0 else allowed[allowed > place][0])


def _costs(problem: Problem, limit: str, site: int) -> bool:
    return limit == BIT_OPS or bool(np.ptp(problem.linear(limit)[0][site]) > 0)

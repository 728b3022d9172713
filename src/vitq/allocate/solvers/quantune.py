"""Quantune: a ranker over configurations proposes what to measure next, and learns from what was measured."""

from importlib import import_module
from typing import Any

import numpy as np

from vitq.allocate.problem import Choice, Floats, Problem
from vitq.allocate.solvers.base import Search, register_solver
from vitq.allocate.solvers.proposals import mutated, starts
from vitq.errors import AllocationError

PER_ROUND, PROPOSALS, FIRST = 4, 256, 8
"""Choices measured before the ranker learns again; choices that it ranks; choices measured before it learns at all."""
SHARES = (0.03, 0.1, 0.3)
"""Of the sites that proposals move, in turn."""


@register_solver("quantune")
def quantune(problem: Problem, search: Search) -> Choice:
    """Return the best of the measured choices that an xgboost ranker proposed.

    Source: Quantune (FGCS 2022): features of a configuration, gradient-boosted trees by pairwise rank, proposals
    renewed after each round. Its features are of calibration options; here they are the bits of every site, their
    averages by role, and the expected distance (vitq). Raises AllocationError without xgboost.
    """
    ranker_class = _xgboost().XGBRanker
    rng = np.random.default_rng(search.seed)
    measured = [(search.real(choice), choice) for choice in starts(problem, search)]
    seen = {choice.tobytes() for _, choice in measured}

    def propose(count: int) -> list[Choice]:
        best = [choice for _, choice in sorted(measured, key=lambda scored: scored[0])[:PER_ROUND]]
        found: dict[bytes, Choice] = {}
        for turn in range(4 * count):
            child = mutated(problem, best[turn % len(best)], rng, SHARES[turn % len(SHARES)])
            if child.tobytes() not in seen:
                found[child.tobytes()] = child
            if len(found) == count:
                break
        return list(found.values())

    chosen = propose(min(FIRST, search.left))
    while chosen and search.left > 0:
        for choice in chosen[: search.left]:
            seen.add(choice.tobytes())
            measured.append((search.real(choice), choice))
        order = np.argsort(np.argsort([-distance for distance, _ in measured]))
        ranker = ranker_class(
            objective="rank:pairwise", n_estimators=50, max_depth=4, n_jobs=1, random_state=search.seed
        )
        known = np.stack([features(problem, choice) for _, choice in measured])
        ranker.fit(known, np.minimum(order, 31), qid=np.zeros(len(measured)))
        proposals = propose(PROPOSALS)
        if not proposals:
            break
        ranks = ranker.predict(np.stack([features(problem, choice) for choice in proposals]))
        chosen = [proposals[place] for place in np.argsort(-ranks, kind="stable")[:PER_ROUND]]
    return min(measured, key=lambda scored: scored[0])[1]


def features(problem: Problem, choice: Choice) -> Floats:
    """Return the bits of every site, their averages by role, and the expected distance of ``choice``."""
    bits_S = problem.widths_B[choice]
    roles = [site.role for site in problem.sites]
    averages = [bits_S[[own == role for own in roles]].mean() for role in dict.fromkeys(roles)]
    return np.array([*bits_S, *averages, np.log(problem.distance(choice) + 1e-12)])


def _xgboost() -> Any:
    try:
        return import_module("xgboost")
    except ImportError as error:
        raise AllocationError(
            "solver quantune needs xgboost: pip install 'vitq[search]', or take another solver"
        ) from error

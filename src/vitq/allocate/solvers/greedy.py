"""Greedy: from the most bits downwards, always where most is saved for what it costs (MPTQ-ViT's Greedy MP)."""

import numpy as np

from vitq.allocate.problem import Choice, Problem
from vitq.allocate.solvers.base import Search, register_solver

LOOKED_AT = 10
"""Moves that are scored anew before one is taken."""


@register_solver("greedy")
def greedy(problem: Problem, search: Search) -> Choice:
    """Lower one site by one candidate until every limit holds, by the largest Ω = ΔC / ΔL; Source: MPTQ-ViT.

    ΔC is the saved share of what exceeds its limit, ΔL the growth of the expected distance (arXiv 2401.14895; its
    metric is not public: this reading and that scores are renewed lazily, the ten best before each move, are vitq's).
    The path does not depend on the budget, so a smaller one never gives a site more bits.
    """
    choice, lowest = problem.highest.copy(), problem.lowest
    start = {limit: problem.cost(limit, choice) for limit in problem.limits}
    score_S = np.full(len(choice), -np.inf)
    state = _State(problem, choice)
    unmet = problem.unmet(choice)
    stale = True
    while unmet:
        if stale:
            score_S = np.array([state.score(site, unmet, start) for site in range(len(choice))])
            stale = False
        best = np.argsort(-score_S, kind="stable")[:LOOKED_AT]
        for site in best:
            score_S[site] = state.score(int(site), unmet, start)
        site = int(best[np.argmax(score_S[best])])
        assert score_S[site] > -np.inf, "feasible problems have a move left"
        state.lower(site)
        score_S[site] = state.score(site, unmet, start) if choice[site] > lowest[site] else -np.inf
        still = problem.unmet(choice)
        stale, unmet = still != unmet, still
    return choice


class _State:
    """A choice under way, and what the next move of a site saves and costs."""

    def __init__(self, problem: Problem, choice: Choice) -> None:
        self.problem, self.choice = problem, choice
        self.least = float(problem.distance_SB.max()) * 1e-9 + 1e-30
        self.linear = {limit: problem.linear(limit)[0] for limit in problem.limits if limit != "bit_ops"}
        self.readers: dict[int, list[tuple[int, int | float]]] = {}
        for product in problem.products:
            left, right = problem.operands(product)
            for own, other in ((left, right), (right, left)):
                if isinstance(own, int):
                    self.readers.setdefault(own, []).append((product.macs, other))

    def below(self, site: int) -> int | None:
        """Return the next lower candidate that a site may get."""
        lower = np.flatnonzero(self.problem.allowed_SB[site, : self.choice[site]])
        return int(lower[-1]) if len(lower) else None

    def lower(self, site: int) -> None:
        """Make the move."""
        place = self.below(site)
        assert place is not None
        self.choice[site] = place

    def score(self, site: int, unmet: list[str], start: dict[str, float]) -> float:
        """Return Ω of lowering ``site``, -inf where it cannot be lowered or saves nothing that is wanted."""
        place = self.below(site)
        if place is None:
            return -np.inf
        saved = sum(self._saved(site, place, limit) / max(start[limit], 1e-30) for limit in unmet)
        return saved / max(self._lost(site, place), self.least) if saved > 0 else -np.inf

    def _saved(self, site: int, place: int, limit: str) -> float:
        old = int(self.choice[site])
        if limit in self.linear:
            return float(self.linear[limit][site, old] - self.linear[limit][site, place])
        bits = self.problem.bits
        others = sum(
            macs * (bits[self.choice[other]] if isinstance(other, int) else other)
            for macs, other in self.readers.get(site, ())
        )
        return (bits[old] - bits[place]) * float(others)

    def _lost(self, site: int, place: int) -> float:
        problem = self.problem
        if problem.directions_SBD is None:
            return float(problem.distance_SB[site, place] - problem.distance_SB[site, self.choice[site]])
        moved = self.choice.copy()
        moved[site] = place
        return problem.distance(moved) - problem.distance(self.choice)

"""Greedy: from the most bits downwards, always where most is saved for what it costs (MPTQ-ViT's Greedy MP)."""

import numpy as np

from vitq.allocate.problem import ACTIVATIONS, BIT_OPS, DISTANCE, LIMITS, SIZE, WEIGHTS, Choice, Problem
from vitq.allocate.solvers.base import Search, register_solver
from vitq.errors import AllocationError

LINEAR = (WEIGHTS, ACTIVATIONS, SIZE)
"""Costs to which every site adds for itself."""

LOOKED_AT = 10
"""Moves that are scored anew before one is taken."""


@register_solver("greedy")
def greedy(problem: Problem, search: Search) -> Choice:
    """Lower one site by one candidate until every limit holds, by the largest Ω = ΔC / ΔL; Source: MPTQ-ViT.

    ΔC is the saved share of what exceeds its limit, ΔL the growth of the expected distance (arXiv 2401.14895; its
    metric is not public: this reading and that scores are renewed lazily, the ten best before each move, are vitq's).
    The path does not depend on the budget, so a smaller one never gives a site more bits. Where the distance is
    limited, sites are lowered as long as it holds, ΔC in bit operations. Sites that are tied leave floating point
    together.
    """
    state = _State(problem, problem.highest.copy())
    start = {limit: problem.cost(limit, state.choice) for limit in (*problem.limits, BIT_OPS)}
    bound = problem.limits.get(DISTANCE)
    score_S, stale, unmet = np.full(len(state.choice), -np.inf), True, _unmet(problem, state.choice)
    while unmet:
        if stale:
            score_S = np.array([state.score(site, unmet, start) for site in range(len(score_S))])
            stale = False
        best = np.argsort(-score_S, kind="stable")[:LOOKED_AT]
        for site in best:
            if score_S[site] > -np.inf:
                score_S[site] = state.score(int(site), unmet, start)
        site = int(best[np.argmax(score_S[best])])
        if score_S[site] == -np.inf:
            if np.isneginf(score_S).all():
                break
            continue  # the ones looked at moved with others: the rest are next
        if bound is not None and problem.distance(state.after(site)) > bound:
            score_S[site] = -np.inf  # and so it stays: what others move only grows
            continue
        state.choice = state.after(site)
        score_S[site] = state.score(site, unmet, start)
        still = _unmet(problem, state.choice)
        stale, unmet = still != unmet, still
    if missed := problem.unmet(state.choice):
        nearest = "; ".join(f"{LIMITS[name]} is {problem.cost(name, state.choice):.9g}" for name in missed)
        raise AllocationError(f"greedy finds no bits within all limits: {nearest}; take solver program")
    return state.choice


def _unmet(problem: Problem, choice: Choice) -> list[str]:
    """Return what is to be lowered: the limits that do not hold, or bit operations where the distance is limited."""
    return [BIT_OPS] if DISTANCE in problem.limits else problem.unmet(choice)


class _State:
    """A choice under way, and what the next move of a site saves and costs."""

    def __init__(self, problem: Problem, choice: Choice) -> None:
        self.problem, self.choice = problem, choice
        self.least = float(problem.distance_SB.max()) * 1e-9 + 1e-30
        self.linear = {limit: problem.linear(limit)[0] for limit in problem.limits if limit in LINEAR}
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

    def after(self, site: int) -> Choice:
        """Return the choice after the next move of ``site``, and of what is tied to it where it leaves floating point.

        The same choice where there is none.
        """
        moved = self.choice.copy()
        if self.choice[site] == self.problem.floating:
            for other in self.problem.partners.get(site, (site,)):
                moved[other] = moved[other] if (place := self.below(other)) is None else place
        elif (place := self.below(site)) is not None:
            moved[site] = place
        return moved

    def score(self, site: int, unmet: list[str], start: dict[str, float]) -> float:
        """Return Ω of lowering ``site``, -inf where it cannot be lowered or saves nothing that is wanted."""
        place = self.below(site)
        if place is None:
            return -np.inf
        if self.choice[site] == self.problem.floating and len(self.problem.partners.get(site, ())) > 1:
            return self._together(site, unmet, start)
        saved = sum(self._saved(site, place, limit) / max(start[limit], 1e-30) for limit in unmet)
        return saved / max(self._lost(site, place), self.least) if saved > 0 else -np.inf

    def _together(self, site: int, unmet: list[str], start: dict[str, float]) -> float:
        problem, moved = self.problem, self.after(site)
        saved = sum(
            (problem.cost(limit, self.choice) - problem.cost(limit, moved)) / max(start[limit], 1e-30)
            for limit in unmet
        )
        lost = problem.distance(moved) - problem.distance(self.choice)
        return saved / max(lost, self.least) if saved > 0 else -np.inf

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

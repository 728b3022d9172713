"""An integer program: the least expected distance within all limits at once (AdaQuant, ICML 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from vitq.allocate.problem import BIT_OPS, Choice, Floats, Problem
from vitq.allocate.solvers.base import Search, register_solver
from vitq.errors import AllocationError

SLACK = 2e-6
"""HiGHS keeps a constraint to 1e-6; limits are set lower by this share where that was used up."""
SECONDS = 120.0
"""Of a program with pairs, whose best answer by then is taken."""
PAIRS_PER_GROUP = 12
"""Pairs of a block that enter the program, the strongest: each adds a variable for every two candidates."""


@register_solver("program")
def program(problem: Problem, search: Search) -> Choice:
    """Return the choice of least expected distance by ``scipy.optimize.milp`` (AdaQuant, arXiv 2006.10518).

    One binary per site and candidate. Products of two choices (bit operations, pairs of sites in a block) are
    variables of their own, whose sums over one side are the other side's: the tightest linear form (vitq).
    """
    for slack in (0.0, SLACK):
        choice = _solve(problem, slack)
        if not problem.unmet(choice):
            return choice
    return problem.lowest


@dataclass
class _Rows:
    """Linear constraints low ≤ A x ≤ high, added row by row; ``cost`` of the variables so far."""

    cost: list[float]
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        row = len(self.low)
        self.entries += [(row, column, factor) for column, factor in terms]
        self.low.append(low)
        self.high.append(high)


def _solve(problem: Problem, slack: float) -> Choice:
    sites, widths = len(problem.sites), len(problem.bits)
    rows = _Rows(list(problem.distance_SB.reshape(-1)))
    for site in range(sites):
        rows.add([(site * widths + b, 1.0) for b in range(widths)], 1.0, 1.0)
    for limit, most in problem.limits.items():
        if limit == BIT_OPS:
            _limit_bit_operations(problem, rows, most * (1 - slack))
            continue
        cost_SB, constant = problem.linear(limit)
        scale = max(float(cost_SB.max()), 1e-30)
        terms = [(column, factor / scale) for column, factor in enumerate(cost_SB.reshape(-1)) if factor]
        rows.add(terms, -np.inf, (most * (1 - slack) - constant) / scale)
    for (left, right), cost_BB in _pairs(problem).items():
        _product(rows, left, right, widths, cost_BB)
    variables, chosen = len(rows.cost), sites * widths
    row, column, factor = (np.array(part) for part in zip(*rows.entries, strict=True))
    matrix = coo_array((factor, (row, column)), shape=(len(rows.low), variables)).tocsr()
    upper = np.ones(variables)
    upper[:chosen] = problem.allowed_SB.reshape(-1)
    cost = np.array(rows.cost)
    result = milp(
        cost / max(float(np.abs(cost).max()), 1e-300),
        integrality=(np.arange(variables) < chosen).astype(int),
        bounds=Bounds(0.0, upper),
        constraints=LinearConstraint(matrix, np.array(rows.low), np.array(rows.high)),
        options={"mip_rel_gap": 1e-6, **({"time_limit": SECONDS} if variables > 3 * chosen else {})},
    )
    if result.x is None:
        raise AllocationError(f"the integer program found no answer in time: {result.message}; take solver greedy")
    return np.asarray(np.argmax(result.x[:chosen].reshape(sites, widths), axis=1), dtype=np.int64)


def _product(rows: _Rows, left: int, right: int, widths: int, cost_BB: Floats) -> list[list[int]]:
    """Add variables y_bc = x_left,b · x_right,c and return their columns."""
    first = len(rows.cost)
    rows.cost += list(cost_BB.reshape(-1))
    columns = [[first + b * widths + c for c in range(widths)] for b in range(widths)]
    for b in range(widths):
        rows.add([*((columns[b][c], 1.0) for c in range(widths)), (left * widths + b, -1.0)], 0.0, 0.0)
        rows.add([*((columns[c][b], 1.0) for c in range(widths)), (right * widths + b, -1.0)], 0.0, 0.0)
    return columns


def _limit_bit_operations(problem: Problem, rows: _Rows, most: float) -> None:
    """Limit Σ macs · bits · bits: linear where an operand's bits are fixed, by products of choices elsewhere."""
    widths, free = len(problem.bits), np.zeros((len(problem.bits), len(problem.bits)))
    scale = max((p.macs for p in problem.products), default=1) * problem.bits[-1] ** 2
    terms: dict[int, float] = {}
    for product in problem.products:
        left, right = problem.operands(product)
        if isinstance(left, float) and isinstance(right, float):
            most -= product.macs * left * right
        elif isinstance(left, int) and isinstance(right, int) and left != right:
            columns = _product(rows, left, right, widths, free)
            for b, own in enumerate(problem.bits):
                for c, other in enumerate(problem.bits):
                    terms[columns[b][c]] = product.macs * own * other / scale
        else:
            site = left if isinstance(left, int) else right
            assert isinstance(site, int)
            other_end = right if isinstance(left, int) else left
            for b, own in enumerate(problem.bits):
                factor = own if isinstance(other_end, int) else other_end
                column = site * widths + b
                terms[column] = terms.get(column, 0.0) + product.macs * own * factor / scale
    rows.add(list(terms.items()), -np.inf, most / scale)


def _pairs(problem: Problem) -> dict[tuple[int, int], Floats]:
    """Return what the strongest pairs of each group move together, beyond what both move alone, by their candidates."""
    if problem.directions_SBD is None:
        return {}
    error_SBD = np.sqrt(problem.distance_SB)[..., None] * problem.directions_SBD
    groups, found = np.array(problem.groups), dict[tuple[int, int], Floats]()
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        pairs = {(int(s), int(t)): 2 * error_SBD[s] @ error_SBD[t].T for i, s in enumerate(own) for t in own[i + 1 :]}
        strongest = sorted(pairs, key=lambda pair: -float(np.abs(pairs[pair]).mean()))[:PAIRS_PER_GROUP]
        found |= {pair: pairs[pair] for pair in strongest}
    return found

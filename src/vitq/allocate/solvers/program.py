"""An integer program: the least expected distance within all limits at once (AdaQuant, ICML 2021)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitq.allocate.problem import BIT_OPS, DISTANCE, LIMITS, Choice, Floats, Problem
from vitq.allocate.solvers.base import Search, register_solver
from vitq.errors import AllocationError

SLACK = 2e-6
"""HiGHS keeps a constraint to 1e-6; limits are set lower by this share where that was used up."""
SECONDS = 120.0
"""Of a program with many products of choices (pairs, bit operations), whose best answer by then is taken."""
OUT_OF_TIME, INFEASIBLE = 1, 2
"""What ``milp`` calls a program stopped at its time limit, and one without an answer."""
PAIRS_PER_GROUP = 12
"""Pairs of a block that enter the program, the strongest: each adds a variable for every two candidates."""


Terms = dict[int, float]
"""A linear form: factors by variable."""


@register_solver("program")
def program(problem: Problem, search: Search) -> Choice:
    """Return the choice of least expected distance by ``scipy.optimize.milp`` (AdaQuant, arXiv 2006.10518).

    Where the distance is limited, the choice of fewest bit operations (vitq).
    One binary per site and candidate. Products of two choices (bit operations, pairs of sites in a block) are
    variables of their own, whose sums over one side are the other side's: the tightest linear form (vitq).
    """
    for slack in (0.0, SLACK):
        choice = _solve(problem, slack, search.warn)
        if not problem.unmet(choice):
            return choice
    return problem.highest if DISTANCE in problem.limits else problem.lowest


@dataclass
class _Rows:
    """Linear constraints low ≤ A x ≤ high of so many ``variables``, added row by row."""

    variables: int
    entries: list[tuple[int, int, float]] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)

    def add(self, terms: Sequence[tuple[int, float]], low: float, high: float) -> None:
        row = len(self.low)
        self.entries += [(row, column, factor) for column, factor in terms]
        self.low.append(low)
        self.high.append(high)

    def limit(self, terms: Terms, most: float) -> None:
        """Add Σ terms ≤ ``most``, scaled to factors of at most 1."""
        scale = max((abs(factor) for factor in terms.values()), default=0.0) or 1e-30
        self.add([(column, factor / scale) for column, factor in terms.items() if factor], -np.inf, most / scale)


def _solve(problem: Problem, slack: float, warn: Callable[[str, str], None]) -> Choice:
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second, which every verb would pay
    from scipy.sparse import coo_array

    sites, widths = len(problem.sites), len(problem.bits)
    rows = _Rows(sites * widths)
    for site in range(sites):
        rows.add([(site * widths + b, 1.0) for b in range(widths)], 1.0, 1.0)
    for first, *others in problem.tied:
        for other in others:
            rows.add([(site * widths + problem.floating, sign) for site, sign in ((first, 1.0), (other, -1.0))], 0, 0)
    for limit, most in problem.limits.items():
        if limit in (BIT_OPS, DISTANCE):
            continue
        cost_SB, constant = problem.linear(limit)
        rows.limit(dict(enumerate(cost_SB.reshape(-1))), most * (1 - slack) - constant)
    wanted = _distance(problem, rows)
    if {BIT_OPS, DISTANCE}.intersection(problem.limits):
        operations, constant = _bit_operations(problem, rows)
        if BIT_OPS in problem.limits:
            rows.limit(operations, problem.limits[BIT_OPS] * (1 - slack) - constant)
        if DISTANCE in problem.limits:
            rows.limit(wanted, problem.limits[DISTANCE] * (1 - slack))
            wanted = operations
    variables, chosen = rows.variables, sites * widths
    row, column, factor = (np.array(part) for part in zip(*rows.entries, strict=True))
    matrix = coo_array((factor, (row, column)), shape=(len(rows.low), variables)).tocsr()
    upper, cost = np.ones(variables), np.zeros(variables)
    upper[:chosen] = problem.allowed_SB.reshape(-1)
    cost[list(wanted)] = list(wanted.values())
    result = milp(
        cost / max(float(np.abs(cost).max()), 1e-300),
        integrality=(np.arange(variables) < chosen).astype(int),
        bounds=Bounds(0.0, upper),
        constraints=LinearConstraint(matrix, np.array(rows.low), np.array(rows.high)),
        options={"mip_rel_gap": 1e-6, **({"time_limit": SECONDS} if variables > 3 * chosen else {})},
    )
    if result.x is None:
        raise _no_answer(problem, result)
    if result.status == OUT_OF_TIME:
        warn(
            "program-out-of-time",
            f"the integer program took its {SECONDS:.0f} seconds: the best by then is taken, at most "
            f"{result.mip_gap:.1%} from the best one; fewer candidates, or no pairs, make it quicker",
        )
    return np.asarray(np.argmax(result.x[:chosen].reshape(sites, widths), axis=1), dtype=np.int64)


def _no_answer(problem: Problem, result: Any) -> AllocationError:
    """Return why there is none: each limit can be met alone, so it is their combination, or the time."""
    if result.status != INFEASIBLE:
        return AllocationError(f"the integer program found no answer in time: {result.message}; take solver greedy")
    others = {name: most for name, most in problem.limits.items() if name != DISTANCE}
    if len(others) == len(problem.limits):
        return AllocationError("no bits keep all limits at once; raise one of them")
    nearest = problem.distance(program(problem.within(others), Search()))
    return AllocationError(
        f"no bits within the other limits have an {LIMITS[DISTANCE]} of at most {problem.limits[DISTANCE]:.9g}; "
        f"the least is {nearest:.9g}"
    )


def _distance(problem: Problem, rows: _Rows) -> Terms:
    """Return the expected distance: what choices move alone, and what pairs of sites move together."""
    terms = dict(enumerate(problem.distance_SB.reshape(-1).tolist()))
    for (left, right), cost_BB in _pairs(problem).items():
        columns = _product(rows, left, right, len(problem.bits))
        terms |= {columns[b][c]: float(cost) for (b, c), cost in np.ndenumerate(cost_BB)}
    return terms


def _product(rows: _Rows, left: int, right: int, widths: int) -> list[list[int]]:
    """Add variables y_bc = x_left,b · x_right,c and return their columns."""
    first = rows.variables
    rows.variables += widths * widths
    columns = [[first + b * widths + c for c in range(widths)] for b in range(widths)]
    for b in range(widths):
        rows.add([*((columns[b][c], 1.0) for c in range(widths)), (left * widths + b, -1.0)], 0.0, 0.0)
        rows.add([*((columns[c][b], 1.0) for c in range(widths)), (right * widths + b, -1.0)], 0.0, 0.0)
    return columns


def _bit_operations(problem: Problem, rows: _Rows) -> tuple[Terms, float]:
    """Return Σ macs · bits · bits: linear where an operand's bits are fixed, by products of choices elsewhere.

    The second is the part that no choice changes.
    """
    widths, constant = len(problem.bits), 0.0
    terms: Terms = {}
    for product in problem.products:
        left, right = problem.operands(product)
        if isinstance(left, float) and isinstance(right, float):
            constant += product.macs * left * right
        elif isinstance(left, int) and isinstance(right, int) and left != right:
            columns = _product(rows, left, right, widths)
            for b, own in enumerate(problem.bits):
                for c, other in enumerate(problem.bits):
                    terms[columns[b][c]] = float(product.macs * own * other)
        else:
            site = left if isinstance(left, int) else right
            assert isinstance(site, int)
            other_end = right if isinstance(left, int) else left
            for b, own in enumerate(problem.bits):
                factor = own if isinstance(other_end, int) else other_end
                column = site * widths + b
                terms[column] = terms.get(column, 0.0) + product.macs * own * factor
    return terms, constant


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

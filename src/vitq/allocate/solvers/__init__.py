"""Solvers: from a problem to the bits of every site."""

from vitq.allocate.solvers.base import SOLVERS, Search, register_solver
from vitq.allocate.solvers.evolutionary import evolutionary
from vitq.allocate.solvers.greedy import greedy
from vitq.allocate.solvers.program import program
from vitq.allocate.solvers.quantune import quantune

__all__ = ["SOLVERS", "Search", "evolutionary", "greedy", "program", "quantune", "register_solver"]

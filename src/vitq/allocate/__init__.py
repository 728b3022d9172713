"""Bits under a budget: what sites cost, how much they move the output, and who gets how many bits.

Here is what works on a graph, without recipes, files and models by name, as in the other packages of steps; the verb
``vitq.allocate``, which puts that together with a recipe and a folder, is ``vitq.allocation``.
"""

from vitq.allocate.costs import Costs, Product, SiteCost, site_costs
from vitq.allocate.problem import Problem
from vitq.allocate.sensitivities import Sensitivities
from vitq.allocate.solvers import SOLVERS, Search, register_solver

__all__ = [
    "SOLVERS",
    "Costs",
    "Problem",
    "Product",
    "Search",
    "Sensitivities",
    "SiteCost",
    "register_solver",
    "site_costs",
]

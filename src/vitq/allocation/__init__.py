"""What ``vitq.allocate`` does: recipe, calibration, trials and solver put together, and kept in a folder.

Costs, trials and solvers themselves are in the package ``vitq.allocate``, which knows no recipe and no folder.
"""

from vitq.allocation.result import Allocation, Point

__all__ = ["Allocation", "Point"]

"""What ``vitq.allocate`` does: recipe, calibration, trials and solver put together, and kept in a folder."""

from vitq.allocation.result import Allocation, Point

__all__ = ["Allocation", "Point"]

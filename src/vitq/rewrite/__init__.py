"""Changes of the student graph that keep its function."""

from vitq.rewrite.rotate import Rotate
from vitq.rewrite.smooth import Smooth
from vitq.rewrite.transfer import TransferScales

__all__ = ["Rotate", "Smooth", "TransferScales"]

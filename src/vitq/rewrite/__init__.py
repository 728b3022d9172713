"""Changes of the student graph that keep its function."""

from vitq.rewrite.fold_norms import FoldNorms
from vitq.rewrite.noise import AddNoise
from vitq.rewrite.rotate import Rotate
from vitq.rewrite.smooth import Smooth
from vitq.rewrite.smoothquant import SmoothQuant
from vitq.rewrite.sq_b import SqB
from vitq.rewrite.transfer import TransferScales

__all__ = ["AddNoise", "FoldNorms", "Rotate", "Smooth", "SmoothQuant", "SqB", "TransferScales"]

"""Changes of the student graph that keep its function."""

from vitq.rewrite.norms import NormReaders, norm_readers
from vitq.rewrite.smooth import Smooth
from vitq.rewrite.transfer import TransferScales

__all__ = ["NormReaders", "Smooth", "TransferScales", "norm_readers"]

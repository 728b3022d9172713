"""A look at a model before it is quantized: does its preprocessing fit, what is extreme in it, which sites are hard."""

from vitq.diagnosis.diagnose import diagnose_loaded
from vitq.diagnosis.result import Diagnosis

__all__ = ["Diagnosis", "diagnose_loaded"]

"""What models score on labelled images, and how near they are to each other."""

from vitq.evaluation.beside import Beside, beside
from vitq.evaluation.evaluator import Evaluator
from vitq.evaluation.measure import OF_OUTPUTS, Forward, Metrics, Summary, compared, measure, measure_loaded
from vitq.evaluation.outcomes import Outcomes, Watch

__all__ = [
    "OF_OUTPUTS",
    "Beside",
    "Evaluator",
    "Forward",
    "Metrics",
    "Outcomes",
    "Summary",
    "Watch",
    "beside",
    "compared",
    "measure",
    "measure_loaded",
]

"""The public verbs, under the words of the command line."""

from vitq.api.choosing import allocate, granularity
from vitq.api.looking import diagnose, report
from vitq.api.making import quantize, seal
from vitq.api.measuring import bench, compare, evaluate
from vitq.model import QuantizedModel, load
from vitq.verbs.inside import put_inside

__all__ = [
    "QuantizedModel",
    "allocate",
    "bench",
    "compare",
    "diagnose",
    "evaluate",
    "granularity",
    "load",
    "put_inside",
    "quantize",
    "report",
    "seal",
]

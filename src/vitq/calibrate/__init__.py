"""Choose every quantizer's first parameters: one statistics pass, many searches."""

from vitq.calibrate.biases import CorrectBiases
from vitq.calibrate.calibrate import Calibrate
from vitq.calibrate.insert import Insert, SiteFormat
from vitq.calibrate.plan import place, plan_formats
from vitq.calibrate.scope import SCOPES, ScopeRow, register_scope, scope_rows
from vitq.calibrate.searches import register_search
from vitq.run.placed import Placed

__all__ = [
    "SCOPES",
    "Calibrate",
    "CorrectBiases",
    "Insert",
    "Placed",
    "ScopeRow",
    "SiteFormat",
    "place",
    "plan_formats",
    "register_scope",
    "register_search",
    "scope_rows",
]

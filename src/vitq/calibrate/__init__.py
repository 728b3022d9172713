"""Choose every quantizer's first parameters: one statistics pass, many searches."""

from vitq.calibrate.calibrate import Calibrate
from vitq.calibrate.insert import Insert, SiteFormat
from vitq.calibrate.scope import ScopeRow, scope_rows
from vitq.calibrate.searches import register_search

__all__ = ["Calibrate", "Insert", "ScopeRow", "SiteFormat", "register_search", "scope_rows"]

"""Choose every quantizer's first parameters: one statistics pass, many searches."""

from vitq.calibrate.calibrate import Calibrate
from vitq.calibrate.insert import Insert, SiteFormat
from vitq.calibrate.scope import ScopeRow, scope_rows

__all__ = ["Calibrate", "Insert", "ScopeRow", "SiteFormat", "scope_rows"]

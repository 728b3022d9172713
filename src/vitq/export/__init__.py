"""Export: ONNX files for stock integer kernels, with proof that they compute what the simulation computes."""

from vitq.export.export import Exported, check_request, export
from vitq.export.targets import PROFILES, Profile, profile_of

__all__ = ["PROFILES", "Exported", "Profile", "check_request", "export", "profile_of"]

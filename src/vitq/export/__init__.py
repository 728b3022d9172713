"""Export: ONNX files for stock integer kernels, with proof that they compute what the simulation computes.

``vitq.export.targets`` says what each target can run and imports nothing heavy; the rest needs ``onnx``.
"""

from vitq.export.targets import PROFILES, Profile, profile_of

__all__ = ["PROFILES", "Profile", "profile_of"]

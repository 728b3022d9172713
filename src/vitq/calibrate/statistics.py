"""What a calibration tensor must be, and what is said of one that is odd."""

import torch

from vitq.errors import CalibrationError


def require_usable(name: str, x: torch.Tensor, *, weight: bool = False, may_be_zero: bool = False) -> None:
    """Raise CalibrationError where a site's tensor is empty, not finite or, unless it may be, all zero."""
    if x.numel() == 0:
        raise CalibrationError(f"site '{name}': its calibration tensor is empty; give more images")
    low, high = (float(end) for end in x.aminmax())
    if not (low > -torch.inf and high < torch.inf):
        cause = "check the checkpoint" if weight else "check the checkpoint and the preprocessing"
        raise CalibrationError(f"site '{name}': NaN or infinity before anything is quantized; {cause}")
    if low == high == 0.0 and not (weight or may_be_zero):
        raise CalibrationError(
            f"site '{name}': every value is 0 on all calibration images; check the images and the checkpoint"
        )


def dead_channels(x: torch.Tensor, axis: int) -> int:
    """Return how many slices of ``x`` along ``axis`` hold one single value."""
    rows = x.movedim(axis, 0).flatten(1)
    low, high = rows.aminmax(dim=1)
    return int((low == high).sum())

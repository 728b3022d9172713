"""What a tensor must be to become a parameter of a quantizer."""

import torch

from vitq.errors import CalibrationError
from vitq.quantizers.codec import Parameter
from vitq.quantizers.format import Format


def fitting(tensor: torch.Tensor, parameter: Parameter, format: Format, axis: int | None, where: str) -> torch.Tensor:
    """Return a float32 copy of ``tensor`` at the shape that ``parameter`` has along ``axis``.

    Raises CalibrationError, which begins with ``where``, for another shape and for values that are not finite, or not
    positive where the parameter has to be.
    """
    value = tensor.to(torch.float32, copy=True)
    name, own = parameter.name, parameter.own(format.bits)
    if (axis is None or parameter.shared) and not own and value.numel() == 1:
        value = value.reshape(())
    base = value.shape[: value.ndim - len(own)]
    along = None if parameter.shared else axis
    grouped = along == 0 and bool(format.granularity.size)
    dims = 3 if grouped else 0 if along is None else -along if along < 0 else len(base)
    fits = len(base) == dims and all(size == 1 for size in base[2 if grouped else 1 :]) and value.numel() > 0
    if not fits or tuple(value.shape[len(base) :]) != own or (along is not None and not base):
        shape, ending = tuple(tensor.shape), f" and end in {own}" if own else ""
        raise CalibrationError(f"{where}: {name} of shape {shape} does not broadcast along axis {axis}{ending}")
    if not bool(torch.isfinite(value).all()) or (parameter.positive and bool((value <= 0).any())):
        wanted = "finite and positive" if parameter.positive else "finite"
        raise CalibrationError(f"{where}: {name} is not {wanted}; look for NaN or a dead tensor in calibration")
    return value

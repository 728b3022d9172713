"""Cached activations at one cut, computed in chunks so that memory stays bounded."""

from collections.abc import Callable

import torch
from torch import nn

Forward = Callable[[torch.Tensor], torch.Tensor]


def supports_bfloat16(device: torch.device) -> bool:
    """Tell whether ``device`` multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


@torch.no_grad()
def forward_all(module: nn.Module | Forward, x_N: torch.Tensor, device: torch.device, batch: int = 64) -> torch.Tensor:
    """Run ``module`` over all N inputs in chunks of ``batch`` on ``device``; the result has x's dtype and home.

    A tensor of windows has several rows per image, so the result may have a multiple of N rows.
    """
    first = module(x_N[:batch].to(device).float())
    rows = len(first) * batch // min(batch, len(x_N))
    result = torch.empty((len(x_N) * rows // batch, *first.shape[1:]), dtype=x_N.dtype, device=x_N.device)
    result[: len(first)] = first.to(result)
    for start in range(batch, len(x_N), batch):
        chunk = module(x_N[start : start + batch].to(device).float())
        place = start * rows // batch
        result[place : place + len(chunk)] = chunk.to(result)
    return result


class Pair:
    """The same images at one cut, on the quantized prefix (``student``) and in floating point (``teacher``)."""

    def __init__(self, cut: str, student_N: torch.Tensor, teacher_N: torch.Tensor) -> None:
        self.cut, self.student_N, self.teacher_N = cut, student_N, teacher_N

    def through(
        self, end: str, student: nn.Module | Forward, teacher: nn.Module | Forward, device: torch.device
    ) -> "Pair":
        """Return the pair after running both graphs' segments up to ``end``."""
        return Pair(end, forward_all(student, self.student_N, device), forward_all(teacher, self.teacher_N, device))

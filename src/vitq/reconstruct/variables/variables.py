"""Variables: the tensors that one segment learns, as its optimizer sees them and as the student holds them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from vitq.reconstruct.variables.rounding import AdaRound


@dataclass(frozen=True)
class ScaledParameter:
    """A tensor that Adam sees in units of its own: ``optimized`` = tensor / unit, element by element."""

    tensor: torch.Tensor
    unit: torch.Tensor
    optimized: nn.Parameter
    least: float | None

    def to_grad(self) -> None:
        """Turn the tensor's gradient into that of ``optimized``."""
        if self.tensor.grad is not None:
            self.optimized.grad, self.tensor.grad = self.tensor.grad * self.unit, None

    @torch.no_grad()
    def write_back(self) -> None:
        """Write ``optimized`` back into the tensor."""
        if self.least is not None:
            self.optimized.clamp_(min=self.least)
        torch.mul(self.optimized, self.unit, out=self.tensor)


@dataclass(frozen=True)
class Variables:
    """The learnable tensors of one segment: Adam groups, AdaRound stand-ins, and the tensors that end up changed.

    Learning rates of ``weights``, scales and zero points are relative: weights in units of their own channel's
    quantization step (without a quantizer: of what three bits would have), each scale in units of its initial value,
    zero points in codes. So one recipe fits any width, any bit-width and channels of any size.
    """

    groups: list[dict[str, object]] = field(default_factory=list)
    roundings: dict[str, AdaRound] = field(default_factory=dict)
    stand_ins: dict[str, AdaRound] = field(default_factory=dict)
    weight_targets: list[str] = field(default_factory=list)
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    scaled: list[ScaledParameter] = field(default_factory=list)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let ``optimizer`` take one step on the gradients that a backward pass has left."""
        for variable in self.scaled:
            variable.to_grad()
        optimizer.step()
        for variable in self.scaled:
            variable.write_back()
        optimizer.zero_grad(set_to_none=True)

    def optimized(self) -> list[torch.Tensor]:
        """Return the tensors that the optimizer changes."""
        return [tensor for group in self.groups for tensor in group["params"]]  # type: ignore[attr-defined]

    @torch.no_grad()
    def load(self, values: Sequence[torch.Tensor]) -> None:
        """Replace what ``optimized`` returns."""
        for tensor, value in zip(self.optimized(), values, strict=True):
            tensor.copy_(value)
        for variable in self.scaled:
            variable.write_back()

    def penalty_inputs(self) -> Iterator[torch.Tensor]:
        """Yield the V of every AdaRound stand-in."""
        return (rounding.v for rounding in self.roundings.values())

    def stand_in(self, segment: fx.GraphModule) -> None:
        """Let the roundings take the place of their quantizers in ``segment``."""
        for target, rounding in self.stand_ins.items():
            segment.set_submodule(target, rounding)

    @torch.no_grad()
    def commit(self, segment: fx.GraphModule) -> None:
        """Write hardened roundings into the weights, give quantizers their places back and stop learning."""
        for path, rounding in self.roundings.items():
            self.tensors[path].copy_(rounding.hardened())
        for target, rounding in self.stand_ins.items():
            segment.set_submodule(target, rounding.quantizer)
        for tensor in self.tensors.values():
            tensor.requires_grad_(False)

    def snapshot(self) -> dict[str, torch.Tensor]:
        """Copy every tensor that this segment changes, by path in the student."""
        return {path: tensor.detach().clone() for path, tensor in self.tensors.items()}

    @torch.no_grad()
    def restore(self, saved: Mapping[str, torch.Tensor]) -> None:
        """Put saved values back in place."""
        for path, tensor in self.tensors.items():
            tensor.copy_(saved[path])

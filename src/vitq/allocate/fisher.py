"""How sensitive the output is to every unit's end: gradients of random probes of the output."""

import torch

from vitq.activations import outputs
from vitq.allocate.distance import OutputDistance
from vitq.allocate.simulation import Simulation

DRAWS, AT_ONCE = 4, 8
"""Probes per image; images at once."""


def unit_gradients(
    simulation: Simulation, images_NCHW: torch.Tensor, distance: OutputDistance, seed: int
) -> list[torch.Tensor]:
    """Return per unit the gradients at its end, (draws, images, elements) in bfloat16, all switches off.

    Half the mean square of gᵀΔ over draws and images is the distance that a small error Δ at that end makes: the
    Hessian of a KL divergence at its minimum is the Fisher information, all of it, not its diagonal (vitq).
    """
    simulation.set({})
    generator = torch.Generator().manual_seed(seed)
    modules = [simulation.graph.segment(span.start, span.end) for span in simulation.units]
    found: list[list[torch.Tensor]] = [[] for _ in modules]
    for first in range(0, len(images_NCHW), AT_ONCE):
        place = slice(first, first + AT_ONCE)
        x = images_NCHW[place].to(simulation.device).float()
        count, ends = len(x), list[torch.Tensor]()
        with torch.enable_grad():
            for module in modules:
                x = outputs(module(x))[0]
                if not ends:
                    x = x.detach().requires_grad_()
                ends.append(x)
            drawn = []
            for _ in range(DRAWS):
                probe = distance.probe(x, place, generator)
                drawn.append(torch.autograd.grad(probe, ends, retain_graph=True))
        for unit, gradients in enumerate(zip(*drawn, strict=True)):
            rows_DBE = torch.stack([gradient.reshape(count, -1) for gradient in gradients])
            found[unit].append(rows_DBE.to(torch.bfloat16).cpu())
    return [torch.cat(parts, 1) for parts in found]


def projected(gradients_DNE: torch.Tensor, error_N: torch.Tensor) -> torch.Tensor:
    """Return gᵀΔ per draw and image as one vector; ``error_N`` holds Δ, image by image."""
    error_NE = error_N.reshape(gradients_DNE.shape[1], -1).float().cpu()
    return torch.stack([(own_NE.float() * error_NE).sum(1) for own_NE in gradients_DNE]).flatten()

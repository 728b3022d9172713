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

    Half the mean square of gᵀΔ over draws and images is the KL of logits that a small error Δ at that end makes, and
    half the distance of other outputs: the Hessian of a KL divergence at its minimum is the Fisher information, all of
    it, not its diagonal (vitq).
    """
    simulation.set({})
    generator = torch.Generator().manual_seed(seed)
    graph, units = simulation.graph, simulation.units
    given = [simulation.outputs_behind(span.start, span.end) for span in units]
    inside = [{name: node for name, node in own.items() if node != u.end} for u, own in zip(units, given, strict=True)]
    modules = [graph.segment(u.start, u.end, tuple(own.values())) for u, own in zip(units, inside, strict=True)]
    behind = simulation.outputs_behind(units[-1].end)
    heads = graph.segment(units[-1].end, units[-1].end, tuple(behind.values()))
    found: list[list[torch.Tensor]] = [[] for _ in modules]
    for first in range(0, len(images_NCHW), AT_ONCE):
        place = slice(first, first + AT_ONCE)
        x = images_NCHW[place].to(simulation.device).float()
        count, ends, named = len(x), list[torch.Tensor](), dict[str, torch.Tensor]()
        with torch.enable_grad():
            for module, own, all_own in zip(modules, inside, given, strict=True):
                x, *taps = outputs(module(x))
                if not ends:
                    x = x.detach().requires_grad_()
                ends.append(x)
                named |= {**dict.fromkeys(all_own, x), **dict(zip(own, taps, strict=True))}
            named |= zip(behind, outputs(heads(x))[1:], strict=True)
            drawn = []
            for _ in range(DRAWS):
                probe = distance.probe(named, place, generator)
                drawn.append(torch.autograd.grad(probe, ends, retain_graph=True, materialize_grads=True))
        for unit, gradients in enumerate(zip(*drawn, strict=True)):
            rows_DBE = torch.stack([gradient.reshape(count, -1) for gradient in gradients])
            found[unit].append(rows_DBE.to(torch.bfloat16).cpu())
    return [torch.cat(parts, 1) for parts in found]


def projected(gradients_DNE: torch.Tensor, error_N: torch.Tensor) -> torch.Tensor:
    """Return gᵀΔ per draw and image as one vector; ``error_N`` holds Δ, image by image."""
    error_NE = error_N.reshape(gradients_DNE.shape[1], -1).float().cpu()
    return torch.stack([(own_NE.float() * error_NE).sum(1) for own_NE in gradients_DNE]).flatten()

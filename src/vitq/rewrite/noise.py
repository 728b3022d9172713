"""Step ``add_noise``: add a fixed noise to what layers read, and take its product with the weights off their biases.

Quantization of heavy-tailed values is biased; a noise about as wide as a step spreads them over both neighbours, and
as it is fixed, it is subtracted again:  W (x + n) + (b - W n) = W x + b. Behind a norm it joins the norm's bias;
elsewhere it is one sum that runs with the model.
Source: Liu, Yang, Huang, Dong, Zhang, Deng, Cai, Chen. NoisyQuant (CVPR 2023, arXiv 2211.16056), equations 4 to 6.
There the noise meets the quantized weights, W_q n; here it meets the weights as they are when the step runs, which
keeps the function exactly, and every later step counts (W_q - W) n as an error of the weights (vitq).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field

from vitq.errors import GraphError
from vitq.graph import Graph, Role
from vitq.graph.edit import finish, insert_call, insert_constant
from vitq.graph.ops import aten
from vitq.graph.queries import AffineNorm, Consumer, affine_norms, consumers_at
from vitq.rewrite.affine import absorb, transform
from vitq.rewrite.norms import Seen, require_floating, watch
from vitq.rewrite.operands import Plan, output_error
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


@register_step("add_noise")
class AddNoise(Step):
    """Add a fixed uniform noise, one value per channel, to the inputs of layers; run it before ``insert``.

    ``amplitudes`` are tried per input, in steps of its quantizer over the whole range; the one of least output error
    is taken, and none where that is no better. An input that gets a sum of its own has the role ``other`` afterwards.
    ``images``: how many of the calibration images; ``roles``: of which inputs.
    """

    images: int = Field(32, ge=1)
    roles: tuple[Role, ...] = (Role.POST_NORM, Role.POST_ACTIVATION, Role.OTHER)
    amplitudes: tuple[float, ...] = Field((0.25, 0.5, 1.0, 2.0), min_length=1)

    def apply(self, run: "Run") -> None:
        """Rewrite ``run.student``; a warning names each input that cannot take a noise and says why."""
        graph = run.student
        require_floating(graph, "add_noise")
        saved, inputs = run.restore(run.stage), self.inputs(run)
        if saved is None:
            chosen = self._search(run, inputs)
            run.save(run.stage, {name: noise_C for name, (_, noise_C) in chosen.items()})
            run.events.log("add_noise", sites={name: amplitude for name, (amplitude, _) in chosen.items()})
            noises = {name: noise_C for name, (_, noise_C) in chosen.items()}
        else:
            noises = saved[0]
            run.events.log("add_noise", sites=list(noises), resumed=True)
        for name, target in inputs.items():
            if name in noises:
                add(graph, target, noises[name])
        finish(graph.module)
        graph.refresh()

    def inputs(self, run: "Run") -> dict[str, "AffineNorm | tuple[Consumer, ...]"]:
        """Return by name what can take a noise: norms that can be shifted, and other inputs of layers."""
        graph, found = run.student, dict[str, AffineNorm | tuple[Consumer, ...]]()
        behind = dict[str, AffineNorm]()
        for norm in affine_norms(graph):
            if isinstance(norm, AffineNorm) and not norm.no_shift:
                behind |= {consumer.op.name: norm for consumer in norm.consumers}
        for site in [site for site in graph.sites.values() if site.role in self.roles]:
            shared = behind.get(site.consumers[0])
            if shared is not None:
                found.setdefault(shared.name, shared)
                continue
            try:
                consumers = consumers_at(graph, site)
                why = next((consumer.no_shift for consumer in consumers if consumer.no_shift), "")
            except GraphError as error:
                why = str(error)
            if why:
                run.events.warn("noise-skipped", f"site '{site.name}' gets no noise: {why}")
            else:
                found[site.name] = consumers
        return found

    def _search(
        self, run: "Run", inputs: "dict[str, AffineNorm | tuple[Consumer, ...]]"
    ) -> dict[str, tuple[float, torch.Tensor]]:
        """Return amplitude and noise by name, where one helps."""
        chosen, plan = dict[str, tuple[float, torch.Tensor]](), Plan(run)
        names = {_consumers(target): name for name, target in inputs.items()}
        for consumers, seen in watch(run, plan, names, self.images, ordinary=True):
            name = names[consumers]
            draw = torch.rand(consumers[0].channels, generator=run.generator("noise", name), dtype=torch.float64)
            unit_C = (2 * draw - 1).to(seen.low_C.device) * step_size(seen)
            errors = {a: output_error(seen.layers, offset_C=-a * unit_C) for a in (0.0, *self.amplitudes)}
            best = min(errors, key=lambda a: errors[a])
            chosen |= {name: (best, best * unit_C)} if best > 0 else {}
        return chosen


def step_size(seen: Seen) -> float:
    """Return how far neighbouring codes lie apart when the whole range is covered; 0 in floating point."""
    operand = seen.layers[0].activation
    width = float((seen.high_C.max().clamp(min=0) - seen.low_C.min().clamp(max=0)).item())
    return 0.0 if operand is None else width / (2**operand.bits - 1)


def _consumers(target: "AffineNorm | tuple[Consumer, ...]") -> tuple[Consumer, ...]:
    return target.consumers if isinstance(target, AffineNorm) else target


@torch.no_grad()
def add(graph: Graph, target: "AffineNorm | Sequence[Consumer]", noise_C: torch.Tensor) -> None:
    """Let a norm give x + noise, or the layers read x + noise by a sum of their own, and keep the function."""
    if isinstance(target, AffineNorm):
        transform(graph, target, torch.ones_like(noise_C), -noise_C)
        return
    absorb(graph, target, None, -noise_C)
    first, module = target[0], graph.module
    like = graph.parameter(first.weight_node.name)[1]
    name = f"{first.op.name}_noise"
    constant = insert_constant(module, name, first.along(noise_C).to(like).contiguous(), before=first.op)
    total = insert_call(module, aten.add.Tensor, (first.source, constant), before=first.op, like=first.source)
    for consumer in target:
        consumer.op.replace_input_with(first.source, total)

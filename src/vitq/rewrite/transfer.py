"""Step ``transfer_scales``: fold channel-wise post-norm scales into norm and linears (RepQ-ViT, ICCV 2023).

With per-channel s, z and any s̄, z̄:  r = s / s̄,  m = -z s,  m̄ = -z̄ s̄,  b = m / r - m̄,
    γ ← γ / r,  β ← β / r - b,  W ← W diag(r),  bias ← bias + W b (the new W)
so that W (x / r - b) + bias = W_old x + bias_old, and the per-tensor quantizer (s̄, z̄) gives x / r - b the
very codes that (s, z) gave x. Hence s̄ and z̄ change nothing but the unit of x, and RepQ's mean is as good as
any other choice.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from vitq.errors import GraphError
from vitq.graph import Graph, Role, Site
from vitq.graph.edit import node_named
from vitq.graph.parameters import parameter
from vitq.graph.queries import NormConsumers, norm_consumers
from vitq.quantizers import Granularity, Quantizer, make_quantizer
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


@register_step("transfer_scales")
class TransferScales(Step):
    """Turn channel-wise post-norm quantizers into per-tensor ones without changing the student's function.

    Sites where that is impossible get an uncalibrated per-tensor quantizer and a named warning. Weights that
    were rewritten lose their calibration: run ``calibrate`` with ``only_uncalibrated`` next.
    """

    def apply(self, run: "Run") -> None:
        """Transfer every channel-wise affine POST_NORM site; CalibrationError where one is not calibrated."""
        done = 0
        for site in list(run.student.sites.values()):
            quantizer = run.student.quantizers.get(site.name)
            if not isinstance(quantizer, Quantizer) or not _is_channel_wise(site, quantizer):
                continue
            try:
                readers = norm_consumers(run.student, site)
                _require_private(run.student, readers)
            except GraphError as error:
                fresh(run.student, site.name, per_tensor=True)
                reason = f"site '{site.name}' becomes per tensor without a transfer: {error}"
                run.events.warn("transfer-skipped", reason)
                continue
            transfer(run.student, readers)
            done += 1
        run.events.log("transfer_scales", sites=done)


def _is_channel_wise(site: Site, quantizer: Quantizer) -> bool:
    form = quantizer.format
    return site.role is Role.POST_NORM and quantizer.codec.uniform and form.granularity == Granularity.CHANNEL


def _require_private(graph: Graph, readers: NormConsumers) -> None:
    """Raise GraphError where teacher and student are compared between the norm and its linears."""
    node = node_named(graph.module, readers.site.node)
    while True:
        if node.name in graph.compared:
            raise GraphError(f"'{node.name}' is where student and teacher are compared")
        if node is readers.norm:
            return
        node = node.all_input_nodes[0]


@torch.no_grad()
def transfer(graph: Graph, readers: NormConsumers) -> None:
    """Rewrite norm and linears in place; the site's new per-tensor quantizer gives the old codes.

    Where massive tokens had parameters of their own it is left to be calibrated, for them and the others.
    """
    old = graph.quantizers[readers.site.name]
    assert isinstance(old, Quantizer)
    values = old.parameters_dict()
    scale_C, zero_C = values["scale"], values["zero_point"].round()
    scale = scale_C.mean()
    zero = zero_C.mean().round().clamp(0, old.format.qmax)
    ratio_C = scale_C / scale
    shift_C = zero * scale - zero_C * scale_C / ratio_C
    rescale_norm(graph, readers, ratio_C, shift_C)
    new = fresh(graph, readers.site.name, per_tensor=True)
    if old.outliers is None:
        new.set_parameters(scale=scale, zero_point=zero)
    linears = {linear.name for linear in readers.linears}
    for site in graph.sites.values():
        if site.is_weight and site.name in graph.quantizers and linears.intersection(site.consumers):
            fresh(graph, site.name)


def rescale_norm(graph: Graph, readers: NormConsumers, ratio_C: torch.Tensor, shift_C: torch.Tensor) -> None:
    """Make the norm emit x / ratio - shift and the linears undo it, in float64 inside."""
    ratio, shift = ratio_C.double(), shift_C.double()
    ones_C = torch.ones(readers.channels, device=ratio.device)
    gamma_C, beta_C = parameter(graph, readers.norm, 2, ones_C), parameter(graph, readers.norm, 3, 0 * ones_C)
    gamma_C.copy_(gamma_C.double() / ratio)
    beta_C.copy_(beta_C.double() / ratio - shift)
    for linear in readers.linears:
        w_OC = parameter(graph, linear, 1, ones_C)
        new_OC = w_OC.double() * ratio
        bias_O = parameter(graph, linear, 2, torch.zeros(w_OC.shape[0], device=w_OC.device))
        bias_O.copy_(bias_O.double() + new_OC @ shift)
        w_OC.copy_(new_OC)


def fresh(graph: Graph, site: str, *, per_tensor: bool = False) -> Quantizer:
    """Put a new, uncalibrated quantizer of the same format on ``site``, per tensor if asked."""
    old = graph.quantizers[site]
    assert isinstance(old, Quantizer)
    form = replace(old.format, granularity=Granularity.TENSOR) if per_tensor else old.format
    new = make_quantizer(form, None if per_tensor else old.axis).to(old.device)
    new.site = site
    graph.replace(site, new)
    return new

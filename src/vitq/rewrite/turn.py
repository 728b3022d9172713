"""Merge rotations into stored weights: of the heads of an attention, of a residual stream.

Each function says why it cannot be done exactly, or does it. What it changes, the function of the model does not see.
Legend: H heads, D width of a head, C channels of a stream.
"""

import torch
from torch import fx

from vitq.graph import Graph
from vitq.graph.edit import finish
from vitq.graph.ops import aten, is_op, value
from vitq.graph.parameters import parameter, parameter_node
from vitq.graph.queries import HeadPair, Stream, residual_stream
from vitq.graph.queries.affine import slots_of
from vitq.rewrite.affine import SMALLEST_SCALE, stored
from vitq.rewrite.hadamard import SMALLEST, block_order


@torch.no_grad()
def turn_heads(graph: Graph, pair: HeadPair, q_HDD: torch.Tensor) -> None:
    """Multiply the channels of head h by the orthogonal ``q_HDD[h]`` in both linears of ``pair``."""
    for rows in (pair.first, pair.second):
        reads = _reads(rows.linear, pair.product)
        for place, axis in ((1, 1),) if reads else ((1, 0), (2, 0)):
            node = parameter_node(rows.linear, place)
            if node is None:
                continue
            tensor = graph.parameter(node.name)[1]
            for index_D, q_DD in zip(rows.index_HD.to(tensor.device), q_HDD, strict=True):
                own = tensor.index_select(axis, index_D)
                tensor.index_copy_(axis, index_D, multiplied(own, axis, q_DD))


def _reads(linear: fx.Node, product: fx.Node) -> bool:
    """Tell whether ``linear`` stands behind ``product``: linears before it are among what it was made of."""
    return product < linear


def why_not_heads(pair: HeadPair) -> str:
    """Say why the heads of ``pair`` are not turned; empty where they can be."""
    width = pair.first.index_HD.shape[-1]
    return _too_narrow(width, "heads are")


def why_not_stream(graph: Graph, stream: Stream, *, keeps_ones: bool) -> str:
    """Say why ``stream`` cannot be multiplied by an orthogonal matrix without an operation more; empty where it can.

    One that keeps the vector of ones goes through every norm. Any other one needs RMS norms, and a layer norm is one
    where each writer can be centred, which nobody sees but a reader that has no layer norm before it.
    """
    if stream.barriers:
        return stream.barriers[0].reason
    for reader in stream.readers:
        if reader.norm is not None and reader.padded and _is_lost(graph, reader.norm):
            return f"'{reader.norm.name}' has a channel of scale 0 with a bias, and padding or a factor behind it"
    centred = [reader for reader in stream.readers if _is_layer_norm(reader.norm)]
    if not keeps_ones and centred:
        for reader in stream.readers:
            if reader.norm is None:
                return f"'{reader.op.name}' reads it without a norm, so that no layer norm can become an RMS norm"
            if not _is_layer_norm(reader.norm):
                return f"'{reader.norm.name}' is an RMS norm beside layer norms, which centre their input"
            if value(reader.norm).shape[-1] != stream.channels:
                return f"'{reader.norm.name}' takes several positions together, so that it is no RMS norm of each"
            if reader.padded and bool(_affine(graph, reader.norm)[1].any()):
                return f"'{reader.norm.name}' has a bias that cannot pass the padding or factor behind it"
    return _too_narrow(stream.channels, "it is")


def _too_narrow(width: int, subject: str) -> str:
    return "" if block_order(width) >= SMALLEST else f"{subject} {width} wide: no Hadamard matrix divides that"


def _is_lost(graph: Graph, norm: fx.Node) -> bool:
    gamma_C, beta_C = _affine(graph, norm)
    return bool(((gamma_C.abs() <= SMALLEST_SCALE * gamma_C.abs().max()) & (beta_C != 0)).any())


def _is_layer_norm(norm: fx.Node | None) -> bool:
    """Tell whether ``norm`` subtracts the mean."""
    return is_op(norm, {aten.layer_norm.default})


@torch.no_grad()
def turn_stream(graph: Graph, at: str, q_CC: torch.Tensor, *, keeps_ones: bool) -> None:
    """Replace the residual stream x that the tensor at node ``at`` belongs to by x Q.

    Norms lose scale and bias to their readers. Where Q does not keep the vector of ones, layer norms become RMS norms
    of a stream without mean. ``why_not_stream`` must have nothing to say.
    """
    stream = residual_stream(graph, at)
    norms = list(dict.fromkeys(reader.norm for reader in stream.readers if reader.norm is not None))
    for norm in norms:
        _fold(graph, stream, norm, q_CC)
    stream = residual_stream(graph, at)  # a layer may have got a bias
    write_CC = q_CC
    if not keeps_ones and any(_is_layer_norm(norm) for norm in norms):
        write_CC = q_CC - q_CC.mean(0)
        for norm in norms:
            _to_rms(norm)
    for writer in stream.writers:
        for scale in writer.scales:
            factor = graph.parameter(scale.name)[1]
            for port in writer.ports:
                tensor = graph.parameter(port.parameter.name)[1]
                tensor.copy_(tensor.double() * factor.double().reshape(-1, *[1] * (tensor.ndim - 1)))
            factor.fill_(1)
    done = set[tuple[str, int]]()
    ports = [(port, write_CC) for writer in stream.writers for port in writer.ports]
    for port, matrix_CC in [*ports, *((reader.port, q_CC) for reader in stream.readers)]:
        path, tensor = graph.parameter(port.parameter.name)
        if (path, port.axis) not in done:
            tensor.copy_(multiplied(tensor, port.axis, matrix_CC))
            done.add((path, port.axis))
    finish(graph.module)


def multiplied(tensor: torch.Tensor, axis: int, q_CC: torch.Tensor) -> torch.Tensor:
    """Multiply every block of channels along ``axis`` by ``q_CC``, in float64 inside."""
    last = tensor.double().movedim(axis, -1).unflatten(-1, (-1, len(q_CC)))
    turned: torch.Tensor = (last @ q_CC.to(tensor.device)).flatten(-2).movedim(-1, axis)
    return turned.to(tensor.dtype)


def _affine(graph: Graph, norm: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and bias of a norm in float64, ones and zeros where it has none."""
    gamma, beta = (stored(graph, slot) for slot in slots_of(norm))
    device = next(graph.module.parameters()).device
    ones_C = torch.ones(int(value(norm).shape[-1]), dtype=torch.float64, device=device)
    gamma_C = ones_C if gamma is None else gamma.double()
    return gamma_C, torch.zeros_like(gamma_C) if beta is None else beta.double()


def _fold(graph: Graph, stream: Stream, norm: fx.Node, q_CC: torch.Tensor) -> None:
    """Leave ``norm`` without scale; its bias goes into the readers or, before a padding, stays in new channels."""
    gamma, beta = (stored(graph, slot) for slot in slots_of(norm))
    gamma_C, beta_C = _affine(graph, norm)
    readers = [reader for reader in stream.readers if reader.norm is norm]
    stays = any(reader.padded for reader in readers)
    for reader in readers:
        weight = graph.parameter(reader.port.parameter.name)[1]
        if not stays and bool(beta_C.any()):
            bias = parameter(graph, reader.op, 2, torch.zeros(len(weight), dtype=weight.dtype, device=weight.device))
            summed = weight.double().flatten(2).sum(2) if weight.ndim > 2 else weight.double()
            bias.add_((summed @ _repeated(beta_C, summed.shape[1])).to(bias.dtype))
        scale = _repeated(gamma_C, weight.shape[1]).reshape(1, -1, *[1] * (weight.ndim - 2))
        weight.copy_(weight.double() * scale)
    safe_C = torch.where(gamma_C == 0, 1.0, gamma_C)
    left_C = multiplied(beta_C / safe_C, 0, q_CC) if stays else torch.zeros_like(beta_C)
    for tensor, new_C in ((gamma, torch.ones_like(gamma_C)), (beta, left_C)):
        if tensor is not None:
            tensor.copy_(new_C)


def _repeated(x_C: torch.Tensor, size: int) -> torch.Tensor:
    return x_C.repeat(size // len(x_C))


def _to_rms(norm: fx.Node) -> None:
    """Let a layer norm of centred channels, which has no bias left, be the RMS norm that it is."""
    x, shape, weight = (*norm.args, None)[:3]
    epsilon = norm.args[4] if len(norm.args) > 4 else 1e-5
    norm.target, norm.args = aten.rms_norm.default, (x, shape, weight, epsilon)

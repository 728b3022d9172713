"""The queries prove themselves: what they find is rotated, and the model's output stays what it was."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from small_models import ZOO, lively, zoo
from torch import fx, nn

from vitq.errors import GraphError
from vitq.graph import Graph, Role, capture
from vitq.graph.edit import finish, insert_call, insert_constant, node_named, set_attribute
from vitq.graph.ops import ADD, NORM, aten, is_op
from vitq.graph.parameters import parameter
from vitq.graph.queries import (
    HeadPair,
    Kind,
    Rows,
    Stream,
    query_key,
    residual_stream,
    residual_streams,
    source_of,
    value_path,
)

MODELS = ("deit", "swin", "swinv2", "beit", "eva02", "cait", "pvt", "siglip", "convnext")
BARRIERS = {"swin": 1, "swinv2": 6, "pvt": 2, "convnext": 6}
"""How often an operation of its own has to rotate; everywhere else parameters do."""


@cache
def captured(name: str) -> Graph:
    graph = capture(zoo(name), images(ZOO[name][0]).float())
    graph.module.double()
    for node in graph.module.graph.nodes:  # what operations that are added see
        if isinstance(value := node.meta.get("val"), torch.Tensor) and value.is_floating_point():
            node.meta["val"] = value.double()
    return graph


def images(size: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))


def inputs(graph: Graph) -> torch.Tensor:
    shape = next(iter(graph.module.graph.find_nodes(op="placeholder"))).meta["val"].shape
    return images(int(shape[-1]), 3)


def rotation(size: int, *, keep_ones: bool = False, seed: int = 0) -> torch.Tensor:
    """Return a random orthogonal matrix; with ``keep_ones`` one that maps the vector of ones to itself."""
    generator = torch.Generator().manual_seed(seed)
    inner = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    if not keep_ones:
        return inner
    basis = torch.linalg.qr(torch.cat((torch.ones(size, 1, dtype=torch.float64), inner[:, 1:]), 1))[0]
    smaller = rotation(size - 1)
    return basis @ torch.block_diag(torch.ones(1, 1, dtype=torch.float64), smaller) @ basis.T


def rotated(tensor: torch.Tensor, axis: int, q_CC: torch.Tensor) -> torch.Tensor:
    """Multiply every block of channels along ``axis`` by ``q_CC``."""
    last = tensor.movedim(axis, -1)
    return (last.unflatten(-1, (-1, len(q_CC))) @ q_CC.to(tensor.dtype)).flatten(-2).movedim(-1, axis)


def tensor_of(graph: Graph, node: fx.Node) -> torch.Tensor:
    return graph.parameter(node.name)[1]


@torch.no_grad()
def rotate(graph: Graph, stream: Stream, q_CC: torch.Tensor) -> None:
    """Replace the stream x by x Q: fold norms and scales into their neighbours, multiply ports, bridge barriers."""
    for norm in dict.fromkeys(reader.norm for reader in stream.readers if reader.norm is not None):
        fold_norm(graph, stream, norm, q_CC)
    for writer in stream.writers:
        for scale in writer.scales:
            for port in writer.ports:
                tensor = tensor_of(graph, port.parameter)
                tensor.mul_(tensor_of(graph, scale).reshape(-1, *[1] * (tensor.ndim - 1)))
            tensor_of(graph, scale).fill_(1)
    done = set[tuple[str, int]]()
    for port in [p for w in stream.writers for p in w.ports] + [r.port for r in stream.readers]:
        path, tensor = graph.parameter(port.parameter.name)
        if (path, port.axis) not in done:
            set_attribute(graph.module, path, rotated(tensor, port.axis, q_CC))
            done.add((path, port.axis))
    for barrier in stream.barriers:
        bridge(graph, stream, barrier.node, barrier.users, q_CC)
    finish(graph.module)


def fold_norm(graph: Graph, stream: Stream, norm: fx.Node, q_CC: torch.Tensor) -> None:
    """Leave the norm without scale; its bias goes into the readers or, before a padding, stays in new channels."""
    gamma = tensor_of(graph, norm.args[2])
    beta = tensor_of(graph, norm.args[3]) if is_op(norm, {aten.layer_norm.default}) else torch.zeros_like(gamma)
    readers = [reader for reader in stream.readers if reader.norm is norm]
    padded = any(reader.padded for reader in readers)
    for reader in readers:
        weight = tensor_of(graph, reader.port.parameter)
        scale = gamma.repeat(weight.shape[1] // len(gamma))
        if not padded:
            bias = parameter(graph, reader.op, 2, torch.zeros(len(weight), dtype=weight.dtype))
            bias.add_(weight.flatten(2).sum(2) @ beta if weight.ndim > 2 else weight @ beta)
        weight.mul_(scale.reshape(1, -1, *[1] * (weight.ndim - 2)))
    beta.copy_(rotated(beta / gamma, 0, q_CC) if padded else torch.zeros_like(beta))
    gamma.fill_(1)


def bridge(graph: Graph, stream: Stream, node: fx.Node, users: tuple[fx.Node, ...], q_CC: torch.Tensor) -> None:
    """Rotate what ``node`` gives its ``users`` back, or, without users, what it gives everybody."""
    module, axis, after = graph.module, stream.axes[node], node.next
    matrix = insert_constant(module, f"{node.name}_rotation", q_CC if users else q_CC.T.contiguous(), before=after)
    turned = node if axis == -1 else insert_call(module, aten.transpose.int, (node, axis, -1), before=after)
    new = insert_call(module, aten.linear.default, (turned, matrix), before=after)
    if axis != -1:
        new = insert_call(module, aten.transpose.int, (new, axis, -1), before=after)
    own = {matrix, turned, new} if users else {matrix, turned, new, *new.all_input_nodes}
    for user in list(node.users):
        if user in users or (not users and user not in own):
            user.replace_input_with(node, new)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_residual_streams_can_be_rotated(name: str) -> None:
    graph = captured(name).clone()
    x, streams = inputs(graph), residual_streams(graph)
    before = graph(x)
    tensors = [
        next(node.name for node in reversed(stream.axes) if is_op(node, ADD) and node.name in graph.cuts)
        for stream in streams
    ]
    old = [graph.segment(graph.cuts[0], tensor)(x) for tensor in tensors]
    axes = [stream.axes[node_named(graph.module, tensor)] for stream, tensor in zip(streams, tensors, strict=True)]
    matrices = [rotation(stream.channels, keep_ones=True) for stream in streams]
    assert len(streams) == {"swin": 2, "swinv2": 2, "pvt": 2, "siglip": 2, "convnext": 4}.get(name, 1)
    assert sum(len(stream.barriers) for stream in streams) == BARRIERS.get(name, 0)
    for tensor, q_CC in zip(tensors, matrices, strict=True):
        rotate(graph, residual_stream(graph, tensor), q_CC)
    assert distance(graph(x), before) < 1e-10
    for tensor, was, axis, q_CC in zip(tensors, old, axes, matrices, strict=True):
        now = graph.segment(graph.cuts[0], tensor)(x)
        assert distance(now, was) > 1e-2
        assert distance(now, rotated(was, axis, q_CC)) < 1e-10


@torch.no_grad()
def test_single_precision_keeps_five_digits() -> None:
    graph = captured("swin").clone()
    graph.module.float()
    x = inputs(graph).float()
    before = graph(x)
    for number in range(2):
        stream = residual_streams(graph)[number]
        rotate(graph, stream, rotation(stream.channels, keep_ones=True).float())
    assert distance(graph(x), before) < 1e-5


@torch.no_grad()
def test_a_stream_between_two_cuts_ends_there() -> None:
    graph = captured("deit").clone()
    x, (span,) = inputs(graph), [span for span in graph.spans("block") if span.name == "blocks.1"]
    before, start, end = graph(x), span.start, span.end
    stream = residual_stream(graph, start, start=start, end=end)
    assert {barrier.node.name: bool(barrier.users) for barrier in stream.barriers} == {start: False, end: True}
    assert [reader.port.parameter.target for reader in stream.readers] == [
        "blocks.1.attn.qkv.weight",
        "blocks.1.mlp.fc1.weight",
    ]
    rotate(graph, stream, rotation(stream.channels, keep_ones=True))
    assert distance(graph(x), before) < 1e-10


def test_readers_and_writers_are_named_with_the_side_to_multiply() -> None:
    first, second = residual_streams(captured("swin"))
    merging = first.readers[-1]
    assert merging.port.parameter.target == "layers.1.downsample.reduction.weight"
    assert (merging.port.axis, merging.port.blocks) == (1, 4)
    assert [(p.parameter.target, p.axis, p.blocks) for p in second.writers[0].ports] == [
        ("layers.1.downsample.reduction.weight", 0, 1)
    ]
    assert [reader.padded for reader in first.readers] == [True, False, True, False, False]
    (barrier,) = first.barriers
    assert is_op(barrier.node, NORM) and "scale and bias stand on the stream" in barrier.reason
    (stream,) = residual_streams(captured("beit"))
    scaled = [writer.scales for writer in stream.writers if writer.scales]
    assert [str(scale.target) for scales in scaled for scale in scales] == [
        "blocks.0.gamma_1",
        "blocks.0.gamma_2",
    ]
    assert [str(w.op.target) for w in stream.writers if w.op.op == "get_attr"] == ["cls_token"]


class Block(nn.Module):
    """A residual branch with an odd place: ``kind`` says which."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.fc1, self.fc2, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm, self.last, self.shift = nn.LayerNorm(8), nn.LayerNorm(8), nn.Parameter(torch.randn(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x.flatten(1, 2))
        z = self.fc1(self.norm(y))
        z = self.fc2(z.relu()) if self.kind == "tied" else self.fc2(torch.nn.functional.gelu(z))
        y = y + z
        if self.kind == "norm is added":
            y = y + self.last(y)
        elif self.kind == "one value":
            y = y + self.shift
        elif self.kind == "activation":
            y = y.relu()
        elif self.kind == "tied":
            y = y + self.fc2(y.tanh())
        elif self.kind == "half":
            y = torch.cat((y[..., 4:], y[..., :4]), -1)
        return self.head(y)


REASONS = {
    "norm is added": "behind 'layer_norm_1': 'add",
    "one value": "adds one value to all channels",
    "activation": "neither linear in the channels",
    "tied": "is shared with another operation",
    "half": "moves channels",
}


@torch.no_grad()
@pytest.mark.parametrize("kind", REASONS)
def test_what_cannot_be_rotated_is_named_with_its_reason(kind: str) -> None:
    torch.manual_seed(0)
    graph = capture(lively(Block(kind)).double(), torch.randn(2, 3, 4, 5, dtype=torch.float64))
    x = torch.randn(3, 3, 4, 5, dtype=torch.float64)
    before = graph(x)
    at = next(node.name for node in graph.module.graph.nodes if node.name.startswith("add"))
    stream = residual_stream(graph, at)
    assert any(REASONS[kind] in barrier.reason for barrier in stream.barriers)
    rotate(graph, stream, rotation(8, keep_ones=True))
    assert distance(graph(x), before) < 1e-10


class Rms(nn.Module):
    """One residual branch behind an RMS norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.norm, self.last = nn.RMSNorm(8, eps=1e-6), nn.RMSNorm(8, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.stem(x.flatten(1, 2))
        return self.head(self.last(y + self.fc(self.norm(y))))


@torch.no_grad()
def test_rms_norms_take_any_rotation_and_layer_norms_only_one_that_keeps_ones() -> None:
    for name, exact in (("rms", True), ("deit", False)):
        x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
        graph = capture(lively(Rms()).double(), x) if name == "rms" else captured(name).clone()
        x = x if name == "rms" else inputs(graph)
        before = graph(x)
        (stream,) = residual_streams(graph)
        assert not stream.barriers and any(reader.norm is not None for reader in stream.readers)
        rotate(graph, stream, rotation(stream.channels))
        assert (distance(graph(x), before) < 1e-10) is exact


@torch.no_grad()
def turn_heads(graph: Graph, pair: HeadPair) -> None:
    """Rotate each head by a matrix of its own: rows of the first linear, rows or columns of the second."""
    for rows, axis in ((pair.first, 0), (pair.second, 0 if is_written(pair, pair.second) else 1)):
        for head, index_D in enumerate(rows.index_HD):
            q_DD = rotation(len(index_D), seed=head)
            places = ((1, axis), (2, 0)) if axis == 0 else ((1, axis),)
            for place, along in places:
                if len(rows.linear.args) > place and rows.linear.args[place] is not None:
                    tensor = tensor_of(graph, rows.linear.args[place])
                    tensor.index_copy_(along, index_D, rotated(tensor.index_select(along, index_D), along, q_DD))


def is_written(pair: HeadPair, rows: Rows) -> bool:
    """Tell whether the product reads what the linear writes."""
    return rows.linear in upstream(pair.product)


def upstream(node: fx.Node) -> set[fx.Node]:
    found, stack = set[fx.Node](), [node]
    while stack:
        for source in stack.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                stack.append(source)
    return found


HEADS: dict[str, tuple[int, int]] = {
    "swinv2": (2, 0),
    "beit": (1, 1),
    "eva02": (1, 0),
    "cait": (1, 1),
    "pvt": (2, 2),
    "siglip": (2, 2),
}
"""How many value paths, and how many pairs of query and key, can be rotated (cosine and rotary attention have none).

Those of ViT, DeiT, DINOv2, Swin and CLIP are turned by the step that asks for them (tests/rewrite/test_rotate.py).
"""


@torch.no_grad()
@pytest.mark.parametrize("name", HEADS)
def test_heads_can_be_rotated_one_by_one(name: str) -> None:
    graph = captured(name).clone()
    x = inputs(graph)
    before, found = graph(x), {Role.VALUE: 0, Role.QUERY: 0}
    queries: dict[Role, Callable[[Graph, Any], HeadPair]] = {Role.VALUE: value_path, Role.QUERY: query_key}
    for site in [site for site in graph.sites.values() if site.role in queries]:
        was = graph.segment(graph.cuts[0], site.node)(x)
        try:
            pair = queries[site.role](graph, site)
        except GraphError as error:
            assert "no linear layer" in str(error)
            continue
        found[site.role] += 1
        turn_heads(graph, pair)
        assert distance(graph.segment(graph.cuts[0], site.node)(x), was) > 1e-2
        assert distance(graph(x), before) < 1e-10
    assert (found[Role.VALUE], found[Role.QUERY]) == HEADS[name]


class Shared(nn.Module):
    """Attention of two heads whose value is read in a second place, or shared by both heads."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4 if kind == "one head" else 8)
        self.out, self.second = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x.flatten(1, 2)
        v = self.v(y)
        q, k = (f(y).unflatten(-1, (2, 4)).transpose(1, 2) for f in (self.q, self.k))
        a = (q @ k.transpose(-1, -2)).softmax(-1)
        z = a @ v.unflatten(-1, (-1, 4)).transpose(1, 2)
        z = z.transpose(1, 2).flatten(2)
        if self.kind == "other reader":
            z = z + v
        if self.kind == "two projections":
            return self.out(z) * self.second(z)
        return self.out(z.relu() if self.kind == "activation" else z)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("other reader", "reads the channels of"),
        ("one head", "share channels of 'linear"),
        ("two projections", "not one linear layer alone"),
        ("activation", "'relu', not one linear layer alone"),
    ],
)
def test_a_value_that_cannot_be_rotated_is_refused_by_name(kind: str, reason: str) -> None:
    graph = capture(Shared(kind), torch.randn(2, 3, 4, 8))
    (site,) = [site for site in graph.sites.values() if site.role is Role.VALUE]
    with pytest.raises(GraphError, match=reason):
        value_path(graph, site)


def test_every_site_of_a_product_knows_its_source() -> None:
    graph = captured("beit")
    kinds = {site.name: source_of(graph, site).kind for site in graph.sites.values() if site.of_product}
    assert kinds["patch_embed.proj/input"] is Kind.IMAGE
    assert kinds["patch_embed.proj/weight"] is Kind.CONSTANT
    own = {name.removeprefix("blocks.0."): kind for name, kind in kinds.items() if name.startswith("blocks.0.")}
    assert {name: kind for name, kind in own.items() if not name.endswith("weight")} == {
        "attn.qkv/input": Kind.NORM,
        "attn/query": Kind.LINEAR,
        "attn/key": Kind.LINEAR,
        "attn/probabilities": Kind.SOFTMAX,
        "attn/value": Kind.LINEAR,
        "attn.proj/input": Kind.PRODUCT,
        "mlp.fc1/input": Kind.NORM,
        "mlp.fc2/input": Kind.ACTIVATION,
    }


def test_a_stored_factor_before_a_site_belongs_to_its_source() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.fc, self.factor = nn.LayerNorm(8), nn.Linear(8, 4), nn.Parameter(torch.rand(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc((self.factor * (2.0 * self.norm(x))).flatten(1, 2))

    graph = capture(Scaled(), torch.randn(2, 3, 4, 8))
    source = source_of(graph, graph.sites["fc/input"])
    assert source.kind is Kind.NORM and [factor.target for factor in source.factors] == ["factor"]

"""Every reader and writer of a residual stream, found by following its channels through the graph.

The stream is the largest set of tensors that have to change their channels together. From one of them it grows both
ways: over sums, whose terms and result share channels, and over moves, which are asked by sending numbers through
them. It ends at linears and convolutions, which can take new channels up in their weights, at constants, and at
barriers. Norms are looked through, as long as only linears and convolutions read them. A rewrite that adds a bias or
an operation changes the answer for the streams beside it: ask again.
"""

from collections import deque
from contextlib import suppress

from torch import fx

from vitq.errors import GraphError
from vitq.graph.edit import node_named
from vitq.graph.fold import depends_on_image
from vitq.graph.graph import Graph
from vitq.graph.ops import CONV, LINEAR, NORM, aten, is_op, value
from vitq.graph.parameters import parameter_node, readers_of, require_own
from vitq.graph.queries.frames import Frame, after, before, linear_in_channels
from vitq.graph.queries.layers import (
    PLAIN_CONV,
    SUM,
    channel_axis_of,
    channel_scale,
    groups_of,
    pads,
    terms_of,
    why_not,
)
from vitq.graph.queries.numbers import is_scalar_product, tensor_inputs, tensor_users
from vitq.graph.queries.ports import Barrier, Port, Reader, Stream, Writer


def residual_streams(graph: Graph) -> tuple[Stream, ...]:
    """Return the streams of all residual sums that are cuts, in order; Swin has one for each stage.

    Sums that no layer reads (of two heads' logits) are none.
    """
    image, streams = depends_on_image(graph.module.graph), list[Stream]()
    for node in [node_named(graph.module, cut) for cut in graph.cuts]:
        residual = is_op(node, SUM) and all(isinstance(term, fx.Node) and term in image for term in node.args[:2])
        if residual and not any(node in stream.axes for stream in streams):
            streams.append(residual_stream(graph, node.name))
    return tuple(stream for stream in streams if stream.readers)


def residual_stream(graph: Graph, at: str, *, start: str | None = None, end: str | None = None) -> Stream:
    """Return the stream that the tensor at node ``at`` belongs to, as far back as ``start`` and on to ``end``.

    The two are barriers then. Raises GraphError where one tensor would need the stream's channels in two ways.
    """
    first, last = (None if name is None else node_named(graph.module, name) for name in (start, end))
    return _Walk(graph, node_named(graph.module, at), first, last).result()


class _TwoWays(GraphError):
    """One tensor, two frames: there is no such stream."""


class _Walk:
    """The stream so far, and the tensors of it whose neighbours are still to be looked at."""

    def __init__(self, graph: Graph, seed: fx.Node, start: fx.Node | None, end: fx.Node | None) -> None:
        self.graph, self.start, self.end = graph, start, end
        axis = _channel_axis(seed)
        self.channels = int(value(seed).shape[axis])
        self.frames: dict[fx.Node, Frame] = {}
        self.queue: deque[fx.Node] = deque()
        self.readers: list[Reader] = []
        self.writers: list[Writer] = []
        self.barriers: list[Barrier] = []
        self._join(seed, Frame(axis, 1))
        while self.queue:
            node = self.queue.popleft()
            try:
                self._look_back(node, self.frames[node])
            except _TwoWays:
                raise
            except GraphError as error:
                self.barriers.append(Barrier(node, (), str(error)))
            self._look_ahead(node, self.frames[node])

    def result(self) -> Stream:
        """Return what was found, in the order of the graph."""
        place = {node: i for i, node in enumerate(self.graph.module.graph.nodes)}
        return Stream(
            self.channels,
            {node: self.frames[node].axis for node in sorted(self.frames, key=place.__getitem__)},
            tuple(sorted(self.readers, key=lambda reader: place[reader.op])),
            tuple(sorted(self.writers, key=lambda writer: place[writer.op])),
            tuple(sorted(self.barriers, key=lambda barrier: place[barrier.node])),
        )

    def _join(self, node: fx.Node, frame: Frame) -> None:
        if node not in self.frames:
            self.frames[node] = frame
            self.queue.append(node)
        elif self.frames[node] != frame:
            raise _TwoWays(f"'{node.name}' would need the channels of one stream in two ways")

    def _look_back(self, node: fx.Node, frame: Frame) -> None:
        """Find out how ``node`` is made; raise GraphError, saying why, where no parameter can change its channels."""
        if node is self.start:
            raise GraphError("the span starts here")
        if node.op == "get_attr":
            self._constant(node, frame)
        elif is_op(node, SUM):
            for term in terms_of(node, frame):
                self._join(term, frame)
        elif linear_in_channels(node):
            for source, own in before(node, frame, self.channels).items():
                self._join(source, own)
        else:
            self.writers.append(self._writer(node, frame))

    def _look_ahead(self, node: fx.Node, frame: Frame) -> None:
        """Find out who reads ``node``."""
        users = tuple(dict.fromkeys(tensor_users(node)))
        if node is self.end:
            self._bar(node, users, "the span ends here")
            return
        for user in users:
            try:
                if is_op(user, SUM):
                    terms_of(user, frame)
                    self._join(user, frame)
                elif linear_in_channels(user):
                    self._join(user, after(user, frame, self.channels)[0])
                elif is_op(user, NORM):
                    self.readers += self._behind(user, node, frame)
                else:
                    self.readers.append(self._reader(user, node, frame))
            except _TwoWays:
                raise
            except GraphError as error:
                self._bar(node, (user,), str(error))

    def _bar(self, node: fx.Node, users: tuple[fx.Node, ...], reason: str) -> None:
        direct = tuple(user if node in user.all_input_nodes else user.all_input_nodes[0] for user in users)
        self.barriers.append(Barrier(node, direct, reason))

    def _constant(self, node: fx.Node, frame: Frame) -> None:
        """Take a constant that is added or concatenated for a writer, wherever it is read."""
        for same in self.graph.module.graph.find_nodes(op="get_attr"):
            if same.target == node.target:
                self._join(same, frame)
        if all(writer.op.target != node.target for writer in self.writers):
            self.writers.append(Writer(node, (Port(node, frame.axis % value(node).ndim, frame.blocks),)))

    def _writer(self, node: fx.Node, frame: Frame) -> Writer:
        """Return the linear or convolution that makes ``node``, perhaps through moves and scales of channels."""
        scales: list[fx.Node] = []
        while not is_op(node, LINEAR | PLAIN_CONV):
            pair = channel_scale(node, frame)
            if pair is not None:
                if len(readers_of(self.graph, str(pair[0].target))) > 1:
                    raise GraphError(f"'{pair[0].target}', which scales it, is shared with another operation")
                scales.append(pair[0])
                node = pair[1]
            elif scales and linear_in_channels(node) and len(tensor_inputs(node)) == 1:
                ((node, frame),) = before(node, frame, self.channels).items()
            else:
                raise GraphError(why_not(node))
            if len(list(tensor_users(node))) > 1:
                raise GraphError(f"'{node.name}' is read before it is scaled, too")
        if frame.axis != channel_axis_of(node) or frame.blocks * self.channels != value(node).shape[frame.axis]:
            raise GraphError(f"'{node.name}' has the channels on another axis")
        if is_op(node, CONV) and groups_of(node) > 1:
            raise GraphError(f"'{node.name}' convolves in groups")
        ports: list[Port] = []
        for place in (1, 2):
            require_own(self.graph, node, place)
            parameter = parameter_node(node, place)
            ports += [Port(parameter, 0, frame.blocks)] if parameter is not None else []
        return Writer(node, tuple(ports), tuple(scales))

    def _reader(
        self, op: fx.Node, source: fx.Node, frame: Frame, norm: fx.Node | None = None, padded: bool = False
    ) -> Reader:
        """Return the linear or convolution ``op`` as a reader of ``source``."""
        if not is_op(op, LINEAR | PLAIN_CONV) or op.args[0] is not source:
            raise GraphError(why_not(op))
        if frame.axis != channel_axis_of(op):
            raise GraphError(f"'{op.name}' reads it along another axis than its channels")
        if is_op(op, CONV) and groups_of(op) > 1:
            raise GraphError(f"'{op.name}' convolves in groups")
        require_own(self.graph, op, 1)
        weight = parameter_node(op, 1)
        assert weight is not None
        return Reader(op, Port(weight, 1, frame.blocks), norm, padded or pads(op))

    def _behind(self, norm: fx.Node, source: fx.Node, frame: Frame) -> list[Reader]:
        """Return the linears and convolutions that read ``norm``; raise GraphError where anybody else does."""
        if norm.args[0] is not source or len(norm.args[1]) != 1 or frame.axis != -1:  # type: ignore[arg-type]
            raise GraphError(f"'{norm.name}' does not take the channels alone together")
        for place in (2, 3) if is_op(norm, {aten.layer_norm.default}) else (2,):
            require_own(self.graph, norm, place)
        reached: dict[fx.Node, tuple[Frame, bool]] = {norm: (frame, False)}
        readers, stack = list[Reader](), [norm]
        while stack:
            node = stack.pop()
            own, padded = reached[node]
            if node is self.end:
                raise GraphError("the span ends here")
            for user in tensor_users(node):
                if not linear_in_channels(user):
                    try:
                        readers.append(self._reader(user, node, own, norm, padded))
                    except GraphError as error:
                        raise GraphError(f"behind '{norm.name}': {error}") from error
                elif user not in reached:
                    there, zeros = after(user, own, self.channels)
                    reached[user] = (there, padded or zeros or is_scalar_product(user))
                    stack.append(user)
        for node in reached:
            if node is not norm and any(other not in reached for other in tensor_inputs(node)):
                raise GraphError(f"'{node.name}' joins '{norm.name}' with something else")
        return readers


def _channel_axis(node: fx.Node) -> int:
    """Return the axis whose numbers arrive at the channels of the first layer or norm ahead, else the last one."""
    for axis in range(-1, -value(node).ndim, -1):
        channels = value(node).shape[axis]
        ahead, seen = deque([(node, Frame(axis, 1))]), set[fx.Node]()
        while ahead and isinstance(channels, int) and channels > 1:
            tensor, frame = ahead.popleft()
            for user in [user for user in tensor_users(tensor) if user not in seen]:
                seen.add(user)
                if is_op(user, LINEAR | NORM | CONV) and frame.axis == channel_axis_of(user):
                    return axis
                if is_op(user, SUM):
                    ahead.append((user, frame))
                elif linear_in_channels(user):
                    with suppress(GraphError):
                        ahead.append((user, after(user, frame, channels)[0]))
    return -1

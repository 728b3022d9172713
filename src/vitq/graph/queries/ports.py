"""What a rewrite of the residual stream has to change: which parameters hold its channels, and on which side.

The stream x_BTC may be replaced by x A, for an invertible A, without changing the model's function, where every
parameter that a port names is multiplied by A along the port's axis as a writer, and by the inverse's transpose as a
reader. With an orthogonal A = Q both are the same: sum over i of p[…, i, …] Q[i, j]. What norms ask of Q, ``Reader``
says.
"""

from dataclasses import dataclass

from torch import fx


@dataclass(frozen=True)
class Port:
    """A stored tensor that holds the stream's channels along ``axis``, ``blocks`` times one after the other."""

    parameter: fx.Node
    axis: int
    blocks: int


@dataclass(frozen=True)
class Reader:
    """A linear or convolution that reads the stream; ``port`` is its weight.

    Where it reads through ``norm``, that norm's scale has to move into the weight first. Its bias may move into the
    layer's, unless ``padded``: then zeros are added behind the norm (or by the convolution), or a number multiplies
    its result, and the bias stays, as bias / scale. A layer norm commutes with an orthogonal matrix that keeps the
    vector of ones, an RMS norm with any.
    """

    op: fx.Node
    port: Port
    norm: fx.Node | None = None
    padded: bool = False


@dataclass(frozen=True)
class Writer:
    """A linear or convolution whose result is added to the stream, or a constant (``get_attr``) that is.

    ``ports`` are its weight and bias. ``scales`` hold one factor per channel that multiply its result on the way, as
    LayerScale does: they have to move into weight and bias first.
    """

    op: fx.Node
    ports: tuple[Port, ...]
    scales: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class Barrier:
    """A place where no parameter can take the stream's new channels up, and why; an operation of its own can.

    ``users`` read the tensor at ``node`` in the old channels. Without users, it is ``node`` that is computed in the
    old channels, and everybody who reads it belongs to the stream.
    """

    node: fx.Node
    users: tuple[fx.Node, ...]
    reason: str


@dataclass(frozen=True)
class Stream:
    """A residual stream: its tensors, each with its channel axis counted from the end, who reads and who writes it."""

    channels: int
    axes: dict[fx.Node, int]
    readers: tuple[Reader, ...]
    writers: tuple[Writer, ...]
    barriers: tuple[Barrier, ...]

"""Questions that rewrites ask a captured graph; nothing is changed, and no model is known by its name."""

from vitq.graph.queries.affine import AffineNorm, Refused, affine_norms
from vitq.graph.queries.consumers import Consumer, consumers_at
from vitq.graph.queries.heads import HeadPair, Rows, query_key, value_path
from vitq.graph.queries.norms import NormConsumers, norm_consumers
from vitq.graph.queries.ports import Barrier, Port, Reader, Stream, Writer
from vitq.graph.queries.sources import Kind, Source, source_of
from vitq.graph.queries.stream import residual_stream, residual_streams

__all__ = [
    "AffineNorm",
    "Barrier",
    "Consumer",
    "HeadPair",
    "Kind",
    "NormConsumers",
    "Port",
    "Reader",
    "Refused",
    "Rows",
    "Source",
    "Stream",
    "Writer",
    "affine_norms",
    "consumers_at",
    "norm_consumers",
    "query_key",
    "residual_stream",
    "residual_streams",
    "source_of",
    "value_path",
]

"""Capture a model as one flat graph; its cuts, segments, granularities and sites."""

from vitq.graph.graph import Graph, capture
from vitq.graph.sites import Role, Site
from vitq.graph.span import Span

__all__ = ["Graph", "Role", "Site", "Span", "capture"]

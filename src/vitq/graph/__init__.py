"""Capture a model as one flat graph; its cuts, segments, granularities and sites."""

from vitq.graph.granularity import Span
from vitq.graph.graph import Graph, capture
from vitq.graph.sites import Role, Site

__all__ = ["Graph", "Role", "Site", "Span", "capture"]

"""Biases take the mean error of a layer's output off, where images that were not averaged over confirm it."""

import pytest
import torch
from torch import nn

from vitq.bits import Bits
from vitq.calibrate import Calibrate, CorrectBiases, Insert
from vitq.graph import Graph, capture
from vitq.run.run import Run

X = 1 + 0.5 * torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def graph(small: nn.Module) -> Graph:
    small.fc.bias = None  # the graph has to make one
    return capture(small, X[:2])


def run_on(graph: Graph, x_NCHW: torch.Tensor) -> Run:
    run = Run(graph, graph.clone(), x_NCHW, Bits.parse("w2a8"))
    Insert().apply(run)
    Calibrate(images=16, weights="mse", activations="mse").apply(run)
    return run


def mean_errors(run: Run) -> dict[str, float]:
    """Return the mean error of each layer's output, given what the original gives it, over all images."""
    found = {}
    for name, layer in (("patch", "patch"), ("fc", "fc"), ("head", "head")):
        site = run.student.sites[f"{layer}/input"]
        (op,) = site.consumers
        wanted = run.teacher.segment(run.teacher.cuts[0], op)(run.images_NCHW)
        x = run.teacher.segment(run.teacher.cuts[0], site.node)(run.images_NCHW) if layer != "patch" else None
        part = run.student.segment(site.node, op) if x is not None else run.student.segment(run.student.cuts[0], op)
        got = part(run.images_NCHW if x is None else x)
        error = (got - wanted).movedim(1 if layer == "patch" else -1, -1).flatten(0, -2).mean(0)
        found[name] = float(error.abs().max())
    return found


@torch.no_grad()
def test_the_mean_error_of_each_layer_vanishes_and_the_model_comes_nearer(graph: Graph) -> None:
    run = run_on(graph, X)
    exact, before = run.teacher(X), run.student(X)
    errors = mean_errors(run)
    CorrectBiases(images=16, held_out=0.1).apply(run)
    after = mean_errors(run)
    assert errors["patch"] > 0.05 and after["patch"] < 0.1 * errors["patch"]
    assert all(after[name] <= errors[name] for name in errors)
    assert float((run.student(X) - exact).square().mean()) < float((before - exact).square().mean())


@torch.no_grad()
def test_a_layer_that_held_out_images_do_not_see_improve_stays(graph: Graph) -> None:
    run = run_on(graph, torch.cat((X[:12], -X[12:])))
    before = {name: tensor.clone() for name, tensor in run.student.module.named_parameters()}
    CorrectBiases(images=16).apply(run)
    assert torch.equal(dict(run.student.module.named_parameters())["patch.bias"], before["patch.bias"])

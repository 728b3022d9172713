"""Closed-form scores against the output itself; output search against tensor search."""

import pytest
import torch

from vitq.calibrate.candidates import Candidates, SearchSpec
from vitq.calibrate.output_search import MOVES, product_score, weight_score
from vitq.calibrate.samples import samples_of
from vitq.calibrate.searches import clip_grid, local_search, mse
from vitq.quantizers import Format, Granularity

CHANNEL = SearchSpec(Format("affine", 3, Granularity.CHANNEL))
TENSOR = SearchSpec(Format("affine", 3))


def correlated(n: int, i: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(i, i, generator=generator) / i**0.5
    return torch.randn(n, i, generator=generator) @ basis * torch.linspace(0.1, 4, i)


def candidates(spec: SearchSpec, x: torch.Tensor, axis: int | None) -> Candidates:
    rows = samples_of(x, axis)
    return clip_grid(spec, rows.low_G, rows.high_G).part(0, 12)


@pytest.mark.parametrize("per_tensor", [False, True])
def test_weight_score_is_the_output_error_up_to_a_constant(per_tensor: bool) -> None:
    x, w = correlated(400, 20), correlated(7, 20, seed=1)
    quantized = x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(3))
    spec, axis = (TENSOR, None) if per_tensor else (CHANNEL, 0)
    grid = candidates(spec, w, axis)
    found = weight_score(spec, w, quantized, x)(grid)
    for k in range(len(grid)):
        parameters = grid.part(k, k + 1).shaped(*((-1, 1) if axis == 0 else ()))
        error_NO = quantized @ spec.simulate(w, parameters).T - x @ w.T
        error_O = error_NO.square().sum(0) - ((quantized - x) @ w.T).square().sum(0)
        expected = error_O.sum()[None] if per_tensor else error_O
        torch.testing.assert_close(found[k], expected, rtol=2e-3, atol=2e-2)


@pytest.mark.parametrize(("inner", "outer"), [(12, 30), (30, 12)])
@pytest.mark.parametrize("axis", [None, -3])
def test_product_score_is_the_output_error_up_to_a_constant(inner: int, outer: int, axis: int | None) -> None:
    x = correlated(2 * 3 * 40, inner).reshape(2, 3, 40, inner)
    y = correlated(2 * 3 * inner, outer, seed=1).reshape(2, 3, inner, outer)
    quantized = y + 0.1 * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    spec = TENSOR if axis is None else SearchSpec(Format("affine", 3, Granularity.HEAD))
    grid = candidates(spec, x, axis)
    score = product_score(spec, x, axis, y, quantized)(grid)
    expected = []
    for k in range(len(grid)):
        error = spec.simulate(x, grid.part(k, k + 1).shaped(*((3, 1, 1) if axis else ()))) @ quantized - x @ y
        expected.append(error.square().sum((0, 2, 3)) if axis else error.square().sum()[None])
    truth = torch.stack(expected)
    slack = float(truth.max()) * 1e-4
    torch.testing.assert_close(score - score[:1], truth - truth[:1], rtol=2e-3, atol=slack)


def test_local_search_never_ends_worse_and_beats_tensor_search_on_the_output() -> None:
    x, w = correlated(500, 24), correlated(16, 24, seed=1)
    start = mse(CHANNEL, samples_of(w, 0))
    score = weight_score(CHANNEL, w, x, x)
    found = local_search(CHANNEL, start, score, MOVES)
    assert (score(found) <= score(start)).all()
    assert float(score(found).sum()) < 0.9 * float(score(start).sum())


@pytest.mark.parametrize(("name", "symmetric"), [("affine", True), ("log2", False), ("log_sqrt2", False)])
def test_one_sided_formats_are_searched_too(name: str, symmetric: bool) -> None:
    spec = SearchSpec(Format(name, 4, symmetric=symmetric))
    x = torch.softmax(correlated(64, 32) * 2, -1)
    score = product_score(spec, x, None, torch.eye(32), torch.eye(32))
    start = spec.candidates(-x.max()[None, None], x.max()[None, None])
    assert float(score(local_search(spec, start, score, MOVES))) <= float(score(start))

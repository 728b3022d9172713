"""The one pass of images: chunks change nothing, and only what is needed is alive."""

import weakref
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from vitq.activations import first_output, forward_all, forward_many, sites_by_segment, walk
from vitq.graph import capture

CPU = torch.device("cpu")


def windows(x_N: torch.Tensor) -> torch.Tensor:
    """Return two rows per image."""
    return x_N.repeat_interleave(2, 0).mul(3)


@pytest.mark.parametrize("images", [1, 5, 16, 21])
def test_results_of_chunks_follow_each_other(images: int) -> None:
    x_NC, table = torch.randn(images, 3), torch.randn(7, 2)
    sizes: list[int] = []

    def look(chunk: torch.Tensor) -> tuple[torch.Tensor, ...]:
        sizes.append(len(chunk))
        return chunk.double(), windows(chunk), table, table[:1]

    own, doubled, whole, row = forward_many(look, x_NC, CPU, chunk=5)
    assert max(sizes) <= 5 and sum(sizes) == images
    assert torch.equal(own, x_NC.double()) and torch.equal(doubled, windows(x_NC))
    assert torch.equal(whole, table.repeat(len(sizes), 1)) and torch.equal(row, table[:1].repeat(len(sizes), 1))


def test_activations_are_cached_in_the_type_of_the_images_and_computed_in_float32() -> None:
    seen: list[torch.dtype] = []

    def look(chunk: torch.Tensor) -> torch.Tensor:
        seen.append(chunk.dtype)
        return chunk * 2

    assert forward_all(look, torch.ones(3, 2, dtype=torch.bfloat16), CPU).dtype is torch.bfloat16
    assert seen == [torch.float32]


def test_what_a_pass_gives_shares_no_memory_with_what_it_was_given() -> None:
    x_NC = torch.ones(3, 2)
    forward_all(nn.Identity(), x_NC, CPU).zero_()
    assert bool((x_NC == 1).all())


def test_no_more_than_one_chunk_of_results_is_alive_beside_the_whole() -> None:
    alive: list[int] = []
    results: list[weakref.ref[torch.Tensor]] = []

    def look(chunk: torch.Tensor) -> torch.Tensor:
        alive.append(sum(result() is not None for result in results))
        y = chunk + 1
        results.append(weakref.ref(y))
        return y

    forward_all(look, torch.ones(64, 2), CPU)
    assert alive == [0] * len(alive) and len(alive) == 4


def test_the_first_output_is_a_module_s_end() -> None:
    class Tapped(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x + 1, x

    assert first_output(Tapped())(torch.zeros(1)) == 1 and first_output(nn.Identity())(torch.zeros(1)) == 0


def test_a_walk_sees_what_the_whole_model_computes(tiny: Callable[..., nn.Module]) -> None:
    x_NCHW = torch.randn(18, 3, 32, 32)
    vit = capture(tiny("vit"), x_NCHW[:2])
    first, last = vit.cuts[0], vit.cuts[-1]
    segments = sites_by_segment(vit, lambda site: True)
    names = [site.name for segment in segments for site in segment.sites if site.node != first]
    nodes = [vit.sites[name].node for name in names]
    whole = dict(zip(nodes, vit.segment(first, last, nodes)(x_NCHW)[1:], strict=True))
    seen: list[dict[str, torch.Tensor]] = []
    for _, tensors in walk(vit, x_NCHW, segments, CPU):
        for name in tensors.keys() & set(names):
            assert torch.allclose(tensors[name], whole[vit.sites[name].node], atol=1e-5), name
        seen.append(tensors)  # type: ignore[arg-type]
        assert all(not before for before in seen[:-1])  # forgotten when the next is asked for
    assert len(seen) == len(segments) and sum(map(len, seen)) == 0
    ends = [segment.span for segment in segments]
    assert all(here.end == there.start for here, there in pairwise(ends))

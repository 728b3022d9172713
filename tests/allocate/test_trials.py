"""Trials: what they measure, what they do not compute, and how they go on."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vitq.allocate.distance import OutputDistance
from vitq.allocate.simulation import Simulation
from vitq.allocate.trials import Trials, Whole, run_trials
from vitq.errors import AllocationError
from vitq.graph import Graph, capture
from vitq.quantizers import Format, Quantizer, make_quantizer
from vitq.run.checkpoints import Checkpoints
from vitq.run.events import Events
from vitq.tasks import Classes, Values

SITES = ("qkv/input", "qkv/weight", "proj/input", "fc/weight", "head/input", "head/weight")
BITS = (2, 8)
CLASSES = Classes("logits")


def quantizer(graph: Graph, site: str, bits: int) -> Quantizer:
    made = make_quantizer(Format("affine", bits))
    made.site = site
    scale = 3.0 if not graph.sites[site].is_weight else 0.8
    made.set_parameters(scale=torch.tensor(2 * scale / (2**bits - 1)), zero_point=torch.tensor(2.0 ** (bits - 1)))
    return made


@pytest.fixture
def graph(attend: nn.Module) -> Graph:
    return capture(attend, torch.randn(2, 3, 8, 8))


@pytest.fixture
def simulation(graph: Graph) -> Simulation:
    student = graph.clone()
    student.insert({site: quantizer(graph, site, 8) for site in SITES})
    library: Mapping[int, Mapping[str, nn.Module]] = {
        bits: {site: quantizer(graph, site, bits) for site in SITES} for bits in BITS
    }
    return Simulation(student, library, torch.device("cpu"))


def trials(
    simulation: Simulation,
    images: torch.Tensor,
    checkpoints: Checkpoints | None = None,
    proxy_only: bool = False,
    allowed: Mapping[str, Sequence[int]] | None = None,
) -> Trials:
    return run_trials(
        simulation,
        SITES,
        BITS,
        images,
        CLASSES,
        proxy_only=proxy_only,
        seed=0,
        checkpoints=checkpoints or Checkpoints(),
        events=Events(),
        allowed=allowed,
    )


def test_each_site_is_measured_alone_as_in_a_graph_with_its_quantizer(
    graph: Graph, simulation: Simulation, images: torch.Tensor
) -> None:
    found = trials(simulation, images).measures
    reference = graph(images)
    distance = OutputDistance(CLASSES, {"logits": reference})
    whole = graph.segment(graph.cuts[0], graph.cuts[-1], (graph.feature,))
    feature = whole(images)[1]
    for place, site in enumerate(SITES):
        alone = graph.clone()
        alone.insert({site: quantizer(graph, site, 2)})
        outputs, moved = alone.segment(graph.cuts[0], graph.cuts[-1], (graph.feature,))(images)
        assert found["output"][place, 0] == pytest.approx(distance({"logits": outputs}), rel=1e-3), site
        error = float((moved - feature).square().sum() / feature.square().sum())
        if site.startswith("head/"):  # behind the feature: the outputs' error stands for it
            error = float((outputs - reference).square().sum() / reference.square().sum())
        assert found["feature"][place, 0] == pytest.approx(error, rel=1e-3), site
    assert (found["output"][:, 1] < found["output"][:, 0]).all()


def test_the_proxy_is_the_distance_of_small_errors(simulation: Simulation, images: torch.Tensor) -> None:
    many = images.repeat(100, 1, 1, 1)
    found = trials(simulation, many).measures
    assert np.allclose(found["proxy"][:, 1] / found["output"][:, 1], 1.0, atol=0.35)
    quick = trials(simulation, many, proxy_only=True).measures
    assert set(quick) == {"proxy"} and np.allclose(quick["proxy"], found["proxy"])


def test_what_comes_before_a_site_is_not_computed_again(simulation: Simulation, images: torch.Tensor) -> None:
    runs: dict[str, int] = dict.fromkeys(SITES, 0)
    for site in SITES:

        def count(*_: object, site: str = site) -> None:
            runs[site] += 1

        simulation.switches[site].register_forward_hook(count)
    run_trials(
        simulation,
        ("head/weight",),
        BITS,
        images,
        CLASSES,
        proxy_only=False,
        seed=0,
        checkpoints=Checkpoints(),
        events=Events(),
    )
    assert runs["head/weight"] == runs["qkv/input"] + 1 + len(BITS)  # once more in floating point, and the trials


def test_bits_that_a_site_may_not_get_are_not_measured(
    simulation: Simulation, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    every, tried = trials(simulation, images), []
    switch = simulation.set
    monkeypatch.setattr(simulation, "set", lambda bits: (tried.append(dict(bits)), switch(bits)))
    found = trials(simulation, images, allowed={"fc/weight": (8,)})
    assert {"fc/weight": 8} in tried and {"fc/weight": 2} not in tried and {"qkv/weight": 2} in tried
    place = SITES.index("fc/weight")
    for name, values in found.measures.items():
        known = np.isfinite(values)
        assert not known[place, 0] and known.sum() == known.size - 1
        assert np.array_equal(values[known], every.measures[name][known])
    assert np.isfinite(found.probes_SBD).all()


class KilledError(Exception):
    """Ends a run in its middle."""


def test_a_killed_run_goes_on_where_it_was(
    simulation: Simulation, images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trials(simulation, images)
    save = Checkpoints.save
    left = [3]

    def dying(self: Checkpoints, key: str, tensors: Mapping[str, torch.Tensor], facts: None = None) -> None:
        save(self, key, tensors, facts)
        left[0] -= 1
        if left[0] == 0:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", dying)
        with pytest.raises(KilledError):
            trials(simulation, images, Checkpoints(tmp_path, {"a": 1}))
    saved: list[str] = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, key, *rest: (saved.append(key), save(self, key, *rest))[1])
    again = trials(simulation, images, Checkpoints(tmp_path, {"a": 1}, resume=True))
    assert tuple(saved) == SITES[3:]
    assert np.array_equal(again.probes_SBD, whole.probes_SBD)
    assert all(np.array_equal(again.measures[name], whole.measures[name]) for name in whole.measures)


def test_a_whole_choice_is_measured_with_all_its_quantizers(
    graph: Graph, simulation: Simulation, images: torch.Tensor
) -> None:
    bits = {site: BITS[place % 2] for place, site in enumerate(SITES)}
    student = graph.clone()
    student.insert({site: quantizer(graph, site, width) for site, width in bits.items()})
    expected = OutputDistance(CLASSES, {"logits": graph(images)})({"logits": student(images)})
    assert Whole.on(simulation, images, CLASSES)(bits) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("shape", [(4, 1), (4, 3, 2, 2)])
def test_outputs_that_are_no_logits_have_their_relative_error(shape: tuple[int, ...]) -> None:
    reference = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    task = CLASSES if len(shape) == 2 else Values("logits")
    distance = OutputDistance(task, {"logits": reference})
    assert distance({"logits": reference}) == distance({}) == 0
    assert distance({"logits": 1.1 * reference}) == pytest.approx(0.01, rel=1e-3)
    assert distance({"logits": reference / 0}) == float("inf")
    generator = torch.Generator().manual_seed(0)
    error = 0.01 * torch.randn(shape, generator=generator)
    squares = []
    for _ in range(400):
        x = reference.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(distance.probe({"logits": x}, slice(None), generator), x)
        squares.append((gradient * error).flatten(1).sum(1).square().mean())
    assert torch.stack(squares).mean() == pytest.approx(distance({"logits": reference + error}), rel=0.25)


class TwoHeads(nn.Module):
    """Logits, and the block's mean beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.fc, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8), nn.Linear(8, 5)
        self.beside = nn.Linear(8, 2)

    def forward(self, x_BCHW: torch.Tensor) -> dict[str, torch.Tensor]:
        x_BTC = self.patch(x_BCHW).flatten(2).transpose(1, 2)
        x_BC = self.fc(x_BTC).relu().mean(1)
        return {"logits": self.head(x_BC), "place": self.beside(x_BC)}


def test_every_output_counts(images: torch.Tensor) -> None:
    torch.manual_seed(3)
    graph = capture(TwoHeads(), torch.randn(2, 3, 8, 8))
    sites = ("fc/weight", "head/weight", "beside/weight")
    student = graph.clone()
    student.insert({site: quantizer(graph, site, 8) for site in sites})
    library = {bits: {site: quantizer(graph, site, bits) for site in sites} for bits in BITS}
    own = Simulation(student, library, torch.device("cpu"))
    events, checkpoints = Events(), Checkpoints()
    found = run_trials(
        own, sites, BITS, images, CLASSES, proxy_only=False, seed=0, checkpoints=checkpoints, events=events
    )
    assert "proxy" not in found.measures
    with pytest.raises(AllocationError, match="'place' branches off"):
        run_trials(own, sites, BITS, images, CLASSES, proxy_only=True, seed=0, checkpoints=checkpoints, events=events)
    distance = OutputDistance(CLASSES, graph(images))
    for place, site in enumerate(sites):
        alone = graph.clone()
        alone.insert({site: quantizer(graph, site, 2)})
        assert found.measures["output"][place, 0] == pytest.approx(distance(alone(images)), rel=1e-3), site
        assert found.measures["output"][place, 0] > 0
        assert Whole.on(own, images, CLASSES)({site: 2}) == pytest.approx(distance(alone(images)), rel=1e-3)

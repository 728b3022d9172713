"""Step ``relu_mlp``: let MLPs have a ReLU where they have a GELU, and learn their two linears anew.

The MLP with a ReLU learns what the one with a GELU gives, on the inputs that the model in floating point has there:
    L = |f(x) - y|² + clipped |f'(x) - y|²,  f' with hidden values cut off at a quantile of the true positive ones.
Sources: APHQ-ViT (arXiv 2504.02508), without its weights of errors, and GLF-Q. That the second linear starts from the
least squares solution, so that few steps are enough, and that held-out images decide, are vitq's choices.
"""

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import fx

from vitq.activations import forward_all, sites_by_segment, walk
from vitq.errors import RecipeError
from vitq.graph import Graph
from vitq.graph.edit import finish, insert_call, replace
from vitq.graph.ops import aten
from vitq.graph.parameters import parameter_node
from vitq.graph.queries.mlps import Mlp, mlps
from vitq.reconstruct.data import count_held_out
from vitq.reconstruct.relu_fit import Rows, error, quantile_of_positive, solved, trained
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run

Saved = tuple[dict[str, torch.Tensor], dict[str, Any]]

SEEN = 8
"""Images whose hidden values the quantile is taken of."""


@register_step("relu_mlp")
class ReluMlp(Step):
    """Replace the GELUs of the student's MLPs by ReLUs; run it before ``insert``.

    Each MLP takes ``steps`` of ``tokens`` rows each; ``rate`` is Adam's first rate. ``clip`` is the quantile and
    ``clipped`` the weight of the loss's second part. On ``held_out`` images, at most a fifth, the better of least
    squares and training is kept. A GELU stays where no ReLU has an error of at most ``largest_error`` of the energy.
    """

    images: int = Field(1024, ge=1)
    steps: int = Field(200, ge=0)
    tokens: int = Field(2048, ge=1)
    rate: float = Field(1e-3, gt=0)
    clip: float = Field(0.99, gt=0, le=1)
    clipped: float = Field(2.0, ge=0)
    held_out: int = Field(64, ge=1)
    largest_error: float = Field(1.0, gt=0)

    def apply(self, run: "Run") -> None:
        """Change ``run.student``; RecipeError behind ``insert``. What is no such MLP is logged with the reason."""
        graph = run.student
        if graph.quantizers:
            raise RecipeError("relu_mlp learns in floating point: put it before 'insert'")
        found, refused = mlps(graph)
        for name, reason in refused.items():
            run.events.log("relu_mlp-skipped", layer=name, reason=reason)
        saved = run.restore(run.stage)
        if saved is None:
            saved = self._learnt(run, found)
            run.save(run.stage, *saved)
        for mlp in [mlp for mlp in found if saved[1][mlp.name]["kept"]]:
            for part, tensor in _weights(graph, mlp).items():
                tensor.copy_(saved[0][f"{mlp.name}, {part}"])
            _straighten(graph, mlp)
        finish(graph.module)
        graph.refresh()
        run.events.log("relu_mlp", layers=saved[1])

    def _learnt(self, run: "Run", found: tuple[Mlp, ...]) -> Saved:
        """Return the weights of every MLP that gets a ReLU, and errors by layer."""
        graph, images = run.student, run.images_NCHW[: self.images]
        held_out = count_held_out(len(images), self.held_out)
        if found and held_out == 0:
            raise RecipeError("relu_mlp judges layers on held-out images: give at least 5 calibration images")
        sources = {_source(mlp) for mlp in found}
        names = {site.name: site.node for site in graph.sites.values() if site.node in sources and not site.is_weight}
        tensors, facts = dict[str, torch.Tensor](), dict[str, Any]()
        with run.events.task("relu_mlp", total=len(found)) as task:
            for _, seen in walk(graph, images, sites_by_segment(graph, lambda s: s.name in names), run.device):
                for mlp, x_N in [(m, x_N) for name, x_N in seen.items() for m in found if _source(m) == names[name]]:
                    learnt, facts[mlp.name] = self._fit(run, mlp, x_N, len(x_N) * held_out // len(images))
                    if facts[mlp.name]["kept"]:
                        tensors |= {f"{mlp.name}, {part}": tensor for part, tensor in learnt.items()}
                    task.advance(layer=mlp.name, **facts[mlp.name])
        return tensors, facts

    def _fit(
        self, run: "Run", mlp: Mlp, x_N: torch.Tensor, held_out: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Return the better weights on the last ``held_out`` rows of ``x_N``, and what was measured."""
        start = _source(mlp)
        y_N = forward_all(run.student.segment(start, mlp.second.name), x_N, run.device)
        gelu_N = forward_all(run.student.segment(start, mlp.activation.name), x_N[:SEEN], run.device)
        rows, held = (
            Rows(x.flatten(0, -2), y.flatten(0, -2))
            for x, y in zip(*(t.tensor_split([len(t) - held_out]) for t in (x_N, y_N)), strict=True)
        )
        weights = _weights(run.student, mlp)
        options = {"steps": self.steps, "tokens": self.tokens, "rate": self.rate, "clipped": self.clipped}
        first = solved(weights, rows)
        second = trained(
            first,
            rows,
            **options,  # type: ignore[arg-type]
            clip=quantile_of_positive(gelu_N, self.clip),
            generator=run.generator(run.stage, mlp.name),
        )
        errors = [error(tensors, held) for tensors in (weights, first, second)]
        better = second if errors[2] <= errors[1] else first
        after = min(errors[1:])
        facts = {"before": errors[0], "solved": errors[1], "after": after, "kept": after <= self.largest_error}
        return better, facts


def _source(mlp: Mlp) -> str:
    """Return the node of what an MLP reads."""
    node = mlp.first.args[0]
    assert isinstance(node, fx.Node)
    return node.name


def _weights(graph: Graph, mlp: Mlp) -> dict[str, torch.Tensor]:
    """Return weights and biases of both linears, as they are stored."""
    places = [
        (f"{name} {part}", linear, place)
        for name, linear in (("first", mlp.first), ("second", mlp.second))
        for part, place in (("weight", 1), ("bias", 2))
    ]
    nodes = {name: parameter_node(linear, place) for name, linear, place in places}
    return {name: graph.parameter(node.name)[1] for name, node in nodes.items() if node is not None}


def _straighten(graph: Graph, mlp: Mlp) -> None:
    """Put a ReLU in the place, and under the name, of the activation function."""
    relu = insert_call(graph.module, aten.relu.default, (mlp.hidden,), before=mlp.activation)
    replace(graph.module, mlp.activation, relu)
    graph.module.graph.eliminate_dead_code()

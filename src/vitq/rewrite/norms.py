"""What rewrites of norms have in common: norms that may change, seen on images, and a reason for every other."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from vitq.activations import sites_by_segment, walk
from vitq.errors import GraphError
from vitq.graph import Graph, Site
from vitq.graph.ops import CONV, is_op
from vitq.graph.queries import AffineNorm, Consumer, Refused, affine_norms
from vitq.quantizers.tokens import others
from vitq.rewrite.affine import transform
from vitq.rewrite.operands import Layer, Plan, layer

if TYPE_CHECKING:
    from vitq.run.run import Run


@dataclass(frozen=True)
class Change:
    """What a norm gives instead of x: (x - offset) / ratio; ``facts`` say in the log why."""

    ratio_C: torch.Tensor
    offset_C: torch.Tensor | None
    facts: Any = None


@dataclass(frozen=True)
class Seen:
    """Layers that read one tensor, thinned for a search, and least, greatest and largest values per channel."""

    layers: tuple[Layer, ...]
    low_C: torch.Tensor
    high_C: torch.Tensor
    weight_C: torch.Tensor

    @property
    def peak_C(self) -> torch.Tensor:
        """Largest absolute value per channel."""
        return torch.maximum(-self.low_C, self.high_C)

    @property
    def finite(self) -> bool:
        """Whether there is neither NaN nor infinity among the values, which ``calibrate`` refuses by name."""
        return bool(torch.isfinite(self.low_C + self.high_C + self.weight_C).all())


def require_floating(graph: Graph, step: str) -> None:
    """Raise GraphError where something is quantized already: its calibration would not fit what a rewrite makes."""
    if graph.quantizers:
        raise GraphError(f"{step} changes what is quantized: put it before 'insert' in the recipe")


def find_norms(run: "Run") -> tuple[AffineNorm, ...]:
    """Return the norms that may change their scale.

    A warning names each other one that a product reads and says why it may not; those that none reads are logged.
    """
    found = list[AffineNorm]()
    for norm in affine_norms(run.student):
        if isinstance(norm, AffineNorm):
            found.append(norm)
        else:
            warn(run, norm)
    return tuple(found)


def warn(run: "Run", norm: AffineNorm | Refused) -> None:
    """Say why a norm stays as it is, or why it is scaled without a shift."""
    if isinstance(norm, Refused) and not norm.read:
        run.events.log("rewrite-skipped", norm=norm.name, reason=norm.reason)
    elif isinstance(norm, Refused):
        run.events.warn("rewrite-skipped", f"norm '{norm.name}' stays as it is: {norm.reason}")
    else:
        run.events.warn("shift-skipped", f"norm '{norm.name}' is scaled without a shift: {norm.no_shift}")


def apply_to_norms(run: "Run", step: str, images: int, choose: Callable[[AffineNorm, Seen], Change | None]) -> None:
    """Change every norm as ``choose`` says, or as an interrupted run had chosen, which is kept whole."""
    require_floating(run.student, step)
    saved, norms = run.restore(run.stage), find_norms(run)
    if saved is None:
        known = dict[str, Change]()
        norm_of = {norm.consumers: norm for norm in norms}
        for consumers, seen in watch(run, Plan(run), norm_of, images):
            change = choose(norm_of[consumers], seen) if seen.finite else None
            if change is not None:
                known[norm_of[consumers].name] = change
        run.save(run.stage, _tensors(known), {"norms": {name: change.facts for name, change in known.items()}})
    else:
        known = _changes(*saved)
    for norm in norms:
        if norm.name in known:
            transform(run.student, norm, known[norm.name].ratio_C, known[norm.name].offset_C)
    run.events.log(step, norms={name: change.facts for name, change in known.items()}, resumed=saved is not None)


def watch(
    run: "Run", plan: Plan, readers: Iterable[tuple[Consumer, ...]], images: int, *, ordinary: bool = False
) -> Iterator[tuple[tuple[Consumer, ...], Seen]]:
    """Yield every group of consumers of one tensor with what they read on the first ``images`` calibration images.

    ``ordinary`` leaves out the tokens that the steps ahead give parameters of their own.
    """
    graph = run.student
    names = {consumers: [_site(graph, consumer).name for consumer in consumers] for consumers in readers}
    tapped = {name for group in names.values() for name in group}
    segments = sites_by_segment(graph, lambda site: site.name in tapped)
    for _, tensors in walk(graph, run.images_NCHW[:images], segments, run.device):
        for consumers, own in names.items():
            if all(name in tensors for name in own):
                seen = [tensors[name] for name in own]
                if ordinary:
                    seen = [_ordinary(run, plan, *each) for each in zip(consumers, seen, strict=True)]
                yield consumers, _seen(graph, plan, consumers, seen)


def _ordinary(run: "Run", plan: Plan, consumer: Consumer, x: torch.Tensor) -> torch.Tensor:
    operand = plan.activation(consumer.source.name)
    if operand is None or is_op(consumer.op, CONV):
        return x
    places = run.apart_ahead(_site(run.student, consumer), x, operand.axis)
    return others(x, torch.tensor(places, device=x.device)) if places else x


def _site(graph: Graph, consumer: Consumer) -> Site:
    return next(
        site
        for site in graph.sites.values()
        if site.node == consumer.source.name and consumer.op.name in site.consumers
    )


@torch.no_grad()
def _seen(graph: Graph, plan: Plan, consumers: tuple[Consumer, ...], tensors: list[torch.Tensor]) -> Seen:
    layers = tuple(layer(graph, plan, consumer, x) for consumer, x in zip(consumers, tensors, strict=True))
    values = [consumer.per_channel(x).aminmax(dim=0) for consumer, x in zip(consumers, tensors, strict=True)]
    low_C = torch.stack([low_C for low_C, _ in values]).amin(0)
    high_C = torch.stack([high_C for _, high_C in values]).amax(0)
    columns = [largest_columns(own.consumer, own.weight) for own in layers]
    return Seen(layers, low_C.double(), high_C.double(), torch.stack(columns).amax(0).double())


def largest_columns(consumer: Consumer, weight: torch.Tensor) -> torch.Tensor:
    """Return the largest absolute weight of each channel."""
    numbers_C = torch.arange(consumer.channels, device=weight.device)
    own = consumer.spread(numbers_C).expand_as(weight).flatten()
    return weight.new_zeros(consumer.channels).scatter_reduce(0, own, weight.abs().flatten(), "amax")


def _tensors(changes: Mapping[str, Change]) -> dict[str, torch.Tensor]:
    ratios = {f"{name}/ratio": change.ratio_C for name, change in changes.items()}
    offsets = {f"{name}/offset": change.offset_C for name, change in changes.items() if change.offset_C is not None}
    return {**ratios, **offsets}


def _changes(tensors: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> dict[str, Change]:
    return {
        name: Change(tensors[f"{name}/ratio"], tensors.get(f"{name}/offset"), why)
        for name, why in facts["norms"].items()
    }

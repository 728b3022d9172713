"""Step ``calibrate``: set the parameters of the student's quantizers from calibration images."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, Field

from vitq.activations import sites_by_segment, walk
from vitq.calibrate.assign import search_alone, search_output
from vitq.calibrate.groups import Group, find_groups
from vitq.calibrate.insert import quantizer_of
from vitq.calibrate.learnt_tokens import Places, keep_learnt_apart, learnt_tokens
from vitq.calibrate.member import Member, check_values, members_of
from vitq.calibrate.outliers import LEAST_IMAGES, Outlying, keep_apart, outlying, sentence
from vitq.calibrate.parameters import parameters, set_parameters
from vitq.calibrate.searches import BY_PRODUCT, HESSIAN, OUTPUT, SEARCHES
from vitq.calibrate.sensitivity import Sensitivity, sensitivities
from vitq.errors import CalibrationError, RecipeError, did_you_mean
from vitq.graph import Graph, Role, Site
from vitq.graph.fold import holds_image
from vitq.graph.ops import CONV, is_op
from vitq.run.step import Step, register_step

if TYPE_CHECKING:
    from vitq.run.run import Run


Search = Annotated[str, AfterValidator(SEARCHES.option)]
"""A name of ``SEARCHES``, "output" or "hessian"."""


@register_step("calibrate")
class Calibrate(Step):
    """Search scale and zero point of the student's quantizers.

    ``output`` starts from ``mse`` and lowers the error of the layer's output. ``hessian`` then does so again, with each
    output's error times its squared gradient. A few massive tokens of fixed places get a range of their own
    (``calibrate.outliers``), unless ``outlier_tokens`` is false; where there are none, so do ``learnt_tokens``
    (``calibrate.learnt_tokens``) at sites of the roles named.

    ``exponents``: per role the exponent of a value's error in searches by the tensor itself, 2 where none is given.

    ``images``: how many of the run's images, the first ones. ``rounds``: alternations of weights given activations and
    activations given weights. ``sites``: "all" or a glob. ``only_uncalibrated`` keeps earlier results.
    """

    unwritten: ClassVar = ("outlier_tokens", "learnt_tokens", "exponents")

    images: int = Field(default=64, ge=1)
    weights: Search = "output"
    activations: Search = "output"
    rounds: int = Field(default=2, ge=1)
    sites: str = "all"
    only_uncalibrated: bool = False
    outlier_tokens: bool = True
    learnt_tokens: tuple[Role, ...] = ()
    exponents: dict[Role, Annotated[float, Field(ge=1, le=8)]] = Field(default_factory=dict)

    def apart(self, site: Site, x: torch.Tensor, axis: int | None) -> tuple[int, ...]:
        """Return the massive tokens of fixed places."""
        found = outlying(site, x, axis) if self.outlier_tokens else None
        return found.tokens if found is not None and found.fixed else ()

    def apply(self, run: "Run") -> None:
        """Calibrate ``run.student``, or read back what an interrupted run had calibrated, which is kept whole.

        CalibrationError names a site whose calibration tensor is unusable.
        """
        saved = run.restore(run.stage)
        if saved is None:
            found = self._search(run)
            run.save(run.stage, parameters(run.student), {"outliers": found})
        else:
            set_parameters(run.student, saved[0], run.device)
            found = saved[1].get("outliers", [])
            run.events.log("calibrate", resumed=True)
        known = {one["site"] for one in found}
        run.outliers = [*(one for one in run.outliers if one["site"] not in known), *found]

    def _search(self, run: "Run") -> list[dict[str, Any]]:
        """Calibrate what is to be, and return the massive tokens that were found, as plain values."""
        if len(run.images_NCHW) == 0:
            raise CalibrationError("no calibration images: give a folder that holds some")
        remaining = self._chosen(run.student)
        weighed = {name for name in remaining if self._search_of(run.student.sites[name]) == HESSIAN}
        varying = {node.name for node in holds_image(run.student.module.graph)}
        massive: list[Outlying] = []
        learnt = self._learnt(run)
        with run.events.task("calibrate", total=len(remaining)) as task:
            for span, group, members in self._visited(run, remaining):
                own = [name for name in members if name in remaining]
                for name in own:
                    check_values(members[name], run.events, fixed=members[name].site.node not in varying)
                    if self.outlier_tokens and (one := _tokens_apart(members[name], group)) is not None:
                        massive.append(one)
                self._calibrate(group, members, own, learnt)
                remaining.difference_update(own)
                task.advance(len(own), segment=span)
        if weighed:
            self._weigh(run, weighed)
        for fixed in (True, False):
            if told := [one for one in massive if one.fixed is fixed]:
                run.events.warn("outlier-tokens", sentence(told))
        run.events.log("calibrate", **self.model_dump(mode="json"))
        return [one.to_dict() for one in massive]

    def _learnt(self, run: "Run") -> Places:
        """Return the places of learnt tokens, by the number of tokens, where some may have ranges of their own."""
        if not self.learnt_tokens or len(run.images_NCHW[: self.images]) < LEAST_IMAGES:
            return {}
        return learnt_tokens(run.student, run.images_NCHW[:1], run.device)

    def _weigh(self, run: "Run", chosen: set[str]) -> None:
        """Search the ``chosen`` sites, which are calibrated, by errors weighed with the gradients that they make."""
        found = sensitivities(
            run.student,
            run.teacher,
            run.task,
            run.images_NCHW[: self.images],
            _groups_of(run.student, chosen),
            run.device,
            lambda product: run.generator("calibrate", HESSIAN, product),
        )
        for _, group, members in self._visited(run, chosen):
            self._by_product(group, members, [name for name in members if name in chosen], found)

    def _visited(self, run: "Run", chosen: set[str]) -> Iterator[tuple[str, Group, dict[str, Member]]]:
        """Yield the groups with ``chosen`` sites, segment by segment; members are gone when the next is asked for."""
        graph = run.student
        groups = _groups_of(graph, chosen)
        tapped = {site.name for group in groups for site in group.inputs}
        segments = sites_by_segment(graph, lambda site: site.name in tapped)
        for segment, tensors in walk(graph, run.images_NCHW[: self.images], segments, run.device):
            for group in groups:
                if any(site.name in tensors for site in group.inputs):
                    members = members_of(graph, group, tensors, self.exponents)
                    yield segment.span.name, group, members
                    members.clear()

    def _chosen(self, graph: Graph) -> set[str]:
        """Return the names of the quantized sites to calibrate."""
        pattern = "*" if self.sites == "all" else self.sites
        named = [name for name in graph.quantizers if fnmatchcase(name, pattern)]
        if not named and graph.quantizers:
            hint = did_you_mean(pattern, graph.quantizers)
            raise RecipeError(f"calibrate.sites: no quantized site matches '{pattern}'{hint}")
        known = [(name, quantizer_of(graph, name)) for name in named]
        return {name for name, q in known if q is not None and not (self.only_uncalibrated and q.calibrated)}

    @torch.no_grad()
    def _calibrate(self, group: Group, members: Mapping[str, Member], own: Sequence[str], learnt: Places) -> None:
        """Calibrate the sites of ``group`` that are to be: ``own``."""
        for name in own:
            member = members[name]
            search = self._search_of(member.site)
            search = "mse" if search in BY_PRODUCT else search
            search_alone(member, search)
            if member.site.role in self.learnt_tokens:
                keep_learnt_apart(member, learnt, search)
        by_output = [name for name in own if self._search_of(members[name].site) == OUTPUT]
        self._by_product(group, members, by_output)

    @torch.no_grad()
    def _by_product(
        self,
        group: Group,
        members: Mapping[str, Member],
        names: Sequence[str],
        sensitive: Mapping[str, Sensitivity] | None = None,
    ) -> None:
        """Search the sites ``names`` by the output of ``group``, if all that it takes is there."""
        complete = len(members) == len(group.sites)
        ready = all(m.quantizer is None or m.quantizer.calibrated for m in members.values())
        if names and complete and ready:
            search_output(group, members, names, self.rounds, sensitive)

    def _search_of(self, site: Site) -> str:
        return self.weights if site.is_weight else self.activations


def _tokens_apart(member: Member, group: Group) -> Outlying | None:
    """Return the massive tokens of a site that is to be calibrated, which have a range of their own from here on.

    What a convolution reads has rows or channels where others have tokens.
    """
    quantizer = member.quantizer
    if member.site.is_weight or quantizer is None or quantizer.calibrated:
        return None
    if any(is_op(layer, CONV) for layer in group.layers):
        return None
    found = outlying(member.site, member.x, quantizer.axis)
    if found is not None:
        keep_apart(quantizer, found)
    return found


def _groups_of(graph: Graph, chosen: Collection[str]) -> list[Group]:
    """Return the groups that hold a ``chosen`` site."""
    return [group for group in find_groups(graph) if any(site.name in chosen for site in group.sites)]

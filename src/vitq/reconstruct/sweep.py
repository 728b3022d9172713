"""One pass over the segments of a schedule: what they share, and the reconstruction of each in turn."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vitq.activations import ActivationCache, StudentTeacher, first_output, forward_all, forward_outputs
from vitq.devices import cache_device
from vitq.errors import RecipeError
from vitq.graph.edit import set_attribute
from vitq.graph.outputs import Named, Outputs
from vitq.quantizers import compiling, use_compiled_kernels, worth_compiling
from vitq.reconstruct.data import Data, count_held_out, count_rows
from vitq.reconstruct.objective.curvature import NONE
from vitq.reconstruct.objective.fusion import Fusion
from vitq.reconstruct.objective.terms import DISTANCES, Goal
from vitq.reconstruct.options import Options
from vitq.reconstruct.segment import OUTPUTS, TrainingSegment, prepare
from vitq.reconstruct.slicing.schedule import Piece
from vitq.reconstruct.train import train
from vitq.reconstruct.views import Supply
from vitq.run.run import Run


@dataclass(frozen=True)
class Sweep:
    """What the segments of one pass share: options, cached activations, and the teacher's end of the model.

    ``goal`` names the node of the global term, or says that it is on the outputs; ``goals_N`` are the teacher's
    activations there, ``outputs_N`` its outputs by name; each is None where nothing needs it.
    """

    run: Run
    options: Options
    activations: ActivationCache
    goal: str
    goals_N: Goal | None
    outputs_N: Outputs | None

    def reconstruct(self, piece: Piece, steps: int, key: str) -> StudentTeacher | None:
        """Train a segment or read it back; return the activations at its end where they are known."""
        run, options, span = self.run, self.options, piece.span
        saved = run.restore(key)
        if saved is not None:
            for path, tensor in saved[0].items():
                set_attribute(run.student.module, path, tensor.to(run.device))
            run.events.log("segment", name=span.name, key=key, resumed=True, **saved[1])
            if options.compute.cache == "float32" or span.start != span.cut:
                return None
            here = self.activations.at(span.cut)
            return self.activations.between(span.cut, span.end, here)  # rounded where it was before
        here = self.activations.at(span.cut)
        if span.start != span.cut:
            here = self.activations.between(span.cut, span.start, here)
        objective = options.objective
        segment = prepare(run.student, run.teacher, span, self.goal, options.rates(), objective.local > 0, run.task)
        target, sides, layers = segment.targets(here.teacher_N, DISTANCES[objective.local_by].summary, run.device)
        if self.outputs_N is not None and (segment.to_outputs is None or len(target) != count_rows(self.outputs_N)):
            raise RecipeError(
                f"reconstruct.objective.curvature={objective.curvature} needs segments that end where one "
                f"activation is alive, with one row per image; '{span.name}' does not: choose schedule unit, block or "
                "coarser, or curvature none"
            )
        goals = self._goals(segment) if segment.supervision.reachable else None
        images = len(run.images_NCHW)
        held_out = count_held_out(images, options.evaluation.held_out) * len(target) // images
        x_student = here.student_N if options.inputs == "quantized" else here.teacher_N
        data = Data(x_student, here.teacher_N, target, goals, self.outputs_N, layers, len(target) - held_out, sides)
        fusion = Fusion(objective.terms(goals is not None, self._to_outputs()), objective.balance)
        settings, supply = options.settings(run.device, steps), self._supply(segment, data)
        outcome = train(segment, data, fusion, settings, run.device, run.generator(key), run.events, supply)
        facts = vars(outcome)
        run.save(key, segment.variables.snapshot(), facts)
        run.events.log("segment", name=span.name, key=key, **facts)
        if span.start != span.cut:
            return None
        if options.inputs == "floating":
            return StudentTeacher(target, target)
        return StudentTeacher(forward_all(first_output(segment.student), here.student_N, run.device), target)

    def _to_outputs(self) -> Named | None:
        """Return what leads from the feature to the outputs, where a term asks for it."""
        on_feature = self.goal != OUTPUTS and self.options.objective.ranking > 0
        return self.run.teacher.to_outputs(self.goal) if on_feature else None

    def _supply(self, segment: TrainingSegment, data: Data) -> Supply | None:
        """Return what draws views for ``segment``, whose own images are ``data``; None where none are to be drawn."""
        run, options, span = self.run, self.options, segment.span
        if not options.views.drawn:
            return None
        first, summary = run.teacher.cuts[0], DISTANCES[options.objective.local_by].summary

        def see(x_NCHW: torch.Tensor) -> Data:
            x_NCHW = x_NCHW.to(run.images_NCHW.device)
            cache = ActivationCache(run.student, run.teacher, x_NCHW, run.device)
            here = cache.between(first, span.start, cache.at(first)) if span.start != first else cache.at(first)
            target, sides, layers = segment.targets(here.teacher_N, summary, run.device)
            goal, suffix = data.goal, segment.supervision.suffix
            if goal is not None and isinstance(suffix, Named):
                goal = forward_outputs(suffix, target, run.device)
            elif goal is not None:
                start, x_N = (first, x_NCHW) if suffix is None else (span.end, target)
                goal = _teacher(run, start, self.goal, x_N)
            x_student = here.student_N if options.inputs == "quantized" else here.teacher_N
            return Data(x_student, here.teacher_N, target, goal, None, layers, len(target), sides)

        kept, images = [run.images_NCHW, data.x_student, data.x_teacher, data.target], len(run.images_NCHW)
        training = run.images_NCHW[: images - images * (len(data.target) - data.train) // len(data.target)]
        return Supply(training, options.views, see, sum(tensor.nbytes for tensor in kept) // images)

    def _goals(self, segment: TrainingSegment) -> Goal | None:
        """Return the teacher's end of the model as far as it follows from the segment's."""
        if self.goals_N is None or isinstance(self.goals_N, torch.Tensor):
            return self.goals_N
        assert segment.to_outputs is not None
        return {name: self.goals_N[name] for name in segment.to_outputs.names}


def sweep(run: Run, options: Options, pieces: Sequence[Piece]) -> None:
    """Reconstruct ``pieces`` in order, checkpointing each; finished ones of a resumed run are read back."""
    steps = options.steps_of(run.student, pieces)
    seen = len(run.images_NCHW) + options.steps * options.batch
    compiled = use_compiled_kernels(compiling() or worth_compiling(seen, run.images_NCHW.shape))
    shared = _begin(run, options)
    with compiled, run.events.task("reconstruct", len(pieces)) as task:
        for done, piece in enumerate(pieces):
            after = shared.reconstruct(piece, steps[piece.level], f"{run.stage}-{done:03d}-{piece.level}")
            shared.activations.evict(piece.span, after, {later.span.cut for later in pieces[done + 1 :]})
            task.advance()


def _begin(run: Run, options: Options) -> Sweep:
    """Run the teacher as far as the terms need it and put the images where they stay."""
    first, objective = run.teacher.cuts[0], options.objective
    on_outputs = objective.global_on == "outputs"
    goal = OUTPUTS if on_outputs else run.teacher.feature
    kept = run.images_NCHW.to(cache_device(run.device, run.images_NCHW.nbytes))
    images = kept.to(torch.bfloat16 if options.compute.cache == "bfloat16" else torch.float32)
    needs, weighs = objective.sees_end or options.evaluation.by == "end", objective.curvature != NONE
    if objective.ranking > 0 and not _ranks_images(run):
        raise RecipeError("reconstruct.objective.ranking orders the classes of an image, and this model has none")
    feature_N = _teacher(run, first, goal, kept) if needs and not on_outputs else None
    known, at = (first, kept) if feature_N is None else (goal, feature_N)
    outputs_N: Outputs | None = None
    if weighs or (needs and on_outputs):
        behind = run.teacher.to_outputs(known)
        if len(behind.names) < len(run.teacher.outputs):  # some lie before the feature
            behind, at = run.teacher.to_outputs(first), kept
        outputs_N = forward_outputs(behind, at, run.device)
    goals_N = outputs_N if needs and on_outputs else feature_N
    activations = ActivationCache(run.student, run.teacher, images, run.device)
    return Sweep(run, options, activations, goal, goals_N, outputs_N if weighs else None)


def _ranks_images(run: Run) -> bool:
    """Whether the model gives each image one row of logits; pixels and boxes have rows of their own."""
    shapes = run.teacher.output_shapes
    return (run.task.classes(shapes) or 0) > 1 and len(shapes.get(run.task.primary, ())) == 1


def _teacher(run: Run, start: str, end: str, x_N: torch.Tensor) -> torch.Tensor:
    """Return the teacher's activations at node ``end`` from those at ``start``."""
    return x_N if start == end else forward_all(run.teacher.segment(start, end), x_N, run.device)

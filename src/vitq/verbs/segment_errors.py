"""How far each block of a run's student is from its teacher's."""

import torch

from vitq.activations import forward_many
from vitq.reconstruct.data import count_held_out
from vitq.run.run import Run
from vitq.tasks.distances import relative_square


@torch.no_grad()
def segment_errors(run: Run, images: int = 64) -> dict[str, float]:
    """Return, per block, the relative squared error of the student's activations.

    They are of the last ``images`` calibration images, but at most of the fifth that is never trained on. Where the
    model returns something from inside a block, it is the mean over that and the block's end.
    """
    student = teacher = run.images_NCHW[-max(count_held_out(len(run.images_NCHW), images), 1) :]
    errors: dict[str, float] = {}
    for span in run.teacher.spans("block"):
        sides = run.teacher.sides(span.start, span.end)
        student, *mine = forward_many(run.student.segment(span.start, span.end, sides), student, run.device)
        teacher, *theirs = forward_many(run.teacher.segment(span.start, span.end, sides), teacher, run.device)
        pairs = zip((student, *mine), (teacher, *theirs), strict=True)
        errors[span.name] = sum(float(relative_square(*pair)) for pair in pairs) / (1 + len(sides))
    return errors

"""What the outputs of a model mean: how far two sets of them are apart, and what they score."""

from vitq.tasks.boxes import Boxes, SigmoidBoxes
from vitq.tasks.choose import name_of, task_for
from vitq.tasks.classes import Classes
from vitq.tasks.dense import Dense
from vitq.tasks.features import Features
from vitq.tasks.task import TASKS, Task, register_task
from vitq.tasks.values import Values

__all__ = [
    "TASKS",
    "Boxes",
    "Classes",
    "Dense",
    "Features",
    "SigmoidBoxes",
    "Task",
    "Values",
    "name_of",
    "register_task",
    "task_for",
]

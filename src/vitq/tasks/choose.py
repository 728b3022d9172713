"""Which task a model has."""

from vitq.errors import ModelError
from vitq.tasks.classes import Classes
from vitq.tasks.task import TASKS, Shapes, Task
from vitq.tasks.values import Values


def task_for(shapes: Shapes, name: str | None = None, found: str | None = None) -> Task:
    """Return the task that is called ``name``, else the first that fits: the one registered last from outside, then the
    one that was ``found`` by what the model is, then vitq's own.

    Raises ModelError where there is none of that name, or it does not fit the outputs.
    """
    if name is None:
        own = TASKS.built_in()
        outside = [task for key, task in TASKS.items() if key not in own]
        others = next(filter(None, (task.fit(shapes) for task in reversed(outside))), None)
        return others or (found and TASKS[found].fit(shapes)) or own_task(shapes)
    task = TASKS[name].fit(shapes)
    if task is None:
        shown = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise ModelError(f"task '{name}' does not fit a model that returns {shown} for each image")
    return task


def own_task(shapes: Shapes) -> Task:
    """Return the task that vitq itself takes these outputs for."""
    return Classes.fit(shapes) or Values.fit(shapes)


def name_of(task: Task) -> str:
    """Return the name under which a task is registered."""
    return next(name for name, kind in TASKS.items() if kind is type(task))

"""Public verbs that measure: accuracy, exported files side by side, and suites of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from vitq.arguments import MODEL, checked, leave_out
from vitq.artifact.sealing import is_artifact
from vitq.devices import choose_device
from vitq.errors import ArtifactError
from vitq.evaluation import Metrics, measure_loaded
from vitq.model import load
from vitq.models import LoadedModel, Preprocessing
from vitq.modes import in_own_modes
from vitq.run.events import Events
from vitq.run.inputs import load_source
from vitq.verbs.bench import bench_runs
from vitq.verbs.evaluate import evaluate_beside

if TYPE_CHECKING:
    from vitq.bench.bench import Measured
    from vitq.suites.compare import Comparison


@checked(target=MODEL)
@in_own_modes
def evaluate(
    target: str | Path | nn.Module | LoadedModel,
    images: Any,
    *,
    task: str | None = None,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    limit: int | None = None,
    batch_size: int = 32,
    integer: bool = False,
    baseline: bool | str | Path | nn.Module | LoadedModel = False,
    workers: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Metrics:
    """Return what an artifact folder or a floating-point model scores on labelled images, by its task.

    * ``task``: another task than the one that was found (docs/tasks.md).
    * ``integer``: run an artifact in integer arithmetic where that is possible, instead of simulating it.
    * ``baseline``: also measure the model that an artifact was made of, loaded by its name (with ``weights``) or given,
      and return ``vitq.evaluation.Beside``.
    * ``workers``: so many processes decode files, threads where it is 0; None takes processes for 2,000 images and
      more.

    Raises DataError for images or labels that cannot be used, ArtifactError for ``integer`` or ``baseline`` without an
    artifact.
    """
    place = choose_device(device)
    if isinstance(target, str | Path) and is_artifact(Path(target)):
        given = {"num_classes": num_classes, "preprocessing": preprocessing}
        leave_out(f"'{target}' is an artifact, which", given if baseline else {"weights": weights, **given})
        model = load(target, place)
        options: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "integer": integer, "task": task}
        options |= {"workers": workers, "progress": progress}
        if baseline:
            return evaluate_beside(model, baseline, images, weights=weights, **options)
        return model.evaluate(images, **options)
    if baseline:
        raise ArtifactError(f"{target} is no artifact, so it has no baseline; leave it out")
    if integer:
        raise ArtifactError(f"{target} is no artifact, so it has no integer codes to run; quantize it first")
    loaded = load_source(str(target) if isinstance(target, Path) else target, weights, num_classes, preprocessing, task)
    with Events(console=progress) as events:
        return measure_loaded(
            loaded,
            images,
            place,
            events,
            take_size=preprocessing is None,
            limit=limit,
            batch_size=batch_size,
            workers=workers,
        )


@checked()
@in_own_modes
def bench(
    runs: Any,
    images: Any,
    *,
    validation: Any = None,
    floating: str | nn.Module | LoadedModel | None = None,
    weights: str | Path | None = None,
    batch: int | Sequence[int] = (1, 16),
    threads: int = 1,
    rounds: int = 20,
    limit: int = 64,
    cpu: str = "any",
    baselines: bool = True,
    task: str | None = None,
    progress: bool = True,
) -> list["Measured"]:
    """Measure artifacts of one model as exported files, beside floating point and the runtimes' own int8.

    * ``runs``: folders of artifacts or quantized models, one, several, or by name.
    * ``images``: ``limit`` of them are run, and calibrate the ``baselines``, the runtimes' own int8.
    * ``validation``: labelled images, which add the score of the task (``task`` as in ``evaluate``).
    * ``floating`` (with ``weights``): the model that the first run was made of, as float32; by default that run's
      graph, not quantized.
    * ``batch``: batch sizes; ``rounds``: interleaved repetitions, whose medians are taken; ``threads``: of each model.
    * ``cpu``: as in ``QuantizedModel.export``.

    Raises ArtifactError for a folder that is no artifact, ExportError for a model that cannot be exported, another
    ``floating``, or a run that is named twice.
    """
    return bench_runs(
        runs,
        images,
        validation=validation,
        floating=floating,
        weights=weights,
        batches=(batch,) if isinstance(batch, int) else tuple(batch),
        threads=threads,
        rounds=rounds,
        limit=limit,
        cpu=cpu,
        baselines=baselines,
        task=task,
        progress=progress,
    )


@checked()
@in_own_modes
def compare(
    suite: str | Path,
    *,
    data: str | Path | None = None,
    store: str | Path = "runs/store",
    out: str | Path | None = None,
    only: str | None = None,
    jobs: int = 1,
    ray: str | None = None,
    threads: int | None = None,
    device: str = "auto",
    retries: int = 2,
    measure: bool = True,
    overwrite: bool = False,
    renew_golden: bool = False,
    progress: bool = True,
) -> "Comparison":
    """Measure a suite of models, recipes, bits, budgets and seeds, and write its leaderboard (docs/compare.md).

    * ``suite``: a file; ``data`` stands for the folder that it names.
    * ``store``: results that it has are not measured again, except with ``overwrite``. Without ``measure`` nothing is.
    * ``only``: cells whose name matches a glob or holds these words.
    * ``jobs``: cells at a time, each in a process of its own; 1 is this process.
    * ``ray``: the address of a cluster, or "local".
    * ``retries``: how often a cell is begun again whose worker dies.
    * ``renew_golden``: write the suite's golden scores.

    Raises SuiteError for a fault of the suite; cells that fail are named in the result.
    """
    from vitq.suites.compare import compare_suite

    with Events(console=progress) as events:
        return compare_suite(
            Path(suite),
            data=None if data is None else Path(data),
            store=Path(store),
            out=None if out is None else Path(out),
            only=only,
            jobs=jobs,
            ray=ray,
            threads=threads,
            device=device,
            retries=retries,
            measure=measure,
            overwrite=overwrite,
            renew_golden=renew_golden,
            events=events,
        )

"""A quantized model: run it, measure it, save it."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.markup import escape
from torch import nn

from vitq.arguments import FLAG, TEXT, checked, whole
from vitq.artifact.artifact import Artifact, read, write
from vitq.artifact.hub import fetch, is_hub_name, push
from vitq.artifact.metrics import RunMetrics
from vitq.artifact.schema import ArtifactConfig
from vitq.calibrate import ScopeRow, scope_rows
from vitq.data import draw_calibration, load_labelled, open_images, require_labels
from vitq.devices import choose_device
from vitq.errors import ArgumentError
from vitq.evaluation import Metrics, measure
from vitq.evidence import Evidence
from vitq.export.targets import OPSET, require_export
from vitq.graph import Graph
from vitq.integer import IntegerGraph, integer_graph
from vitq.models import LoadedModel, Preprocessing, settle
from vitq.modes import in_own_modes
from vitq.quantizers import Quantizer, use_compiled_kernels, worth_compiling
from vitq.report.card import model_card
from vitq.run.batch import Checked, image_shape, run_checked
from vitq.run.events import Events
from vitq.run.inputs import load_source

if TYPE_CHECKING:
    from vitq.export.export import Exported


class IntegerModel(Checked):
    """The integer executor of a model; ``operations`` names those that work on integers and those that do not."""

    def __init__(self, operations: IntegerGraph, shape: tuple[int, ...]) -> None:
        super().__init__(operations.module, shape)
        self.operations = operations

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows first."""
        return str(self.operations)


class QuantizedModel:
    """What ``vitq.quantize`` returns and ``vitq.load`` reads back: preprocessed x_BCHW to the model's outputs.

    A face of its ``artifact``: ``config`` says how it was made, ``metrics`` what it scored. Weights hold the values of
    their integer codes.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.evidence: Evidence | None = None

    @property
    def graph(self) -> Graph:
        """The simulation."""
        return self.artifact.graph

    @property
    def weights(self) -> Mapping[str, Quantizer]:
        """The quantizers of the frozen weights, by site."""
        return self.artifact.weights

    @property
    def config(self) -> ArtifactConfig:
        """How it was made."""
        return self.artifact.config

    @property
    def metrics(self) -> RunMetrics:
        """What it scored."""
        return self.artifact.metrics

    def __call__(self, x_BCHW: torch.Tensor) -> Any:
        """Return the simulated quantized model's output for a preprocessed batch, a float tensor or NumPy array.

        That is a tensor, or a dict of tensors by name where the model has several outputs. Raises DataError for another
        shape or type than the model was calibrated for.
        """
        return run_checked(lambda x: self.graph(x.to(self.device)), x_BCHW, image_shape(self.graph))

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        tensor: torch.Tensor = next(iter(self.graph.module.state_dict().values()))
        return tensor.device

    @checked()
    def to(self, device: torch.device | str) -> "QuantizedModel":
        """Move the model and return it; raise ArgumentError for a device that is not there."""
        place = choose_device(str(device))
        self.graph.to(place)
        for quantizer in self.weights.values():
            quantizer.to(place)
        return self

    def scope_table(self) -> tuple[ScopeRow, ...]:
        """Return what is quantized, to which format, by role."""
        return tuple(scope_rows(self.graph, self.weights))

    def card(self) -> str:
        """Return a model card, Markdown with the metadata that model hubs read, made of the run's metrics."""
        return model_card(self.artifact)

    @checked()
    @in_own_modes
    def save(self, path: str | Path) -> Path:
        """Write the artifact folder and return its path; raise ArtifactError where that fails.

        It replaces an artifact that is there, and no file that vitq did not write. The same run gives the same bytes:
        times and memory go to ``run.json``, which is not part of the artifact.
        """
        folder = Path(path)
        self.artifact = write(folder, self.artifact)
        return folder

    @checked(repository=TEXT, private=FLAG, revision=TEXT, message=TEXT)
    @in_own_modes
    def push_to_hub(
        self, repository: str, *, private: bool = False, revision: str | None = None, message: str | None = None
    ) -> str:
        """Upload the artifact and its card to ``owner/name`` of a model hub and return the address.

        ``vitq.load("hf-hub:owner/name")`` loads it. Raises ArtifactError where that fails.
        """
        return push(self.artifact, repository, model_card, private=private, revision=revision, message=message)

    @checked(limit=whole(2, 1_000_000_000), target=TEXT)
    @in_own_modes
    def export(
        self,
        out: str | Path,
        images: Any,
        *,
        target: str = "onnxruntime",
        opset: int = OPSET,
        cpu: str = "any",
        limit: int = 64,
        validation: Any = None,
        floating: str | nn.Module | LoadedModel | None = None,
        weights: str | Path | None = None,
        force: bool = False,
        progress: bool = False,
    ) -> "Exported":
        """Write an ONNX file for ``target`` and prove on ``limit`` of ``images`` that it computes what this model does.

        * ``out``: an .onnx file, or one that ends in .xml, which is OpenVINO's own pair of files.
        * ``cpu``: the x86 CPUs that the file is for, "any" or "vnni" (docs/export.md).
        * ``images``, labelled ``validation``: as in ``vitq.quantize``.
        * ``floating`` (with ``weights``): the model that this one was made of, which is exported and compared too.
        * ``force``: write a file that fails its proof, or that replaces one which is not vitq's.

        Raises ExportError for a model that cannot be exported, an impossible ``opset``, a missing runtime, or a file
        that ``force`` would write; ArtifactError where ``out`` cannot be written.
        """
        require_export()
        if weights is not None and floating is None:
            raise ArgumentError("weights are those of the floating-point model; name it with floating")
        from vitq.export.export import check_request, export

        check_request(out, target, opset, cpu, force)
        preprocessing, labelled = Preprocessing.from_dict(self.config.preprocessing), None
        classes = self.config.source.get("num_classes")
        loaded = None if floating is None else load_source(floating, weights, classes, None)
        with Events(console=progress) as events:
            x_NCHW = draw_calibration(
                open_images(images, labels=False, limit=limit), preprocessing, limit=limit, warn=events.warn
            )
            loaded = loaded and settle(loaded, x_NCHW, events.warn)
            if validation is not None:
                source = open_images(validation)
                require_labels(source)
                labelled = partial(load_labelled, source, preprocessing, None, batch_size=32, num_classes=classes)
            return export(
                self.artifact,
                out,
                x_NCHW,
                target=target,
                opset=opset,
                cpu=cpu,
                labelled=labelled,
                floating=loaded,
                force=force,
                events=events,
            )

    @in_own_modes
    def integer(self) -> IntegerModel:
        """Return the model with products of int8 codes that add in int32; in scope full more than products.

        It checks its input as the model itself does; ``print`` says by name what stays in floating point, and why.

        Raises ExportError where no product has integer codes on both sides.
        """
        return IntegerModel(integer_graph(self.graph, self.weights), image_shape(self.graph)).eval()

    @checked()
    @in_own_modes
    def evaluate(
        self,
        images: Any,
        *,
        limit: int | None = None,
        batch_size: int = 32,
        integer: bool = False,
        task: str | None = None,
        workers: int | None = None,
        progress: bool = False,
    ) -> Metrics:
        """Return what the task scores on labelled images: a folder, ``.npz``, COCO json or (x_NCHW, labels_N) pair.

        ``task`` names another one than the model's. ``workers`` processes decode files; None chooses. ``integer``
        measures ``self.integer()`` instead of the simulation.
        Raises DataError where images or labels cannot be used.
        """
        source = open_images(images)
        preprocessing = Preprocessing.from_dict(self.config.preprocessing)
        batches = load_labelled(
            source,
            preprocessing,
            limit,
            batch_size=batch_size,
            num_classes=self.config.source.get("num_classes"),
            workers=workers,
        )
        total = len(source) if limit is None else min(limit, len(source))
        fast = use_compiled_kernels(worth_compiling(total, preprocessing.input_size))
        with fast, Events(console=progress) as events, events.task("evaluate", total, unit="images") as bar:
            model: QuantizedModel | IntegerModel = self
            if integer:
                model = self.integer()
                events.show(escape(str(model.operations)))
            return measure(model, batches, self.device, progress=bar.advance, task=task or self.config.task)[0]


@checked()
@in_own_modes
def load(path: str | Path, device: torch.device | str = "cpu") -> QuantizedModel:
    """Load a saved artifact; it needs neither the original weights nor the calibration images.

    ``hf-hub:owner/name``, with ``@revision`` behind it, is fetched from the model hub. Raises ArtifactError where there
    is no artifact, a damaged one, or one of another schema version.
    """
    place, folder = choose_device(str(device)), Path(path)
    return QuantizedModel(read(fetch(str(folder)) if is_hub_name(folder) else folder)).to(place)

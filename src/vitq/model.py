"""A quantized model: run it, measure it, save it."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitq.arguments import TEXT, checked, whole
from vitq.artifact.artifact import describe_sites, read, write_artifact
from vitq.artifact.schema import ArtifactConfig
from vitq.calibrate import ScopeRow, scope_rows
from vitq.devices import choose_device
from vitq.errors import ArgumentError
from vitq.export.targets import OPSET, require_export
from vitq.graph import Graph
from vitq.integer import integer_graph
from vitq.measure import OF_OUTPUTS, Metrics, measure
from vitq.modes import in_own_modes
from vitq.quantizers import Quantizer, use_compiled_kernels, worth_compiling
from vitq.run.batch import Checked, image_shape, run_checked
from vitq.run.events import Events

if TYPE_CHECKING:
    from vitq.export.export import Exported
    from vitq.models import LoadedModel

COSTS = ("seconds", "peak_memory_bytes")
"""Metrics that differ from run to run."""


class QuantizedModel:
    """What ``vitq.quantize`` returns and ``vitq.load`` reads back: preprocessed x_BCHW to the model's output.

    ``config`` says how it was made, ``metrics`` what it scored. Weights hold the values of their integer codes.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Quantizer],
        config: ArtifactConfig,
        metrics: Mapping[str, Any],
    ) -> None:
        self.graph = graph
        self.weights = dict(weights)
        self.config = config
        self.metrics = dict(metrics)

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the simulated quantized model's output for a preprocessed batch, a float tensor or NumPy array.

        Raises DataError for another shape or type than the model was calibrated for.
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

    @checked()
    @in_own_modes
    def save(self, path: str | Path) -> Path:
        """Write the artifact folder and return its path; raise ArtifactError where that fails.

        It replaces an artifact that is there, and no file that vitq did not write. The same run gives the same bytes:
        times and memory go to ``run.json``, which is not part of the artifact.
        """
        folder = Path(path)
        config = self.config.model_copy(update={"sites": describe_sites(self.graph, self.weights)})
        measured = {k: v for k, v in self.metrics.items() if k not in COSTS}
        self.config, size = write_artifact(folder, self.graph, self.weights, config, measured)
        self.metrics["size_bytes"] = size
        return folder

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
        floating: "str | nn.Module | LoadedModel | None" = None,
        weights: str | Path | None = None,
        force: bool = False,
        progress: bool = False,
    ) -> "Exported":
        """Write an ONNX file for ``target`` and prove on ``limit`` of ``images`` that it computes what this model does.

        An ``out`` that ends in .xml is OpenVINO's own pair of files. ``cpu`` says which x86 CPUs the file is for:
        "any", or "vnni" (docs/export.md). ``images`` and labelled ``validation`` as in ``vitq.quantize``; ``floating``
        (with ``weights``) is the model that this one was made of, exported and compared too. Raises ExportError for
        what cannot be exported, an impossible ``opset``, a missing runtime, or, unless ``force``, a file that fails its
        proof or would replace one that is not vitq's; ArtifactError where ``out`` cannot be written.
        """
        from vitq.data import draw_calibration, load_labelled, open_images, require_labels
        from vitq.models import Preprocessing, settle
        from vitq.run.inputs import load_source

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
                self,
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
    def integer(self) -> nn.Module:
        """Return the model with products of int8 codes that add in int32; the rest is floating point.

        It checks its input as the model itself does.

        Raises ExportError where no product has integer codes on both sides.
        """
        return Checked(integer_graph(self.graph, self.weights).module, image_shape(self.graph)).eval()

    @checked()
    @in_own_modes
    def evaluate(
        self,
        images: Any,
        *,
        limit: int | None = None,
        batch_size: int = 32,
        integer: bool = False,
        progress: bool = False,
    ) -> Metrics:
        """Return top-1 and top-5 in percent on labelled images: a folder, ``.npz`` or (x_NCHW, labels_N) pair.

        ``integer`` measures ``self.integer()`` instead of the simulation. Raises DataError where images or labels
        cannot be used.
        """
        from vitq.data import load_labelled, open_images
        from vitq.models import Preprocessing

        source = open_images(images)
        preprocessing = Preprocessing.from_dict(self.config.preprocessing)
        batches = load_labelled(
            source,
            preprocessing,
            limit,
            batch_size=batch_size,
            num_classes=self.config.source.get("num_classes"),
        )
        total = len(source) if limit is None else min(limit, len(source))
        fast = use_compiled_kernels(worth_compiling(total, preprocessing.input_size))
        with fast, Events(console=progress) as events, events.task("evaluate", total) as task:
            model = self.integer() if integer else self
            return measure(model, batches, self.device, progress=task.advance)[0]


@checked()
@in_own_modes
def load(path: str | Path, device: torch.device | str = "cpu") -> QuantizedModel:
    """Load a saved artifact; it needs neither the original weights nor the calibration images.

    Raises ArtifactError where the folder holds no artifact, a damaged one, or one of another schema version.
    """
    place = choose_device(str(device))
    return QuantizedModel(*read(Path(path))).to(place)


def as_mapping(metrics: Metrics, prefix: str = "") -> dict[str, Any]:
    """Return metrics as flat keys, each with ``prefix``; those of outputs are left out where there are classes."""
    values = dataclasses.asdict(metrics)
    return {prefix + key: value for key, value in values.items() if value is not None or key not in OF_OUTPUTS}

"""A quantized model: run it, measure it, save it."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from vitq.artifact import describe_sites, read, size_on_disk, to_json_bytes, write_files, write_model
from vitq.calibrate import ScopeRow, scope_rows
from vitq.config import ArtifactConfig
from vitq.events import Events
from vitq.graph import Graph
from vitq.integer import integer_graph
from vitq.measure import Metrics, measure
from vitq.quantizers import Quantizer, use_compiled_kernels, worth_compiling
from vitq.targets import OPSET, check_opset, require_export

if TYPE_CHECKING:
    from vitq.export import Exported
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

    @torch.no_grad()
    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the simulated quantized model's output for a batch."""
        return self.graph(x_BCHW.to(self.device))

    @property
    def device(self) -> torch.device:
        """Where the model's tensors are."""
        tensor: torch.Tensor = next(iter(self.graph.module.state_dict().values()))
        return tensor.device

    def to(self, device: torch.device | str) -> "QuantizedModel":
        """Move the model and return it."""
        self.graph.to(torch.device(device))
        for quantizer in self.weights.values():
            quantizer.to(device)
        return self

    def scope_table(self) -> tuple[ScopeRow, ...]:
        """Return what is quantized, to which format, by role."""
        return tuple(scope_rows(self.graph, self.weights))

    def save(self, path: str | Path) -> Path:
        """Write the artifact folder and return its path; raise ArtifactError where that fails.

        The same run gives the same bytes: times and memory go to ``run.json``, which is not part of the artifact.
        """
        folder = Path(path)
        config = self.config.model_copy(update={"sites": describe_sites(self.graph, self.weights)})
        self.config = write_model(folder, self.graph, self.weights, config)
        self.metrics["size_bytes"] = size_on_disk(folder)
        measured = {k: v for k, v in self.metrics.items() if k not in COSTS}
        write_files(folder, {"metrics.json": to_json_bytes(measured)})
        return folder

    def export(
        self,
        out: str | Path,
        images: Any,
        *,
        target: str = "onnxruntime",
        opset: int = OPSET,
        limit: int = 64,
        validation: Any = None,
        floating: "str | nn.Module | LoadedModel | None" = None,
        weights: str | Path | None = None,
        force: bool = False,
        progress: bool = False,
    ) -> "Exported":
        """Write an ONNX file for ``target`` and prove on ``limit`` of ``images`` that it computes what this model does.

        An ``out`` that ends in .xml is OpenVINO's own pair of files. ``images`` and labelled ``validation`` as in
        ``vitq.quantize``; ``floating`` (with ``weights``) is the model that this one was made of, exported and compared
        too. Raises ExportError for what cannot be exported, an impossible ``opset``, a missing runtime, or, unless
        ``force``, a file that fails its proof.
        """
        from vitq.data import draw_calibration, load_labelled, open_images
        from vitq.inputs import load_source
        from vitq.models import Preprocessing

        require_export()
        check_opset(opset)
        from vitq.export import export

        preprocessing, labelled = Preprocessing.from_dict(self.config.preprocessing), None
        classes = self.config.source.get("num_classes")
        loaded = None if floating is None else load_source(floating, weights, classes, None)
        with Events(console=progress) as events:
            x_NCHW = draw_calibration(open_images(images), preprocessing, limit=limit, warn=events.warn)
            if validation is not None:
                source = open_images(validation)
                labelled = partial(load_labelled, source, preprocessing, None, batch_size=32, num_classes=classes)
            return export(
                self,
                out,
                x_NCHW,
                target=target,
                opset=opset,
                labelled=labelled,
                floating=loaded,
                force=force,
                events=events,
            )

    def integer(self) -> nn.Module:
        """Return the model with products of int8 codes that add in int32; the rest is floating point.

        Raises ExportError where no product has integer codes on both sides.
        """
        return integer_graph(self.graph, self.weights).module

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


def load(path: str | Path, device: torch.device | str = "cpu") -> QuantizedModel:
    """Load a saved artifact; it needs neither the original weights nor the calibration images.

    Raises ArtifactError where the folder holds no artifact, a damaged one, or one of another schema version.
    """
    return QuantizedModel(*read(Path(path))).to(device)


def as_mapping(metrics: Metrics, prefix: str = "") -> dict[str, Any]:
    """Return metrics as flat keys, each with ``prefix``."""
    return {prefix + key: value for key, value in dataclasses.asdict(metrics).items()}

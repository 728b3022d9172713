"""Parts of a written file, each cut out and compiled to compute one tensor from given ones."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import onnx
import torch

from vitq.errors import ExportError
from vitq.export.openvino_ir import Pair, saved
from vitq.export.runtimes import Content, Session, require

MakeSession = Callable[[Content], Session]


class Pieces(Protocol):
    """A file that can be computed in parts."""

    def __call__(self, given: Mapping[str, torch.Tensor], *wanted: str) -> list[torch.Tensor]:
        """Compute ``wanted``, the first of which follows from all the others, from those of ``given`` it needs."""


def pieces_of(content: Content, make: MakeSession) -> Pieces:
    """Return the parts of an ONNX file, which ``make`` compiles, or of OpenVINO's pair."""
    return IrPieces(content, make) if isinstance(content, tuple) else OnnxPieces(content, make)


class OnnxPieces:
    """Parts of an ONNX file."""

    def __init__(self, content: bytes, make: MakeSession) -> None:
        model = onnx.shape_inference.infer_shapes(onnx.load_from_string(content))
        self.extractor, self.make = onnx.utils.Extractor(model), make
        self.sources = {output: node.input for node in model.graph.node for output in node.output}

    def __call__(self, given: Mapping[str, torch.Tensor], *wanted: str) -> list[torch.Tensor]:
        """Compute ``wanted``, the first of which follows from all the others."""
        needed = self._needed(given, wanted[0])
        part = self.extractor.extract_model(needed, list(wanted))
        for node in part.graph.node:  # one that splits a tensor may give what is given, beside what is wanted
            for place, name in enumerate(node.output):
                if name in needed:
                    node.output[place] = f"{name}/computed"
        return self.make(part.SerializeToString())({name: given[name] for name in needed})

    def _needed(self, given: Mapping[str, torch.Tensor], wanted: str) -> list[str]:
        """Return which of ``given`` the tensor ``wanted`` follows from, other than itself."""
        seen, stack = set[str](), list(self.sources[wanted])
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                if name not in given:
                    stack.extend(self.sources.get(name, ()))
        return [name for name in given if name in seen]


class IrPieces:
    """Parts of OpenVINO's pair, saved and read like the whole."""

    def __init__(self, content: Pair, make: MakeSession) -> None:
        self.ov, self.make = require("openvino"), make
        graph, weights = content
        self.held = self.ov.Tensor(np.frombuffer(weights, np.uint8))
        self.model = self.ov.Core().read_model(graph, self.held)

    def __call__(self, given: Mapping[str, torch.Tensor], *wanted: str) -> list[torch.Tensor]:
        """Compute ``wanted``, the first of which follows from all the others; ExportError for one that is lost."""
        model = self.model.clone()
        ports = {name: port for node in model.get_ops() for port in node.outputs() for name in port.get_names()}
        if lost := next((name for name in wanted if name not in ports), None):
            raise ExportError(
                f"OpenVINO computes '{lost}' once together with an equal tensor, so its own files cannot be proven "
                "there; name a file that ends in .onnx, which OpenVINO reads as well"
            )
        parameters = self._cut(ports[wanted[0]].get_node(), given)
        part = self.ov.Model([ports[name] for name in wanted], list(parameters.values()), "part")
        return self.make(saved(part))({name: given[name] for name in parameters})

    def _cut(self, end: Any, given: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        """Let what ``end`` follows from start at parameters for those of ``given`` it needs, and return these.

        A tensor can have several names here, for OpenVINO drops what changes nothing; the first given one counts.
        """
        parameters, seen, stack = dict[str, Any](), {end.get_name()}, [end]
        while stack:
            for entry in stack.pop().inputs():
                source = entry.get_source_output()
                node, names = source.get_node(), source.get_names()
                name = next((name for name in given if name in names), None)
                if name is not None:
                    if name not in parameters:
                        parameters[name] = self.ov.op.Parameter(source.get_element_type(), source.get_partial_shape())
                        parameters[name].output(0).get_tensor().set_names({name})
                    entry.replace_source_output(parameters[name].output(0))
                elif node.get_name() not in seen:
                    seen.add(node.get_name())
                    stack.append(node)
        return parameters

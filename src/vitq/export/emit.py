"""Emission: a lowered graph as an ONNX model of standard operators, weights of four bits and fewer at half a byte."""

import warnings
from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from vitq.errors import ExportError
from vitq.export.operators import TRANSLATIONS
from vitq.export.program import program
from vitq.graph.outputs import TAKEN, returned

INPUT = TAKEN


def to_onnx(
    module: fx.GraphModule,
    example_BCHW: torch.Tensor,
    weight_codes: Mapping[str, int],
    names: Mapping[str, str],
    opset: int,
    folding: Collection[str] = (),
) -> ir.Model:
    """Return ``module`` as an ONNX model of ``opset`` with a dynamic batch and outputs by name.

    ``weight_codes`` gives the bits of code buffers, of which those in ``folding`` may be written as values. ``names``
    maps nodes to the names that their tensors have in the file, so that a segment can be found in it again.
    """
    outputs = list(returned(module.graph))
    tapped = _with_outputs(module, tuple(names))
    batch = torch.export.Dim("batch", min=1, max=4096)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        written = torch.onnx.export(
            program(tapped, example_BCHW, batch),
            dynamo=True,
            opset_version=opset,
            custom_translation_table=TRANSLATIONS,
            dynamic_shapes=({0: batch},),
            input_names=[INPUT],
            output_names=[*outputs, *names.values()],
            optimize=True,
            verbose=False,
        )
    assert written is not None
    model = written.model
    del model.graph.outputs[len(outputs) :]
    for name, bits in weight_codes.items():
        if bits <= 4 and (name in model.graph.initializers or name not in folding):
            _halve(model, name)
    _forget_origin(model)
    return model


def _with_outputs(module: fx.GraphModule, nodes: tuple[str, ...]) -> fx.GraphModule:
    """Return a view of ``module`` that also returns the tensors of ``nodes``."""
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    graph.graph_copy(module.graph, copies)
    by_name = {node.name: copy for node, copy in copies.items()}
    graph.output((*(copies[node] for node in returned(module.graph).values()), *(by_name[name] for name in nodes)))
    return fx.GraphModule(module, graph)


def _forget_origin(model: ir.Model) -> None:
    """Drop what torch notes about its own graph, paths of source files among it: nothing that a runtime reads."""
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(v for node in nodes for v in node.outputs)]
    parts: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model, model.graph, *nodes, *values]
    for part in parts:
        part.doc_string = None
        part.metadata_props.clear()


def _halve(model: ir.Model, name: str) -> None:
    """Store int8 codes in [-8, 7] as INT4 and cast them back: a runtime folds the cast and uses its int8 kernel."""
    value = model.graph.initializers.get(name)
    if value is None or value.const_value is None:
        raise ExportError(f"weight codes '{name}' are missing from the exported graph; please report it")
    codes = value.const_value.numpy()
    packed = ir.Value(
        name=f"{name}_int4",
        shape=ir.Shape(codes.shape),
        type=ir.TensorType(ir.DataType.INT4),
        const_value=ir.tensor(codes.astype(np.int8), dtype=ir.DataType.INT4, name=f"{name}_int4"),
    )
    cast = ir.node("Cast", [packed], {"to": ir.DataType.INT8}, name=f"{name}_cast")
    cast.outputs[0].name = f"{name}_int8"
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(ir.DataType.INT8), ir.Shape(codes.shape)
    users = list(value.uses())
    for user, index in users:
        user.replace_input_with(index, cast.outputs[0])
    model.graph.insert_before(model.graph[0], cast)
    del model.graph.initializers[name]
    model.graph.register_initializer(packed)

"""``vitq export``: an artifact as an ONNX file, with its proof."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from vitq.cli.console import note, print_json, show
from vitq.cli.errors import guarded
from vitq.cli.options import AsJson, FloatingWeights, ForCpu, Quiet
from vitq.export.targets import OPSET, Cpu, check_opset, cpu_of, profile_of


@guarded
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="An artifact's folder, as 'vitq quantize' wrote it.")],
    images: Annotated[
        str, typer.Option(metavar="DIR", help="Images of the proof, labels not needed; calibration images will do.")
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The file to write: .onnx, or .xml for openvino.")],
    target: Annotated[
        str, typer.Option(help="onnxruntime, openvino; tensorrt, coreml, qnn are written but not run here.")
    ] = "onnxruntime",
    opset: Annotated[int, typer.Option(help="ONNX opset of the file, 21 to 25.")] = OPSET,
    cpu: ForCpu = Cpu.ANY,
    limit: Annotated[int, typer.Option(min=2, help="How many images the proof takes.")] = 64,
    validation: Annotated[
        str | None, typer.Option(metavar="DIR", help="Labelled images: also compare accuracies, file and simulation.")
    ] = None,
    floating: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that RUN was made of: export it too, and check that file."),
    ] = None,
    weights: FloatingWeights = None,
    force: Annotated[bool, typer.Option("--force", help="Write the file even if it fails its proof.")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write an artifact for stock integer kernels and prove that the file computes what the artifact does.

    Example: vitq export runs/deit --images photos/ --target openvino --out deit.onnx
    """
    cpu_of(cpu, profile_of(target))  # a typing error is told before anything slow is imported
    check_opset(opset)

    import vitq

    options: dict[str, Any] = {"limit": limit, "validation": validation, "floating": floating, "weights": weights}
    kind: dict[str, Any] = {"target": target, "opset": opset, "cpu": cpu}
    result = vitq.load(run).export(out, images, **kind, **options, force=force, progress=not quiet)
    if as_json:
        print_json(asdict(result))
        return
    from vitq.report.exported import export_table

    show(export_table(result))
    for text in result.notes:
        note(text)
    note(f"saved {result.path}")

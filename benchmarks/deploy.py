"""Measure exported files: speed against floating point and the runtimes' own int8, size, and accuracy of the file.

    python benchmarks/deploy.py run --data ../shared/data --runs /tmp/runs
    python benchmarks/deploy.py run --data ../shared/data --runs /tmp/runs --random --models vit_base_patch16_224
    python benchmarks/deploy.py table --view openvino

Every model is quantized at each bit-width for a target into the folder of --runs (what is there already is taken), then
all files run interleaved in one process; rows go to a JSONL file. With ``--random`` weights are random: speed only.
The ceiling is what the best int8 matrix product alone (ceiling.py) reaches right after, with as many threads.
"""

import argparse
from pathlib import Path

import deploy_tables as tables
from chart import Chart
from command import append, rows, run_or_table, vitq

RESULTS = Path(__file__).parent / "results" / "deploy.jsonl"
OTHERS = {view: RESULTS.with_name(f"{view}.jsonl") for view in ("attention", "cpus")}
"""Results of views that have a file of their own."""
VIEWS = {
    **{view.__name__: view for view in (tables.full, tables.onnxruntime, tables.openvino, tables.bits)},
    **{view.__name__: view for view in (tables.ceiling, tables.attention, tables.cpus, tables.readme)},
}


def operations(run: Path) -> float:
    """Return the operations of a model's linears for one image, in 1e9."""
    import vitq as library
    from vitq.graph.ops import LINEAR, is_op, value

    total = 0
    for node in library.load(run).graph.module.graph.nodes:
        if is_op(node, LINEAR):
            rows = value(node).shape[1:-1].numel()
            total += 2 * rows * value(node.args[1]).numel()
    return total / 1e9


def run(chosen: argparse.Namespace) -> None:
    """Quantize and measure every model."""
    from ceiling import ceiling

    calibration, validation = chosen.data / "imagenet-calibration", chosen.data / "imagenet-validation"
    for model in chosen.models:
        weights = "random" if chosen.random else str(chosen.data / "weights" / f"{model}.safetensors")
        runs = [chosen.runs / f"{model}-{chosen.target}" / Path(bits).stem for bits in chosen.bits]
        for path, bits in zip(runs, chosen.bits, strict=True):
            if not (path / "config.json").exists():
                vitq(
                    *("quantize", model, "--weights", weights, "--crop-pct", "0.875", "--images", str(calibration)),
                    *("--recipe", chosen.recipe, "--bits", bits, "--limit", str(chosen.limit)),
                    *("--target", chosen.target, "--cpu", chosen.cpu, "--out", str(path)),
                )
        if chosen.only_quantize:
            continue
        judged = [] if chosen.random else ["--validation", str(validation)]
        sizes = [x for batch in chosen.batches for x in ("--batch", str(batch))]
        more = ("--threads", str(chosen.threads), "--rounds", str(chosen.rounds), "--cpu", chosen.cpu)
        more += ("--no-baselines",) if chosen.no_baselines else ()
        source = ("--floating", model, "--weights", weights)
        result = vitq("bench", *map(str, runs), "--images", str(calibration), *judged, *more, *sizes, *source)
        about = {
            "model": model,
            "random": chosen.random,
            "threads": chosen.threads,
            "target": chosen.target,
            "recipe": chosen.recipe,
            "limit": chosen.limit,
            "rounds": chosen.rounds,
            "cpu": chosen.cpu,
            "seed": 0,
            "linear_gop": operations(runs[0]),
            "ceiling_gops": ceiling(chosen.threads),
        }
        for row in result["rows"]:
            append(chosen.results, {**about, **row})
        print(f"{model}: {len(result['rows'])} rows", flush=True)


def table(chosen: argparse.Namespace) -> None:
    """Print one view of the results as Markdown."""
    print(VIEWS[chosen.view](rows(OTHERS.get(chosen.view, chosen.results))))


def figure(chosen: argparse.Namespace) -> Chart:
    """Return the chart of a view."""
    found = rows(chosen.results)
    if chosen.view == "bits":
        return tables.bits_chart(found)
    if chosen.view == "onnxruntime":
        peers = {"float32": "float32", tables.OWN: "ONNX Runtime's int8"}
        return tables.ratios(found, "onnxruntime", "w8a8", peers, "deploy-onnxruntime", "W8A8 in ONNX Runtime")
    if chosen.view == "openvino":
        peers = {"bfloat16": "bfloat16", tables.NNCF16: "NNCF's int8 + bfloat16"}
        title = "W8A8 + bfloat16 in OpenVINO"
        return tables.ratios(found, "openvino", "w8a8 + bfloat16", peers, "deploy-openvino", title)
    raise SystemExit(f"--view {chosen.view} has no figure; bits, onnxruntime and openvino have")


def views(parser: argparse.ArgumentParser) -> None:
    """Add what ``table`` and ``figure`` take."""
    parser.add_argument("--view", choices=list(VIEWS), default="full")


def options(parser: argparse.ArgumentParser) -> None:
    """Add what ``run`` takes."""
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True, help="where artifacts are, or are put")
    parser.add_argument("--only-quantize", action="store_true", help="make the artifacts, measure nothing")
    parser.add_argument("--models", nargs="+", default=["deit_tiny_patch16_224", "vit_tiny_patch16_224"])
    parser.add_argument("--random", action="store_true")
    parser.add_argument(
        "--bits", nargs="+", default=["w8a8", "w4a8", "w4a4", "w3a3"], help="or bit tables, called as their files"
    )
    parser.add_argument("--recipe", default="repq")
    parser.add_argument("--target", default="openvino")
    parser.add_argument("--limit", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cpu", default="any", help="any or vnni, as of vitq quantize and export")
    parser.add_argument("--no-baselines", action="store_true", help="without the runtimes' own int8")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16])


if __name__ == "__main__":
    run_or_table(__doc__, options, run, table, RESULTS, views, figure)

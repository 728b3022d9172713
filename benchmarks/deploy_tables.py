"""Tables and charts of exported files, each one question, from the rows of deploy.py."""

from chart import Chart, Series
from grid import grid, machine_name, model_name, number

Row = dict
OWN, NNCF, NNCF16 = "onnxruntime's own int8", "NNCF's int8", "NNCF's int8 + bfloat16"


def groups(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of each machine and model, in their order."""
    keys = dict.fromkeys((row["machine"], row["model"]) for row in rows)
    return {key: [row for row in rows if (row["machine"], row["model"]) == key] for key in keys}


def by_name(rows: list[Row], runtime: str) -> dict[str, Row]:
    """Return the rows of a runtime by name."""
    return {row["name"]: row for row in rows if row["runtime"] == runtime}


def pair(row: Row, digits: int = 1) -> str:
    """Return a row's milliseconds at each batch size."""
    return " / ".join(number(spent, digits) for spent in row["milliseconds"].values())


def times(row: Row, other: Row) -> list[float]:
    """Return how many times as fast as ``other`` a row is at each batch size."""
    return [other["milliseconds"][batch] / spent for batch, spent in row["milliseconds"].items()]


def faster(row: Row, other: Row) -> str:
    """Return ``times`` as text."""
    return " / ".join(f"{ratio:.2f}" for ratio in times(row, other))


def bits_name(name: str) -> str:
    """Return W4A8 for w4a8, and other names as they are."""
    return name.upper() if name[:1] == "w" else name


def onnxruntime(rows: list[Row]) -> str:
    """Return W8A8 against ONNX Runtime's own static int8."""
    lines = []
    for (machine, model), own in groups(rows).items():
        r = by_name(own, "onnxruntime")
        cells = (pair(r["float32"]), pair(r[OWN]), pair(r["w8a8"]), faster(r["w8a8"], r[OWN]))
        tops = [number(r[name]["top1"]) for name in ("float32", OWN, "w8a8")]
        lines.append((machine_name(machine), model_name(model), *cells, " / ".join(tops)))
    heads = ("machine", "model", "float32, ms", "its own int8, ms", "W8A8, ms", "times as fast as its own")
    return grid((*heads, "top-1: float32 / its own / W8A8"), lines)


def openvino(rows: list[Row]) -> str:
    """Return W8A8 with bfloat16 for the rest against bfloat16 alone and NNCF."""
    lines = []
    for (machine, model), own in groups(rows).items():
        r = by_name(own, "openvino")
        ours = r["w8a8 + bfloat16"]
        cells = (pair(r["bfloat16"]), pair(r[NNCF16]), pair(ours), faster(ours, r["bfloat16"]), faster(ours, r[NNCF16]))
        tops = [number(r[name]["top1"]) for name in ("bfloat16", NNCF16, "w8a8 + bfloat16")]
        lines.append((machine_name(machine), model_name(model), *cells, " / ".join(tops)))
    heads = ("machine", "model", "bfloat16, ms", "NNCF, ms", "W8A8, ms", "times as fast as bfloat16", "as NNCF")
    return grid((*heads, "top-1: bfloat16 / NNCF / W8A8"), lines)


def bits(rows: list[Row]) -> str:
    """Return what fewer bits cost and save, in ONNX Runtime, for models with real weights."""
    lines = []
    for (machine, model), own in groups([row for row in rows if not row["random"]]).items():
        r = by_name(own, "onnxruntime")
        for name in ("float32", "w8a8", "w4a8", "w4a4", "w3a3"):
            size, memory = r[name]["size_bytes"] / 1e6, r[name]["memory_bytes"] / 2**20
            share = r[name]["size_bytes"] / r["float32"]["size_bytes"]
            cells = (number(r[name]["top1"]), number(size), f"{share:.2f}", number(memory, 0), pair(r[name]))
            lines.append((machine_name(machine), model_name(model), bits_name(name), *cells))
    return grid(("machine", "model", "file", "top-1", "MB", "of float32", "memory, MiB", "ms"), lines)


def ceiling(rows: list[Row]) -> str:
    """Return how much of the time the integer products need at the machine's ceiling, in percent."""
    lines = []
    for (machine, model), own in groups(rows).items():
        r = by_name(own, "openvino")
        floor = {batch: 1e3 * int(batch) * own[0]["linear_gop"] / own[0]["ceiling_gops"] for batch in ("1", "16")}
        shares = [
            " / ".join(f"{100 * spent / r[name]['milliseconds'][batch]:.0f}" for batch, spent in floor.items())
            for name in ("w8a8", "w8a8 + bfloat16", NNCF16)
        ]
        gops = number(own[0]["ceiling_gops"], 0)
        lines.append((machine_name(machine), model_name(model), gops, " / ".join(map(number, floor.values())), *shares))
    heads = ("machine", "model", "ceiling, GOPS", "products alone, ms", "W8A8, %", "W8A8 + bfloat16, %")
    return grid((*heads, "NNCF + bfloat16, %"), lines)


def readme(rows: list[Row]) -> str:
    """Return one machine's models in OpenVINO: top-1, milliseconds at batch 16, megabytes of each kind of file."""
    lines = []
    for (machine, model), own in groups(rows).items():
        if "amx" in machine:
            r = by_name(own, "openvino")
            found = [r[name] for name in ("float32", "bfloat16", NNCF16, "w8a8 + bfloat16")]
            cells = [
                f"{number(row['top1'])} · {number(row['milliseconds']['16'], 0)} · {row['size_bytes'] / 1e6:.1f}"
                for row in found
            ]
            lines.append((model_name(model), *cells[:-1], f"**{cells[-1]}**"))
    return grid(("model", "float32", "bfloat16", "NNCF's int8", "vitq W8A8"), lines)


def full(rows: list[Row]) -> str:
    """Return every row, a table for each machine and model."""
    parts = []
    for (machine, model), own in groups(rows).items():
        lines = [
            (
                *(row["runtime"], row["name"], pair(row), " / ".join(f"{x:.2f}" for x in row["ratios"].values())),
                *(number(row["top1"]), number(row["size_bytes"] / 1e6), number(row["memory_bytes"] / 2**20, 0)),
                str(row["integer_products"]),
            )
            for row in own
        ]
        heads = ("runtime", "model", "ms", "times as fast as float32", "top-1 of the file", "MB", "memory, MiB")
        parts.append(f"### {model_name(model)}, {machine}\n\n{grid((*heads, 'integer products'), lines)}")
    return "\n\n".join(parts)


def attention(rows: list[Row]) -> str:
    """Return W8A8 with and without attention in int8, for each machine, model and number of threads."""
    lines = []
    for (machine, model), all_rows in groups(rows).items():
        for threads in sorted({row["threads"] for row in all_rows}):
            own = [row for row in all_rows if row["threads"] == threads]
            for runtime, alone, too, peer in (
                ("onnxruntime", "w8a8", "w8a8, attention too", OWN),
                ("openvino", "w8a8 + bfloat16", "w8a8 + bfloat16, attention too", NNCF16),
            ):
                r = by_name(own, runtime)
                if too in r:
                    tops = " / ".join(number(r[name]["top1"]) for name in (alone, too))
                    cells = (pair(r[peer]), pair(r[alone]), pair(r[too]), faster(r[too], r[alone]), tops)
                    lines.append((machine_name(machine), model_name(model), str(threads), runtime, *cells))
    heads = ("machine", "model", "threads", "runtime", "its own int8 or NNCF, ms", "linears, ms", "attention too, ms")
    return grid((*heads, "times as fast as linears", "top-1: linears / attention too"), lines)


def cpus(rows: list[Row]) -> str:
    """Return files of 8-bit and of 7-bit weights by the CPUs that they are for."""
    kinds = {("w8a8", "any"): "8 bits as uint8", ("w8a8", "vnni"): "8 bits as int8", ("w7a8", "any"): "7 bits as int8"}
    lines = []
    for (machine, model), own in groups(rows).items():
        for runtime in ("onnxruntime", "openvino"):
            for (name, cpu), kind in kinds.items():
                r = {row["name"]: row for row in own if row["runtime"] == runtime and row["cpu"] == cpu}
                cells = (pair(r[name]), faster(r[name], r["float32"]), str(r[name]["integer_products"]))
                where = (machine_name(machine), model_name(model), runtime)
                lines.append((*where, kind, cpu, *cells, number(r[name]["top1"])))
    heads = ("machine", "model", "runtime", "weights", "--cpu", "ms", "times as fast as float32", "integer products")
    return grid((*heads, "top-1"), lines)


def ratios(rows: list[Row], runtime: str, ours: str, peers: dict[str, str], name: str, title: str) -> Chart:
    """Return bars of how many times as fast as each peer a file is at batch 16."""
    own = {key: by_name(group, runtime) for key, group in groups(rows).items()}
    names = tuple(f"{model_name(model)}\n{machine_name(machine).split(',')[0]}" for machine, model in own)
    series = [
        Series(label, names, tuple(round(times(r[ours], r[peer])[-1], 2) for r in own.values()))
        for peer, label in peers.items()
    ]
    return Chart(name, title, "", "times as fast, batch 16", tuple(series), mark=1.0)


def bits_chart(rows: list[Row]) -> Chart:
    """Return bars of the top-1 of files of one machine by bits, peers beside them, for models with real weights."""
    names, series = ("float32", NNCF, OWN, "w8a8", "w4a8", "w4a4", "w3a3"), []
    for (_, model), own in groups([row for row in rows if not row["random"] and "amx" in row["machine"]]).items():
        found = by_name(own, "openvino") | by_name(own, "onnxruntime")
        labels = tuple(
            bits_name(name).replace("onnxruntime", "ONNX Runtime").replace(" int8", "\nint8") for name in names
        )
        series.append(Series(model_name(model), labels, tuple(round(found[name]["top1"], 1) for name in names)))
    return Chart("deploy-bits", "Top-1 of the file, calibration by repq", "", "top-1, %", tuple(series))

"""Tables and the chart of recipes on real models, each one question, from the rows of mgrq.py."""

import statistics

from chart import Chart, Series
from grid import NAMES, grid, model_name, number

Row = dict
MODELS = list(NAMES)[:2]
BITS = ("w8a8", "w6a6", "w4a4", "w3a3")
DRAWN = ("w3a3", "w4a4", "w4a8", "w6a6", "w8a8")
"""Bits of the chart, by size."""
ALSO = ("adalog", "mptq-vit", "vitq fast")
"""Variants of other scripts that the chart has."""
QUICK = ""
"""Tag of rows with the steps of the quick budget."""
MADE = ("synthetic", "noise")
"""Tags of rows without images."""


def mean(rows: list[Row]) -> str:
    """Return the mean top-1 of rows that differ in their seed, with its deviation and their number."""
    if not rows:
        return "–"
    scores = [row["top1"] for row in rows]
    spread = f" ± {statistics.stdev(scores):.1f} ({len(scores)})" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


def chosen(rows: list[Row], model: str, bits: str, **same: str) -> list[Row]:
    """Return the rows of a model and bits with these values."""
    wanted = {"model": model, "bits": bits, **same}
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def lines_of(rows: list[Row], model: str) -> list[tuple[str, ...]]:
    """Return a line for each recipe and tag, by bits."""
    lines, order = [], "rtn repq brecq qdrop pd-quant mgrq"
    groups = sorted({(row["recipe"], row["tag"]) for row in rows}, key=lambda group: (order.find(group[0]), group[1]))
    for recipe, tag in groups:
        own = [row for row in rows if (row["recipe"], row["tag"], row["model"]) == (recipe, tag, model)]
        minutes = statistics.median(row["seconds"] for row in own) / 60
        peak = max(row["peak_memory_bytes"] for row in own) / 2**30
        cells = [mean([row for row in own if row["bits"] == bits]) for bits in BITS]
        lines.append((model_name(model), f"`{recipe}` {tag}".strip(), *cells, number(minutes), number(peak)))
    return lines


def recipes(rows: list[Row], peers: list[Row]) -> str:
    """Return top-1 by recipe and bits, peers measured on the same images below them."""
    lines, rows = [], [row for row in rows if row["tag"] not in MADE]
    for model in MODELS:
        lines += lines_of(rows, model)
        for method in dict.fromkeys(row["method"] for row in peers if row["model"] == model):
            cells = [mean(chosen(peers, model, bits, method=method)) for bits in BITS]
            lines.append((model_name(model), f"*{method}*, peer", *cells, "–", "–"))
    return grid(("model", "recipe", *(bits.upper() for bits in BITS), "minutes", "peak GiB"), lines)


def no_images(rows: list[Row]) -> str:
    """Return what `repq` gives from real images and from none."""
    columns, lines = [(model, bits) for model in MODELS for bits in ("w8a8", "w4a8", "w4a4")], []
    for kind, tag in (("real", QUICK), *((tag, tag) for tag in MADE)):
        own = [chosen(rows, model, bits, recipe="repq", tag=tag) for model, bits in columns]
        longest = max((row["seconds"] for group in own for row in group), default=0)
        lines.append((kind, *map(mean, own), f"{longest / 60:.0f}" if longest else "–"))
    return grid(("images", *(f"{model_name(m)} {bits.upper()}" for m, bits in columns), "minutes at most"), lines)


def settings(rows: list[Row], files: list[Row], mixed: list[Row]) -> str:
    """Return what each setting loses, takes and weighs; the last one has bits that are chosen for each site."""
    lines = []
    ways = ("w8a8", "repq"), ("w6a6", "repq"), ("w4a8", "repq"), ("w4a4", "repq"), ("w4a4", "mgrq"), ("w3a3", "mgrq")
    for bits, recipe in ways:
        own = {model: chosen(rows, model, bits, recipe=recipe, tag=QUICK) for model in MODELS}
        as_file = {m: [r for r in files if in_onnxruntime(r, m, bits)] for m in MODELS}
        seconds = [row["seconds"] for group in own.values() for row in group]
        minutes = " to ".join(dict.fromkeys(number(x / 60) for x in (min(seconds), max(seconds)))) if seconds else "–"
        tops = [mean(own[model] or as_file[model]) for model in MODELS]
        speed = [f"{row['ratios']['16']:.2f}" for row in as_file[MODELS[0]]] or ["–"]
        size = next(number(row["size_bytes"] / 1e6) for row in as_file[MODELS[0]] or own[MODELS[0]])
        lines.append((bits.upper(), f"`{recipe}`", minutes, *tops, size, speed[0]))
    lines.append(chosen_bits(mixed, [row for row in files if in_onnxruntime(row, MODELS[0], "mixed")]))
    names = (f"{model_name(model)}, top-1" for model in MODELS)
    return grid(("bits", "recipe", "minutes", *names, "MB", "times as fast as float32"), lines)


def chosen_bits(mixed: list[Row], files: list[Row], average: str = "4") -> tuple[str, ...]:
    """Return what bits of an average lose and take that the integer program chose: trials, solving, quantizing.

    ``files`` hold the size and the speed of one with such bits.
    """
    mixed = [row for row in mixed if row["table"] == "paper"]
    own = {(row["model"], row["solver"]): row for row in mixed if row["recipe"] == "repq" and row["average"] == average}
    trials = {row["model"]: row["solving"] for row in mixed if row["solver"] == "floating point"}
    found = [own[model, "program"] for model in MODELS]
    seconds = [trials[row["model"]] + row["solving"] + row["seconds"] for row in found]
    minutes = " to ".join(dict.fromkeys(number(x / 60) for x in sorted(seconds)))
    size = number((files[0]["size_bytes"] if files else found[0]["bytes"]) / 1e6)
    speed = [f"{row['ratios']['16']:.2f}" for row in files] or ["–"]
    return f"mixed, {average} on average", "`repq`", minutes, *(number(row["top1"]) for row in found), size, speed[0]


def in_onnxruntime(row: Row, model: str, bits: str) -> bool:
    """Whether a row is of such a file in ONNX Runtime on the machine with AMX."""
    return (row["model"], row["name"], row["runtime"]) == (model, bits, "onnxruntime") and "amx" in row["machine"]


def size_chart(rows: list[Row], peers: list[Row], variants: list[Row]) -> Chart:
    """Return top-1 of DeiT-Tiny over the size of an artifact, by recipe, peers at the size of the same bits.

    ``variants`` are rows of other scripts, whose name is their variant; they stand at the size of the same bits too.
    """
    model, series = MODELS[0], []
    sizes = {bits: round(chosen(rows, model, bits, recipe="repq")[0]["size_bytes"] / 1e6, 2) for bits in DRAWN}
    for recipe, tag in dict.fromkeys((row["recipe"], row["tag"]) for row in rows if row["tag"] not in MADE):
        own = {bits: chosen(rows, model, bits, recipe=recipe, tag=tag) for bits in DRAWN}
        label = f"{recipe} {tag}".strip() if tag or recipe != "mgrq" else "mgrq, quick"
        series.append(line_of(label, own, sizes))
    for name in ALSO:
        found = [row for row in variants if row["variant"] == name]
        series.append(line_of(name, {bits: chosen(found, model, bits) for bits in DRAWN}, sizes))
    for number_of, method in enumerate(dict.fromkeys(row["method"] for row in peers if row["model"] == model)):
        found = [row for row in peers if (row["method"], row["model"]) == (method, model)]
        x = tuple(sizes[row["bits"]] for row in found)
        series.append(Series(f"peer: {method}", x, tuple(row["top1"] for row in found), "x+*^s"[number_of]))
    title = "DeiT-Tiny: top-1 over size, W3A3, W4A4, W4A8, W6A6, W8A8 (dashed: float32)"
    return Chart("accuracy-size", title, "MB of the artifact", "top-1, %", tuple(series), "points", mark=84.1)


def line_of(label: str, rows: dict[str, list[Row]], sizes: dict[str, float]) -> Series:
    """Return the mean top-1 of a recipe's rows by bits, over the size of these bits."""
    y = {bits: round(statistics.mean(row["top1"] for row in group), 1) for bits, group in rows.items() if group}
    return Series(label, tuple(sizes[bits] for bits in y), tuple(y.values()), "o", "-")

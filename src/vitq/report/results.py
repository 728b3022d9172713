"""The table of a run's results, in floating point and quantized."""

from dataclasses import dataclass

from vitq.artifact.metrics import RunMetrics
from vitq.report.tables import nearness_lines, whole_lines
from vitq.report.units import duration, label, memory, number, percent, score, size


@dataclass(frozen=True)
class Line:
    """One line of the table of results: what, in floating point, quantized, and what that means."""

    label: str
    floating: str
    quantized: str
    remark: str = ""


def result_lines(metrics: RunMetrics, bits: str) -> list[Line]:
    """Return the lines of the result table; what was not measured has no line."""
    lines = [Line("bits", "w32a32", bits)]
    for word, before, after in (("top-1", metrics.fp_top1, metrics.top1), ("top-5", metrics.fp_top5, metrics.top5)):
        if after is not None:
            lines.append(Line(word, percent(before), percent(after), _points(before, after)))
    if metrics.agreement is not None:
        lines.append(Line("agreement with floating point", "", percent(metrics.agreement)))
    for name, after in (metrics.scores or {}).items():
        lines.append(Line(label(name), score(name, (metrics.fp_scores or {}).get(name)), score(name, after)))
    lines += [Line(line, "", value) for line, value in nearness_lines(metrics)]
    lines += [Line(line, "", value) for line, value in whole_lines(metrics)]
    if metrics.mean_segment_error is not None:
        lines.append(Line("mean segment error", "", number(metrics.mean_segment_error)))
    if metrics.size_bytes is not None:
        before, after = metrics.fp_size_bytes, metrics.size_bytes
        lines.append(Line("size on disk", size(before), size(after), _ratio(before, after)))
    if metrics.seconds is not None:
        lines.append(Line("time", "", duration(metrics.seconds)))
    if metrics.peak_memory_bytes is not None:
        lines.append(Line("peak memory", "", memory(metrics.peak_memory_bytes)))
    return lines


def _points(floating: float | None, quantized: float) -> str:
    return "" if floating is None else f"{quantized - floating:+.1f} points"


def _ratio(floating: int | None, quantized: int) -> str:
    return f"{floating / quantized:.1f} times smaller" if floating and quantized else ""

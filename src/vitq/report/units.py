"""Numbers as people read them; None is a dash."""

NONE = "-"


def percent(value: float | None) -> str:
    """Return a value in percent with one decimal."""
    return NONE if value is None else f"{value:.1f} %"


def agreement(value: float | None, images: int | None) -> str:
    """Return a percentage and on how many images it was measured."""
    return percent(value) + (f" of {images:,}" if value is not None and images else "")


def number(value: float | None) -> str:
    """Return a plain number with three significant digits."""
    return NONE if value is None else f"{value:.3g}"


def size(size_bytes: float | None) -> str:
    """Return a file size in kB, MB or GB (powers of 1000)."""
    if size_bytes is None:
        return NONE
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= 0.9995 * factor:  # what would round to 1000 of the smaller unit is 1 of this one
            return f"{size_bytes / factor:.3g} {unit}" if size_bytes < 999.5e9 else f"{size_bytes / factor:.0f} {unit}"
    return f"{size_bytes:.0f} B"


def size_with_ratio(size_bytes: float | None, original_bytes: float | None) -> str:
    """Return a size and how many times smaller than the original it is."""
    if not size_bytes or not original_bytes:
        return size(size_bytes)
    return f"{size(size_bytes)} ({original_bytes / size_bytes:.1f}x smaller)"


def memory(size_bytes: float | None) -> str:
    """Return an amount of memory in MiB or GiB."""
    if size_bytes is None:
        return NONE
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 2**30 else f"{size_bytes / 2**20:.0f} MiB"


def duration(seconds: float | None) -> str:
    """Return a time span: ``8.5 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


WORDS = {
    "top1": "top-1",
    "top5": "top-5",
    "agreement": "agreement with floating point",
    "knn": "nearest neighbours",
    "linear": "linear probe",
    "miou": "mIoU",
    "miou_agreement": "mIoU with floating point",
    "pixels": "pixels",
    "iou": "IoU above .5",
    "iou_agreement": "IoU with floating point",
    "mae": "mean absolute error",
    "mae_agreement": "mean absolute error to floating point",
    "abs_rel": "relative error of depth",
    "aligned_abs_rel": "relative error of depth, aligned",
    "map": "mAP",
    "map50": "mAP at IoU .5",
}
ERRORS = frozenset({"mae", "mae_agreement", "abs_rel", "aligned_abs_rel"})
"""Scores of which less is better."""

PERCENT = frozenset(WORDS) - ERRORS


def label(metric: str) -> str:
    """Return what a metric is called in tables."""
    return WORDS.get(metric, metric)


def score(metric: str, value: float | None) -> str:
    """Return a metric's value, in percent where it is one of those."""
    return percent(value) if metric in PERCENT else number(value)

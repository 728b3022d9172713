"""Measure what share of decoding alone evaluation reaches: images per second and CPU time of both, the model left out.

    PYTHONPATH=src python scripts/decoding.py DIR [--workers 0 2] [--limit 500]

Decoding alone is one thread that reads, decodes and preprocesses file after file. The CPU's share is what counts on a
machine that is busy with other things; images per second where it is idle.
"""

import argparse
import os
import time
from collections.abc import Callable

import torch

from vitq.data import load_batches, open_images
from vitq.data.decode import to_rgb
from vitq.models import Preprocessing


def measured(work: Callable[[], None]) -> tuple[float, float]:
    """Return seconds, and CPU seconds of this process and its children."""
    before, began = os.times(), time.perf_counter()
    work()
    after = os.times()
    return time.perf_counter() - began, sum(after[:4]) - sum(before[:4])


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--limit", type=int, default=500)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    source, preprocessing = open_images(chosen.images), Preprocessing()
    count = min(chosen.limit, len(source))
    transform = preprocessing.transform()

    def alone() -> None:
        for item in source.items[:count]:
            transform(to_rgb(item.read(), item.name).image)

    def evaluated(workers: int) -> None:
        for x_BCHW, _ in load_batches(source, preprocessing, count, workers=workers):
            assert x_BCHW.ndim == 4

    alone()  # files are in memory from here on
    seconds, cpu = measured(alone)
    print("| | images/s | CPU milliseconds an image | share of decoding alone, by CPU |")
    print("|---|---|---|---|")
    print(f"| decoding alone, one thread | {count / seconds:.0f} | {1e3 * cpu / count:.2f} | 100 % |")
    for workers in chosen.workers:
        took, used = measured(lambda workers=workers: evaluated(workers))
        name = f"{workers} processes" if workers else "threads"
        print(f"| evaluation, {name} | {count / took:.0f} | {1e3 * used / count:.2f} | {100 * cpu / used:.0f} % |")


if __name__ == "__main__":
    main()

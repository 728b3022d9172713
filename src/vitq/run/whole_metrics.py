"""How near what a whole model gives is to what it gave before a part of it was quantized."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vitq.graph.outputs import named_leaves
from vitq.tasks.distances import nearness
from vitq.tasks.sets import iou

MATCHED = 0.5
"""Boxes of equal labels that lie on each other so far are one."""


def compare_wholes(before: Sequence[Any], after: Sequence[Any]) -> dict[str, dict[str, float]]:
    """Return, by the name of an output, how near its values are over all runs.

    ``relative_error`` and ``cosine`` of floats whose shape is the same; ``agreement``, in percent, of whole numbers
    that are equal; where there are detections (``boxes`` and ``labels``, as torchvision's detectors give them) only the
    share that the other side has too, under ``boxes``. Places in a list of images are taken together.
    """
    floats: dict[str, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    whole: dict[str, list[Tensor]] = defaultdict(list)
    detections = [0, 0]
    for old, new in zip(before, after, strict=False):
        for mine, theirs in zip(_detections(new), _detections(old), strict=False):
            matched = _matches(mine, theirs)
            detections[0] += 2 * matched
            detections[1] += len(mine["boxes"]) + len(theirs["boxes"])
        known = named_leaves(old)
        for name, y in named_leaves(new).items():
            r = known.get(name)
            if r is None or r.shape != y.shape or r.numel() == 0:
                continue
            key = re.sub(r"^output_\d+\.", "", name)
            if r.is_floating_point():
                floats[key].append((y.detach().float().cpu().flatten(), r.detach().float().cpu().flatten()))
            else:
                whole[key].append((y == r).cpu().flatten())
    found = {}
    for key, pairs in floats.items():
        y, r = (torch.cat(side)[None] for side in zip(*pairs, strict=True))
        if near := nearness(y, r):
            found[key] = near
    found |= {key: {"agreement": 100 * float(torch.cat(rows).double().mean())} for key, rows in whole.items()}
    if detections[1]:
        return {"boxes": {"agreement": 100 * detections[0] / detections[1]}}
    return found


def _detections(outputs: Any) -> Iterator[Mapping[str, Tensor]]:
    """Yield the mappings with boxes and labels, however they are nested."""
    if isinstance(outputs, Mapping):
        if {"boxes", "labels"} <= outputs.keys():
            yield outputs
        return
    if isinstance(outputs, list | tuple):
        for one in outputs:
            yield from _detections(one)


def _matches(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> int:
    """Return how many boxes are on both sides, each counted once, the nearest first."""
    if not len(mine["boxes"]) or not len(theirs["boxes"]):
        return 0
    a, b = mine["boxes"].detach().float(), theirs["boxes"].detach().float()
    near_MR = iou(a[:, None].expand(-1, len(b), -1), b[None].expand(len(a), -1, -1))
    near_MR = near_MR.where(mine["labels"][:, None] == theirs["labels"][None], 0)
    count = 0
    while float(near_MR.max()) >= MATCHED:
        row, column = divmod(int(near_MR.argmax()), near_MR.shape[1])
        near_MR[row], near_MR[:, column], count = 0, 0, count + 1
    return count

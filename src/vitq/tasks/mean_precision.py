"""COCO's mean average precision, as ``pycocotools`` measures it."""

import io
from contextlib import redirect_stdout
from typing import Any

import torch

from vitq.errors import DataError

SIDE = 640.0
"""Boxes in shares of the image are measured as if it were of 640 x 640 pixels: only COCO's sizes depend on that."""
DETECTIONS = 100


def mean_precision(scores_NQK: torch.Tensor, corners_NQ4: torch.Tensor, labels_NM8: torch.Tensor) -> dict[str, float]:
    """Return ``map`` and ``map50`` in percent of the 100 surest (query, class) pairs of each image.

    Categories are classes by their id where all ids of the labels are, else by their place. ``corners_NQ4`` and the
    labels' boxes are (left, top, right, bottom) in shares of the image. Raises DataError where pycocotools is missing,
    or no image has a box.
    """
    coco_of, evaluation = _tools()
    classes = scores_NQK.shape[-1]
    seen_NM = labels_NM8[..., 0] >= 0
    if not bool(seen_NM.any()):
        raise DataError("no image has a box: there is nothing to measure")
    column = 0 if int(labels_NM8[..., 7].max()) < classes else 1
    truth = coco_of(_dataset(labels_NM8, seen_NM, column, classes))
    found = _detections(scores_NQK, corners_NQ4)
    if not found:
        return {"map": 0.0, "map50": 0.0}
    with redirect_stdout(io.StringIO()):  # it prints whatever it does
        measured = evaluation(truth, truth.loadRes(found), "bbox")
        measured.evaluate()
        measured.accumulate()
        measured.summarize()
    return {"map": 100 * max(float(measured.stats[0]), 0.0), "map50": 100 * max(float(measured.stats[1]), 0.0)}


def _dataset(labels_NM8: torch.Tensor, seen_NM: torch.Tensor, column: int, classes: int) -> dict[str, Any]:
    annotations: list[dict[str, Any]] = []
    for image, (rows_M8, seen_M) in enumerate(zip(labels_NM8.double(), seen_NM, strict=True)):
        for row in rows_M8[seen_M].tolist():
            left, top, right, bottom = (SIDE * value for value in row[2:6])
            width, height = right - left, bottom - top
            annotations.append({
                "id": len(annotations) + 1, "image_id": image, "category_id": int(row[column]), "iscrowd": int(row[6]),
                "bbox": [left, top, width, height], "area": width * height,
            })  # fmt: skip
    images = [{"id": image, "width": int(SIDE), "height": int(SIDE)} for image in range(len(labels_NM8))]
    return {"images": images, "annotations": annotations, "categories": [{"id": number} for number in range(classes)]}


def _detections(scores_NQK: torch.Tensor, corners_NQ4: torch.Tensor) -> list[dict[str, Any]]:
    found = []
    scores_NQK = torch.nan_to_num(scores_NQK, nan=0.0)
    corners_NQ4 = torch.nan_to_num(corners_NQ4, nan=0.0, posinf=0.0, neginf=0.0)
    for image, (scores_QK, boxes_Q4) in enumerate(zip(scores_NQK, corners_NQ4.double(), strict=True)):
        best, places = scores_QK.flatten().topk(min(DETECTIONS, scores_QK.numel()))
        for score, place in zip(best.tolist(), places.tolist(), strict=True):
            query, category = divmod(place, scores_QK.shape[-1])
            left, top, right, bottom = (SIDE * boxes_Q4[query]).tolist()
            box = [left, top, max(right - left, 0.0), max(bottom - top, 0.0)]
            found.append({"image_id": image, "category_id": category, "bbox": box, "score": score})
    return found


def _tools() -> tuple[Any, Any]:
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError as error:
        raise DataError("COCO's mAP is measured by pycocotools: pip install 'vitq[boxes]'") from error

    def of(dataset: dict[str, Any]) -> Any:
        with redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = dataset
            coco.createIndex()
        return coco

    return of, COCOeval

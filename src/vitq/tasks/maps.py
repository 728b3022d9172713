"""What maps score: classes by intersection over union, numbers by their errors; pure functions."""

import torch


def mean_iou(
    classes_N: torch.Tensor, labels_N: torch.Tensor, counted_N: torch.Tensor, count: int
) -> tuple[float, float]:
    """Return the mean intersection over union of the classes that occur on either side, and equal pixels, in percent.

    ``counted_N`` are the pixels that count; 0 and 0 where there are none.
    """
    confusion = torch.zeros(count + 1, count + 1, dtype=torch.int64)
    for own, label, counted in zip(classes_N, labels_N, counted_N, strict=True):
        mine = own[counted].long()
        mine = torch.where(mine < 0, count, mine)  # what is not finite is a class of no label
        pairs = label[counted].long() * (count + 1) + mine
        confusion += torch.bincount(pairs, minlength=confusion.numel()).view_as(confusion)
    both, pixels = confusion.diagonal()[:count].double(), int(confusion.sum())
    either = (confusion.sum(0) + confusion.sum(1))[:count].double() - both
    occurs = either > 0
    if not bool(occurs.any()):
        return 0.0, 0.0
    return 100 * float((both[occurs] / either[occurs]).mean()), 100 * float(both.sum()) / pixels


def depth_errors(maps_N: torch.Tensor, labels_N: torch.Tensor) -> dict[str, float]:
    """Return ``mae``, the mean absolute error, and, of labels above 0, ``abs_rel`` and ``aligned_abs_rel``.

    ``abs_rel`` is the mean of |y - r| / r over pixels; the aligned one is after the best scale and shift of each image,
    for models of relative depth (least squares; Ranftl et al. 2020). Pixels without a finite label are left out, and
    means are over the pixels of all images. Labels from 0 to 1 also give ``iou`` of what is above .5, in percent.
    """
    known_N = labels_N.isfinite()
    y, r = maps_N.double(), labels_N.double()
    if not bool(known_N.any()):
        return {}
    found = {"mae": float((y - r)[known_N].abs().mean())}
    if float(r[known_N].min()) >= 0 and float(r[known_N].max()) <= 1:
        found["iou"] = iou_at_half(torch.where(known_N, y, 0), torch.where(known_N, r, 0))
        return found
    positive_N = known_N & (r > 0)
    if bool(positive_N.any()):
        errors, aligned = [], []
        for one, label, positive in zip(y, r, positive_N, strict=True):
            own, target = one[positive], label[positive]
            errors.append((own - target).abs() / target)
            aligned.append((_aligned(own, target) - target).abs() / target)
        found |= {"abs_rel": float(torch.cat(errors).mean()), "aligned_abs_rel": float(torch.cat(aligned).mean())}
    return found


def iou_at_half(maps_N: torch.Tensor, reference_N: torch.Tensor) -> float:
    """Return the intersection over union of what is above .5 on both sides, over all pixels, in percent."""
    mine, theirs = maps_N > 0.5, reference_N > 0.5
    either = int((mine | theirs).sum())
    return 100.0 if either == 0 else 100 * int((mine & theirs).sum()) / either


def _aligned(values: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if len(values) < 2:
        return values
    spread = values - values.mean()
    scale = (spread @ (target - target.mean())) / (spread @ spread).clamp(min=1e-300)
    return scale * spread + target.mean()

"""How well features tell classes apart: nearest neighbours and a linear probe."""

import torch
from torch.nn import functional as F

NEIGHBOURS, TEMPERATURE = 20, 0.07
CHUNK = 1024
PENALTY = 1.0
FOLDS = 2


def pooled(features_N: torch.Tensor) -> torch.Tensor:
    """Return one row of features an image, (N, C): tokens (N, T, C) and maps are averaged.

    Maps are (N, C, H, W), or (N, H, W, C) where the first two of the three sizes are equal and the third is another.
    """
    x_N = features_N.float()
    if x_N.ndim == 3:
        return x_N.mean(1)
    if x_N.ndim > 3:
        sizes = x_N.shape[1:]
        last = len(sizes) == 3 and sizes[0] == sizes[1] != sizes[2]
        return x_N.flatten(1, -2).mean(1) if last else x_N.flatten(2).mean(2)
    return x_N


def neighbours_accuracy(features_NC: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Return in percent how often the nearest other images name an image's class, each left out in turn.

    Up to 20 neighbours by cosine vote with exp(cosine / 0.07). Source: Wu et al. 2018, as in DINO.
    """
    x_NC, classes = F.normalize(features_NC.double(), dim=1), int(labels_N.max()) + 1
    hits = 0
    for begin in range(0, len(x_NC), CHUNK):
        near_BN = x_NC[begin : begin + CHUNK] @ x_NC.T
        rows = torch.arange(len(near_BN))
        near_BN[rows, begin + rows] = -torch.inf
        cosine_BK, places_BK = near_BN.topk(min(NEIGHBOURS, len(x_NC) - 1), 1)
        votes_BC = torch.zeros(len(rows), classes, dtype=torch.float64)
        votes_BC.scatter_add_(1, labels_N[places_BK], (cosine_BK / TEMPERATURE).exp())
        hits += int((votes_BC.argmax(1) == labels_N[begin : begin + CHUNK]).sum())
    return 100 * hits / len(x_NC)


def probe_accuracy(features_NC: torch.Tensor, labels_N: torch.Tensor) -> float:
    """Return the accuracy of a linear probe in percent: fitted on one half of each class's images, tested on the other.

    The halves are every second image of a class, and change places. The probe is a ridge regression of the classes on
    standardised features, solved exactly, so that it has neither a seed nor a step size (vitq).
    """
    fold_N = torch.empty_like(labels_N)
    for label in labels_N.unique():
        own = (labels_N == label).nonzero().flatten()
        fold_N[own] = torch.arange(len(own)) % FOLDS
    hits = 0
    for fold in range(FOLDS):
        tested = fold_N == fold
        if bool(tested.any()) and not bool(tested.all()):
            fit, test = features_NC[~tested].double(), features_NC[tested].double()
            hits += int((_predicted(fit, labels_N[~tested], test) == labels_N[tested]).sum())
    return 100 * hits / len(labels_N)


def _predicted(fit_NC: torch.Tensor, labels_N: torch.Tensor, test_MC: torch.Tensor) -> torch.Tensor:
    mean, deviation = fit_NC.mean(0), fit_NC.std(0, correction=0).clamp(min=1e-12)
    x, y = (fit_NC - mean) / deviation, F.one_hot(labels_N).double()
    share = y.mean(0)
    kernel_NN = x @ x.T + PENALTY * len(x) * torch.eye(len(x), dtype=x.dtype)  # as many unknowns as images
    weight_CK = x.T @ torch.linalg.solve(kernel_NN, y - share)
    logits_MK: torch.Tensor = (test_MC - mean) / deviation @ weight_CK + share
    return logits_MK.argmax(1)

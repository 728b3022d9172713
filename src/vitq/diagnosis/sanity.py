"""Does a classifier get its images as it was trained on them? Confidence, entropy, and agreement between crops."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from vitq.evidence.watch import probabilities
from vitq.models import Preprocessing
from vitq.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD

CHUNK = 16
CROPPED, NORMALISED = 32, 16
"""Images that are looked at in other crops, and with other normalisations."""
ZOOM = 0.875
"""Share of the side that a closer crop keeps."""

HALF = (0.5, 0.5, 0.5)
BETTER = 0.05
"""By how much another preprocessing has to be surer before it is named."""
UNSURE, UNSTEADY = 0.3, 0.6
"""Below this mean confidence, or agreement between crops, something is likely to be wrong."""

Logits = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class View:
    """The same images in another way: mean confidence, and on how many the likeliest class stays, shares of 1."""

    name: str
    confidence: float
    agreement: float


@dataclass(frozen=True)
class Sanity:
    """How sure a classifier is of its images, all shares of 1; ``entropy`` 1 is that of guessing, ``top1`` by labels.

    ``crops`` are other crops of the same images, ``others`` other ways to normalise them.
    """

    images: int
    classes: int
    confidence: float
    entropy: float
    predicted: int
    crops: tuple[View, ...]
    others: tuple[View, ...]
    beside: float = 0.0
    """Mean confidence on those images that ``others`` are of."""
    top1: float | None = None

    @property
    def better(self) -> View | None:
        """Another way to normalise of which the model is clearly surer."""
        best = max(self.others, key=lambda view: view.confidence, default=None)
        return best if best is not None and best.confidence > self.beside + BETTER else None

    @property
    def fits(self) -> bool:
        """Whether nothing speaks against the preprocessing."""
        steady = all(view.agreement >= UNSTEADY for view in self.crops)
        return self.better is None and steady and self.confidence >= UNSURE


@torch.no_grad()
def sanity_of(
    logits: Logits, x_NCHW: torch.Tensor, preprocessing: Preprocessing | None, labels_N: torch.Tensor | None
) -> Sanity:
    """Return how sure the model is on images, on other crops of them, and with other normalisations. Source: vitq.

    Without ``preprocessing`` it is not known how they were normalised, so that no other way is tried.
    """
    p_NK = _run(logits, x_NCHW)
    top_N, classes = p_NK.argmax(-1), p_NK.shape[-1]
    entropy_N = -(p_NK * p_NK.clamp(min=1e-12).log()).sum(-1)
    views = [
        [_view(name, _run(logits, own_NCHW), top_N) for name, own_NCHW in kind]
        for kind in (_crops(x_NCHW[:CROPPED]), _normalised(x_NCHW[:NORMALISED], preprocessing))
    ]
    return Sanity(
        images=len(x_NCHW),
        classes=classes,
        confidence=float(p_NK.amax(-1).mean()),
        entropy=float(entropy_N.mean() / torch.tensor(float(classes)).log()),
        predicted=len(top_N.unique()),
        crops=tuple(views[0]),
        others=tuple(views[1]),
        beside=float(p_NK[:NORMALISED].amax(-1).mean()),
        top1=None if labels_N is None else float((top_N == labels_N).double().mean()),
    )


def _run(logits: Logits, x_NCHW: torch.Tensor) -> torch.Tensor:
    return torch.cat([probabilities(logits(x_BCHW).float().cpu()) for x_BCHW in x_NCHW.split(CHUNK)])


def _view(name: str, p_NK: torch.Tensor, top_N: torch.Tensor) -> View:
    return View(name, float(p_NK.amax(-1).mean()), float((p_NK.argmax(-1) == top_N[: len(p_NK)]).double().mean()))


def _crops(x_NCHW: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    yield "mirrored", x_NCHW.flip(-1)
    height, width = x_NCHW.shape[-2:]
    top, left = round(height * (1 - ZOOM) / 2), round(width * (1 - ZOOM) / 2)
    closer = x_NCHW[..., top : height - top, left : width - left]
    yield "closer", functional.interpolate(closer, (height, width), mode="bilinear", align_corners=False)


def _normalised(x_NCHW: torch.Tensor, own: Preprocessing | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the images as other models want them, where it is known how they were normalised."""
    if own is None or len(own.mean) != 3 or x_NCHW.shape[1] != 3:
        return
    mean_311, std_311 = (torch.tensor(part)[:, None, None] for part in (own.mean, own.std))
    pixels = x_NCHW * std_311 + mean_311
    for name, mean, std in (
        ("ImageNet's mean and std", IMAGENET_MEAN, IMAGENET_STD),
        ("mean and std 0.5", HALF, HALF),
        ("pixels from 0 to 1", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ):
        if max(abs(a - b) for a, b in zip((*own.mean, *own.std), (*mean, *std), strict=True)) > 0.02:
            yield name, (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    yield "red and blue exchanged", ((pixels.flip(1)) - mean_311) / std_311

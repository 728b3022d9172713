"""A model that is watched while it is measured: what it predicts for each image, and which images show a difference."""

import hashlib
import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from vitq.evidence.schema import Pairs
from vitq.graph.outputs import Outputs, as_outputs

MOST = 5
"""Classes of each image whose probabilities are kept."""

Forward = Callable[[torch.Tensor], torch.Tensor | Outputs]


@dataclass
class Watched:
    """A classifier that is called as it is, and remembers the likeliest classes (N, 5) and their probabilities.

    With a ``reference``, which saw the same images in the same order, the ``pictures`` images on which the two differ
    most are kept too: those with another class first, then those that lost most confidence.
    """

    forward: Forward
    primary: str
    reference: "Watched | None" = None
    pictures: int = 8
    classes: list[torch.Tensor] = field(default_factory=list)
    shares: list[torch.Tensor] = field(default_factory=list)
    kept: list[tuple[float, int, torch.Tensor]] = field(default_factory=list)
    seen: int = 0

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor | Outputs:
        """Return what the model gives."""
        outputs = self.forward(x_BCHW)
        p_BK = probabilities(as_outputs(outputs)[self.primary].float().cpu())
        shares_B5, classes_B5 = p_BK.topk(min(MOST, p_BK.shape[-1]), -1)
        self.classes.append(classes_B5)
        self.shares.append(shares_B5)
        if self.reference is not None:
            self._keep(x_BCHW, p_BK)
        self.seen += len(x_BCHW)
        return outputs

    def rows(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return classes (N, 5) and probabilities (N, 5)."""
        if len(self.classes) > 1:  # joined once: the other model asks at each batch
            self.classes, self.shares = [torch.cat(self.classes)], [torch.cat(self.shares)]
        return self.classes[0], self.shares[0]

    def images(self) -> list[tuple[int, torch.Tensor]]:
        """Return the kept images, by their numbers, the greatest difference first."""
        return [(number, x_CHW) for _, number, x_CHW in sorted(self.kept, key=lambda kept: (-kept[0], kept[1]))]

    def _keep(self, x_BCHW: torch.Tensor, p_BK: torch.Tensor) -> None:
        assert self.reference is not None
        classes_N5, shares_N5 = self.reference.rows()
        own = slice(self.seen, self.seen + len(x_BCHW))
        top_B, share_B = classes_N5[own, 0], shares_N5[own, 0]
        if len(top_B) < len(x_BCHW):
            return
        fell_B = share_B - p_BK.gather(1, top_B[:, None])[:, 0]
        score_B = (p_BK.argmax(-1) != top_B).float() + fell_B
        for row, score in enumerate(score_B.tolist()):
            if len(self.kept) == self.pictures and score <= self.kept[0][0]:
                continue
            entry = (score, self.seen + row, x_BCHW[row].detach().cpu().clone())
            if len(self.kept) < self.pictures:
                heapq.heappush(self.kept, entry)
            else:
                heapq.heapreplace(self.kept, entry)


def probabilities(logits_BK: torch.Tensor) -> torch.Tensor:
    """Return the probability of each class; of one column, by its sign, those of two."""
    if logits_BK.shape[-1] == 1:
        logits_BK = torch.cat((-logits_BK, logits_BK), -1) / 2
    return logits_BK.softmax(-1).nan_to_num(0.0)


def pairs_of(
    floating: Watched, quantized: Watched, checksums: Sequence[int], labels_N: torch.Tensor | None
) -> Pairs | None:
    """Return what two watched models say of the same images; None where they did not see them all.

    Without a label the expected loss takes what floating point gives the class that the other chose, and 0 where that
    is none of its five likeliest. Source: vitq.
    """
    if not 0 < floating.seen == quantized.seen == len(checksums):
        return None
    (f_N5, p_N5), (q_N5, _) = floating.rows(), quantized.rows()
    f_N, q_N = f_N5[:, 0], q_N5[:, 0]
    given_N = (p_N5 * (f_N5 == q_N[:, None])).sum(1)
    lost_N = 100 * (p_N5[:, 0] - given_N).double()
    digest = hashlib.sha256(",".join(map(str, checksums)).encode()).hexdigest()
    labelled = labels_N is not None and labels_N.ndim == 1 and len(labels_N) == len(f_N)
    return Pairs(
        images=len(f_N),
        sha256=digest,
        agree=_hits(f_N == q_N),
        floating=_hits(f_N == labels_N) if labelled and labels_N is not None else "",
        quantized=_hits(q_N == labels_N) if labelled and labels_N is not None else "",
        expected_loss=float(lost_N.mean()),
        expected_deviation=float(lost_N.std(correction=0)),
    )


def _hits(hit_N: torch.Tensor) -> str:
    return "".join("01"[int(hit)] for hit in hit_N.tolist())

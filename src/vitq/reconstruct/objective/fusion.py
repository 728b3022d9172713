"""The fusion of an objective's terms: they add up after each is scaled by what it was at the start."""

from collections.abc import Iterable
from typing import Literal

import torch

from vitq.reconstruct.objective.terms import Batch, Term
from vitq.tasks.distances import EPSILON

Balance = Literal["value", "gradient"]


class Fusion:
    """Mixed granularity loss fusion: Σ_i w_i · L_i / L_i(first step), so the terms start at the ratio of their weights.

    Source: MGRQ names the fusion; scales taken once at the first iteration are vitq's reading (as in GLF-Q). Where the
    curvature is renewed they are taken again (``rescale``), as FIMA-Q does. With ``balance`` "gradient" it is the
    gradients at the segment's end that start at the ratio of the weights (``probe``, vitq): a small loss may be steep.
    """

    def __init__(self, terms: dict[str, tuple[float, Term]], balance: Balance = "value") -> None:
        self.terms = {name: (weight, term) for name, (weight, term) in terms.items() if weight > 0}
        self.first: dict[str, float] = {}
        self.balance = balance

    def probe(self, batches: Iterable[Batch]) -> None:
        """Take the scales from the mean norm of each term's gradient over some batches.

        All share one factor, so that the fused loss starts at the sum of the weights. A term that does not look at the
        segment's end keeps the scale of its value.
        """
        values, norms, count = dict.fromkeys(self.terms, 0.0), dict.fromkeys(self.terms, 0.0), 0
        for batch in batches:
            count += 1
            for name, (_, term) in self.terms.items():
                loss = term(batch)
                values[name] += float(loss.detach())
                if loss.requires_grad and batch.output.requires_grad:
                    (found,) = torch.autograd.grad(loss, batch.output, retain_graph=True, allow_unused=True)
                    norms[name] += 0.0 if found is None else float(found.float().norm())
        steep = [name for name, norm in norms.items() if norm > 0]
        weights = {name: self.terms[name][0] for name in steep}
        shared = sum(weights[name] * values[name] / norms[name] for name in steep) / max(sum(weights.values()), EPSILON)
        for name, value in values.items():
            scale = shared * norms[name] if name in weights else value
            self.first[name] = max(scale / max(count, 1), EPSILON)

    def rescale(self) -> None:
        """Take the scales again at the next step: what the terms measure has changed."""
        self.first.clear()

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the fused loss; zero where no term is left."""
        losses = []
        for name, (weight, term) in self.terms.items():
            loss = term(batch)
            if name not in self.first:
                self.first[name] = max(float(loss.detach()), EPSILON)
            losses.append(loss * (weight / self.first[name]))
        return torch.stack(losses).sum() if losses else batch.output.new_zeros(())

"""Orthogonal matrices that spread an outlier over all channels, drawn at random.

A Hadamard matrix of order n exists here where n = 2^k m, with m = 1 or m - 1 a prime of the form 4 j + 3 (Paley): 192,
384 and 768 are 12 · 2^k. Any other width gets one block after another, as large as they come.
"""

import torch

SMALLEST = 4
"""Channels of a block below which a rotation spreads next to nothing."""


def hadamard(order: int) -> torch.Tensor:
    """Return H / sqrt(n), orthogonal, in float64, its first column constant; ValueError where this knows none.

    Source: Sylvester's doubling of Paley's first construction, columns normalized.
    """
    odd = _paley_part(order)
    if odd is None:
        raise ValueError(f"no Hadamard matrix of order {order} is known here")
    h = _paley(odd) if odd > 1 else torch.ones(1, 1, dtype=torch.float64)
    while len(h) < order:
        h = torch.cat((torch.cat((h, h), 1), torch.cat((h, -h), 1)))
    normalized: torch.Tensor = h / order**0.5
    return normalized


def block_order(width: int) -> int:
    """Return the largest order of a Hadamard matrix that divides ``width``; 1 always does."""
    return next(order for order in range(width, 0, -1) if width % order == 0 and _paley_part(order) is not None)


def randomized_hadamard(width: int, generator: torch.Generator) -> torch.Tensor:
    """Return diag(±1) H: one channel becomes ±1 / sqrt(n) in all n of its block.

    Several blocks take the channels in random order. Source: QuIP#, QuaRot (arXiv 2404.00456).
    """
    order = block_order(width)
    h, blocks = hadamard(order), width // order
    return _shuffled(torch.block_diag(*(_signs(order, generator)[:, None] * h for _ in range(blocks))), generator)


def ones_preserving(width: int, generator: torch.Generator) -> torch.Tensor:
    """Return U diag(1, ±1, …) Uᵀ with a Hadamard U, which maps the vector of ones to itself.

    It keeps mean and variance over channels, so a layer norm commutes with it. Entries are about normal, of deviation
    1 / sqrt(n). Source: vitq.
    """
    order = block_order(width)
    u, blocks = hadamard(order), []
    for _ in range(width // order):
        signs = _signs(order, generator)
        signs[0] = 1.0
        blocks.append((u * signs) @ u.T)
    return _shuffled(torch.block_diag(*blocks), generator)


def _shuffled(q_CC: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Take the channels in random order, which keeps the vector of ones and mixes blocks."""
    return q_CC[torch.randperm(len(q_CC), generator=generator)]


def _signs(size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(2, (size,), generator=generator).double().mul_(2).sub_(1)


def _paley_part(order: int) -> int | None:
    """Return m of order = 2^k m, the smallest for which this knows a matrix; None where there is none."""
    halves = [order]
    while halves[-1] % 2 == 0:
        halves.append(halves[-1] // 2)
    return next((m for m in reversed(halves) if m == 1 or (m % 4 == 0 and _is_prime(m - 1))), None)


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def _paley(order: int) -> torch.Tensor:
    """Return the Hadamard matrix of Paley's first construction, with a first column of ones."""
    prime = order - 1
    squares = {i * i % prime for i in range(1, prime)}
    legendre = torch.tensor([0.0, *(1.0 if i in squares else -1.0 for i in range(1, prime))], dtype=torch.float64)
    index = torch.arange(prime)
    s = torch.zeros(order, order, dtype=torch.float64)
    s[0, 1:], s[1:, 0] = 1.0, -1.0
    s[1:, 1:] = legendre[(index[:, None] - index) % prime]
    h = s + torch.eye(order, dtype=torch.float64)
    return h * h[:, :1]

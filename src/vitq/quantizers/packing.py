"""Dense bit-packing: code i takes bits i*b to (i+1)*b-1 of a little-endian bit stream.

Eight codes of b bits are b bytes, so a group of eight goes through one 64-bit integer.
"""

import math
from collections.abc import Sequence

import torch

from vitq.errors import ArtifactError

GROUP = 8


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that ``count`` codes take, ceil(count * bits / 8)."""
    return -(-count * bits // 8)


def pack(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Pack uint8 codes at 1 to 8 bits into a 1-D uint8 tensor; ArtifactError if a code does not fit."""
    if codes.dtype != torch.uint8 or not 1 <= bits <= 8:
        raise ArtifactError(f"cannot pack {codes.dtype} codes at {bits} bits; give uint8 codes and 1 to 8 bits")
    if codes.numel() and int(codes.max()) >= 2**bits:
        raise ArtifactError(f"code {int(codes.max())} does not fit in {bits} bits; encode with the same bit-width")
    flat = codes.reshape(-1)
    flat = torch.nn.functional.pad(flat, (0, -flat.numel() % GROUP))
    groups_NG = flat.view(-1, GROUP).to(torch.int64)
    words_N = torch.zeros(groups_NG.shape[0], dtype=torch.int64, device=codes.device)
    for i in range(GROUP):
        words_N |= groups_NG[:, i] << (bits * i)
    bytes_NB = torch.stack([(words_N >> (8 * j)) & 0xFF for j in range(bits)], dim=1)
    return bytes_NB.to(torch.uint8).reshape(-1)[: packed_size(codes.numel(), bits)].clone()


def unpack(packed: torch.Tensor, bits: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the uint8 codes that ``pack`` stored; ArtifactError if length and ``shape`` do not match."""
    count = math.prod(shape)
    if packed.dtype != torch.uint8 or packed.ndim != 1 or packed.numel() != packed_size(count, bits):
        raise ArtifactError(
            f"packed codes: {tuple(packed.shape)} {packed.dtype}, but shape {tuple(shape)} at {bits} bits "
            f"takes {packed_size(count, bits)} bytes of uint8; the file is damaged or of another bit-width"
        )
    padded = torch.nn.functional.pad(packed, (0, -packed.numel() % bits))
    bytes_NB = padded.view(-1, bits).to(torch.int64)
    words_N = torch.zeros(bytes_NB.shape[0], dtype=torch.int64, device=packed.device)
    for j in range(bits):
        words_N |= bytes_NB[:, j] << (8 * j)
    groups_NG = torch.stack([(words_N >> (bits * i)) & (2**bits - 1) for i in range(GROUP)], dim=1)
    return groups_NG.to(torch.uint8).reshape(-1)[:count].reshape(tuple(shape))

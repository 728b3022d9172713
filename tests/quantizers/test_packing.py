"""Bit-packing: exact round trip, dense size, little-endian layout, and refusals."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitq.errors import ArtifactError
from vitq.quantizers import pack, packed_size, unpack


def reference_pack(codes: np.ndarray, bits: int) -> np.ndarray:
    stream = ((codes.reshape(-1, 1) >> np.arange(bits)) & 1).reshape(-1)
    return np.packbits(stream.astype(np.uint8), bitorder="little")


@settings(max_examples=60, deadline=None)
@given(bits=st.integers(1, 8), count=st.integers(0, 70), seed=st.integers(0, 1000))
def test_pack_is_the_dense_little_endian_bit_stream(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 2**bits, count, dtype=np.uint8)
    packed = pack(torch.from_numpy(codes), bits)
    assert packed.numel() == packed_size(count, bits) == -(-count * bits // 8)
    assert np.array_equal(packed.numpy(), reference_pack(codes, bits))
    assert np.array_equal(unpack(packed, bits, (count,)).numpy(), codes)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("shape", [(1,), (3, 5), (7, 3, 2, 2), (), (0, 4)])
def test_shape_is_restored(bits: int, shape: tuple[int, ...]) -> None:
    codes = torch.randint(0, 2**bits, shape, dtype=torch.uint8)
    restored = unpack(pack(codes, bits), bits, shape)
    assert restored.shape == codes.shape
    assert torch.equal(restored, codes)


def test_non_contiguous_codes() -> None:
    codes = torch.randint(0, 8, (6, 5), dtype=torch.uint8).T
    assert torch.equal(unpack(pack(codes, 3), 3, (5, 6)), codes)


def test_refusals() -> None:
    with pytest.raises(ArtifactError, match="does not fit in 3 bits"):
        pack(torch.tensor([8], dtype=torch.uint8), 3)
    with pytest.raises(ArtifactError, match="uint8"):
        pack(torch.tensor([1]), 3)
    with pytest.raises(ArtifactError, match="damaged"):
        unpack(torch.zeros(4, dtype=torch.uint8), 3, (8,))

"""The words of numpy's Philox generator by integer arithmetic of torch, on any device: the same bits.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011), Philox-4x64-10. int64 stands
for uint64: sums, products and xor have the same bits, and shifts are made logical by masks.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = 2**32 - 1
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)
WEYL = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)
ROUNDS = 10


def signed(value: int) -> int:
    """The int64 with the bits of value mod 2^64."""
    return (value + 2**63) % 2**64 - 2**63


def logical_shift(x: Tensor, bits: int) -> Tensor:
    """x >> bits of the uint64 with the bits of x; bits > 0."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def high_product(x: Tensor, factor: int) -> Tensor:
    """The upper 64 of the 128 bits of a product of uint64."""
    x_high, x_low = logical_shift(x, 32), x & HALF
    high, low = factor >> 32, factor & HALF
    cross, other = x_low * high, x_high * low
    middle = logical_shift(x_low * low, 32) + (cross & HALF) + (other & HALF)
    return x_high * high + logical_shift(cross, 32) + logical_shift(other, 32) + (middle >> 32)


def words(seed: int, index: int, stage: int, first: int, blocks: int, device: torch.device) -> Tensor:
    """(4 blocks,) int64: what np.random.Philox with key (seed, index) and counter (first, 0, 0, stage) gives first.

    Requires: 0 <= first, first + blocks < 2^63."""
    zero = torch.zeros(blocks, dtype=torch.int64, device=device)
    c = [first + 1 + torch.arange(blocks, dtype=torch.int64, device=device), zero, zero, zero + signed(stage)]
    key = [seed, index]
    for _ in range(ROUNDS):
        high = [high_product(x, m) for x, m in zip((c[0], c[2]), MULTIPLIERS, strict=True)]
        low = [x * signed(m) for x, m in zip((c[0], c[2]), MULTIPLIERS, strict=True)]
        c = [high[1] ^ c[1] ^ signed(key[0]), low[1], high[0] ^ c[3] ^ signed(key[1]), low[0]]
        key = [k + w for k, w in zip(key, WEYL, strict=True)]
    return torch.stack(c, dim=1).flatten()

"""Spectral norms of convolutions, by the matrices of their frequencies.

Pixels of each residue modulo the stride become channels of their own, so that the stride is 1. Such a convolution is a
part of the periodic one on any torus where no two windows, or no two pixels of the image, that do not share a cell come
to share one; the norm of that is the largest of its blocks B(w) = sum over taps t of K_t exp(2 pi i w q_t), q_t the
place of tap t (docs/maths.md 11).

Precondition: windows that `counts` accepted. Postcondition: at least the norm of the convolution without its bias.
Charged: cosines and sines are of Arb; their radius and what the sums of taps round, as a matrix whose norm is added.
"""

from __future__ import annotations

import functools

import numpy as np

from proofs_check.kernel.linear_forms import IntArray, Shape
from proofs_check.kernel.norms import MAX_SQUARED, spectral_norm
from proofs_check.kernel.rounding import Array, centred, enclose, float_up, sum_error
from proofs_check.kernel.windows import Sliding

MAX_PLACES = 2**16
MAX_PRODUCTS = 2**36  # of numbers, to square all blocks
CHUNK = 2**22  # entries of the blocks that travel together


def convolution_norm(weight: Array, sliding: Sliding, image: Shape, counts: Shape) -> float | None:
    """Of kernels (groups, out, kh, kw, in) on images (height, width) with windows at so many places; None where that
    takes too long."""
    (height, rows, row_residues), (width, columns, column_residues) = (
        _axis(sliding, axis, image[axis], counts[axis]) for axis in (0, 1)
    )
    row_turns, column_turns = rows[:, None] * width, columns * height  # per frequency, in parts of a full circle
    residues = np.unique(row_residues[:, None] * max(sliding.stride) + column_residues, return_inverse=True)[1].ravel()
    taps_of = [np.flatnonzero(residues == r) for r in range(residues.max() + 1)]
    kernels = np.moveaxis(weight, 4, 2).reshape(*weight.shape[:2], weight.shape[4], -1)  # taps last
    groups, out, per_group, taps = kernels.shape
    frequencies = np.indices((height // 2 + 1, width)).reshape(2, -1, 1, 1)  # the others are their conjugates
    count, size = groups * frequencies.shape[1], height * width
    short, long = sorted((2 * out, 2 * per_group * len(taps_of)))
    if short > MAX_SQUARED or size > MAX_PLACES or count * short * short * (short + long) > MAX_PRODUCTS:
        return None
    cosines, sines, radius = circle(size)
    norms: list[float] = []
    parts = min(1 + count * short * long // CHUNK, frequencies.shape[1])  # none of them empty
    for row, column in np.array_split(frequencies, parts, axis=1):
        turns = ((row * row_turns + column * column_turns) % size).reshape(len(row), taps)
        real, imaginary = (
            np.concatenate([kernels[..., t] @ table[turns[:, t]].T for t in taps_of], axis=2)
            for table in (cosines, sines)
        )  # (groups, out, in, frequencies)
        block = np.concatenate([np.concatenate([real, -imaginary], 2), np.concatenate([imaginary, real], 2)], 1)
        norms.append(spectral_norm(np.moveaxis(block, 3, 1)))
    doubt = 2 * (radius + sum_error(taps)) * float(np.abs(weight).sum()) * (1 + 2 * sum_error(weight.size))
    return float_up(max(norms) + float_up(doubt))


def _axis(sliding: Sliding, axis: int, length: int, count: int) -> tuple[int, IntArray, IntArray]:
    """Along one axis: the torus, and of every tap of the kernel its place and its residue."""
    stride, before = sliding.stride[axis], sliding.padding[axis]
    places, residues = np.divmod(sliding.dilation[axis] * np.arange(sliding.kernel[axis], dtype=np.int64), stride)
    pixels = (before + length - 1) // stride - before // stride + 1  # of the image, with those of all residues as one
    return min(count, pixels) + int(places[-1]), places, residues


@functools.lru_cache(maxsize=16)
def circle(size: int) -> tuple[Array, Array, float]:
    """cos and sin of 2 pi k / size, and how far they may be off."""
    angles = np.arange(size, dtype=np.float64)
    cosines, radius = centred(*enclose(lambda k: (2 * k / size).cos_pi(), angles))
    sines, other = centred(*enclose(lambda k: (2 * k / size).sin_pi(), angles))
    return cosines, sines, float(np.maximum(radius, other).max())

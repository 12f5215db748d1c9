"""Spectral norms of convolutions by their Fourier blocks, in double precision.

Pixels of each residue modulo the stride become channels of their own; the convolution of stride 1 is then a part of
the periodic one on a torus large enough, whose norm is the largest of its Fourier blocks (docs/maths.md 11).
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from proofs_check import certificate as c

MAX_ENTRIES = 2**25  # of all blocks together
MAX_PRODUCTS = 2**35


def by_frequencies(node: c.Conv2d, image: tuple[int, int], counts: tuple[int, int]) -> float | None:
    """Of a convolution of images (height, width) with windows at so many places; None where it takes too long. Rounding
    is not accounted for."""
    stride, groups = node.stride, node.groups
    kernel = node.weight.astype(np.float64).reshape(groups, -1, *node.weight.shape[1:])
    places = [np.arange(k) * d for k, d in zip(kernel.shape[3:], node.dilation, strict=True)]
    torus: list[int] = []
    for axis in (0, 1):
        before, last = node.padding[axis], node.padding[axis] + image[axis] - 1
        length = last // stride[axis] - before // stride[axis] + 1
        torus.append(min(length, counts[axis]) + int(places[axis][-1]) // stride[axis])
    out, per_group = kernel.shape[1:3]
    residues = sorted({(int(i) % stride[0], int(j) % stride[1]) for i, j in itertools.product(*places)})
    blocks, short = groups * torus[0] * torus[1], min(out, per_group * len(residues))
    if blocks * out * per_group * len(residues) > MAX_ENTRIES or blocks * short**2 * out > MAX_PRODUCTS:
        return None
    spread = np.zeros((groups, out, len(residues), per_group, *torus))
    for (a, i), (b, j) in itertools.product(enumerate(places[0].tolist()), enumerate(places[1].tolist())):
        at = residues.index((i % stride[0], j % stride[1]))
        spread[:, :, at, :, i // stride[0], j // stride[1]] += kernel[:, :, :, a, b]
    frequencies = np.moveaxis(np.fft.rfft2(spread.reshape(groups, out, -1, *torus)), (1, 2), (3, 4))
    if out > frequencies.shape[4]:
        frequencies = frequencies.swapaxes(3, 4)
    squares = frequencies @ frequencies.conj().swapaxes(3, 4)
    return math.sqrt(float(np.linalg.eigvalsh(squares)[..., -1].max()))

"""The gain of a block that does the same at every pixel of a torus, frequency by frequency.

At every frequency y = A x + B w and v = C x by complex matrices, here real ones of twice the size; multipliers are
those of channels. Where 2Λ - B'B >= 0 and e >= |A'B + C'Λ| at all of them, |y|^2 <= (|A|^2 + e (1 + |C|^2)) |x|^2, with
the largest norms of all frequencies (docs/maths.md 11). One pixel has one frequency, a real one, and `inequality`
proves more.

Precondition: as for `periodic`. Postcondition: `gain` is at least the block's. Charged: cosines, sines, and sums and
products of matrices, to bounds of the norms of what these are off.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from proofs_check.kernel.bounds import Prepared, inputs_of
from proofs_check.kernel.layers.add import Add
from proofs_check.kernel.layers.conv2d import Conv2d
from proofs_check.kernel.layers.diagonal import Diagonal
from proofs_check.kernel.layers.layer import Elementwise
from proofs_check.kernel.linear_forms import IntArray, Shape
from proofs_check.kernel.norms import MAX_SQUARED, spectral_norm
from proofs_check.kernel.rounding import Array, float_up, sum_error
from proofs_check.kernel.spectra import MAX_PLACES, MAX_PRODUCTS, circle
from proofs_check.rules.lipschitz import inequality
from proofs_check.rules.lipschitz.inequality import SHIFT, Matrices, Off, frobenius
from proofs_check.rules.lipschitz.periodic import roles_of

MAX_ENTRIES = 2**22  # of one node's matrices at a time
MAX_COLUMNS = 1024  # of the matrices of a single pixel


@dataclass(frozen=True, eq=False)
class Known:
    """matrices (frequencies, parts, rows, columns), parts: real and imaginary, and a bound of what each is off."""

    matrices: Array
    off: float

    @property
    def flat(self) -> Array:
        count, parts, rows, columns = self.matrices.shape
        return self.matrices.reshape(count, parts * rows, columns)


def gain(prepared: Prepared, below: int, inside: list[int]) -> float | None:
    """None where the block is not of this form, or that takes too long."""
    found = roles_of(prepared, below, inside)
    if found is None:
        return None
    roles, lengths = found
    widths = [prepared.shapes[k][0] for k in (below, *inside) if k == below or _nonlinear(prepared, k)]
    pixels, parts = math.prod(lengths), 1 if math.prod(lengths) == 1 else 2
    rows, columns = parts * max(prepared.shapes[k][0] for k in (below, *inside)), parts * sum(widths)
    frequencies: IntArray = np.indices((lengths[0] // 2 + 1, lengths[1])).reshape(2, -1).T  # the others: conjugates
    entries = len(frequencies) * rows * columns
    if (
        max(rows, columns) > (MAX_COLUMNS if pixels == 1 else MAX_SQUARED)
        or pixels > MAX_PLACES
        or entries * columns > MAX_PRODUCTS
    ):
        return None
    of_x = np.arange(columns) % sum(widths) < widths[0]

    def blocks() -> Iterator[tuple[Matrices, Off]]:
        for part in np.array_split(frequencies, -(-entries // MAX_ENTRIES)):
            y, v = _values(prepared, below, inside, roles, Torus(lengths, part, parts))
            yield (y.flat[:, :, of_x], y.flat[:, :, ~of_x], v.flat[:, :, of_x]), (y.off, y.off, v.off)

    if pixels == 1:
        (a, b, c), off = next(blocks())
        return inequality.gain((a[0], b[0], c[0]), off)
    proven = _proven(blocks())
    return proven if math.isfinite(proven) else None


def _nonlinear(prepared: Prepared, node: int) -> bool:
    return isinstance(prepared.layers[node], Elementwise)


# ---------------------------------------------------------------- matrices


@dataclass(frozen=True, eq=False)
class Torus:
    """Of these lengths; some of its frequencies (F, 2); parts: 1 if it is one pixel, else 2."""

    lengths: Shape
    frequencies: IntArray
    parts: int

    def kernel(self, layer: Conv2d, places: IntArray) -> tuple[Array, float]:
        """(F, parts out, parts in), and how far that is off."""
        groups, out, kh, kw, per_group = layer.weight.shape
        size = math.prod(self.lengths)
        cosines, sines, radius = circle(size)
        turns = (self.frequencies * np.array(self.lengths[::-1])) @ places.T % size
        dense = np.zeros((groups, out, groups, per_group, kh * kw))
        for k in range(groups):
            dense[k, :, k] = np.moveaxis(layer.weight[k].reshape(out, kh * kw, per_group), 1, 2)
        dense = dense.reshape(groups * out, groups * per_group, kh * kw)
        real, imaginary = (np.moveaxis(dense @ table[turns].T, 2, 0) for table in (cosines, sines))
        doubt = 2 * (radius + sum_error(kh * kw)) * float(np.abs(dense).sum()) * (1 + 2 * sum_error(dense.size))
        if self.parts == 2:
            real = np.concatenate([np.concatenate([real, -imaginary], 2), np.concatenate([imaginary, real], 2)], 1)
        return real, float_up(doubt)


def _values(
    prepared: Prepared, below: int, inside: list[int], roles: dict[int, IntArray], torus: Torus
) -> tuple[Known, Known]:
    """Of y and of v, in the cells of x and w."""
    widths = {k: prepared.shapes[k][0] for k in (below, *inside) if k == below or _nonlinear(prepared, k)}
    columns = torus.parts * sum(widths.values())
    units = np.eye(columns).reshape(1, torus.parts, -1, columns)
    values, start, inner = {below: Known(units[:, :, : widths[below]], 0.0)}, widths[below], list[Known]()
    for k in inside:
        layer, terms = prepared.layers[k], [values[i] for i in inputs_of(prepared.network.nodes[k])]
        first, largest = terms[0], frobenius(terms[0].flat)
        if isinstance(layer, Elementwise):
            inner.append(first)
            stop = start + widths[k]
            values[k], start = Known(units[:, :, start:stop] * layer.derivative()[1], 0.0), stop
        elif isinstance(layer, Conv2d):
            kernel, doubt = torus.kernel(layer, roles[k])
            product, size = kernel @ first.flat, frobenius(kernel)
            off = (size + doubt) * first.off + (doubt + sum_error(kernel.shape[2]) * size) * largest
            values[k] = Known(product.reshape(len(product), torus.parts, -1, columns), float_up(off * (1 + SHIFT)))
        elif isinstance(layer, Add):
            second = terms[1]
            off = first.off + second.off + sum_error(1) * (largest + frobenius(second.flat))
            values[k] = Known(first.matrices + second.matrices, float_up(off * (1 + SHIFT)))
        elif isinstance(layer, Diagonal):
            most = float(np.abs(layer.gain).max())
            off = most * (first.off + sum_error(layer.terms) * largest)
            values[k] = Known(first.matrices * layer.gain[:, :, 0], float_up(off * (1 + SHIFT)))
        else:
            values[k] = _moved(terms, roles[k])
    return values[inside[-1]], _moved([Known(units[:, :, :0], 0.0), *inner], None)


def _moved(terms: list[Known], channels: IntArray | None) -> Known:
    """These channels of all of them, one after another; default: all."""
    count = max(len(t.matrices) for t in terms)
    together = np.concatenate([np.broadcast_to(t.matrices, (count, *t.matrices.shape[1:])) for t in terms], axis=2)
    off = float_up(sum(t.off for t in terms) * (1 + SHIFT))
    if channels is None:
        return Known(together, off)
    return Known(together[:, :, channels], float_up(off * math.sqrt(np.bincount(channels).max()) * (1 + SHIFT)))


# ---------------------------------------------------------------- the inequality


def _most(first: float, second: float) -> float:
    """The larger one; not a number where one of them is none, as what lies beyond a double may be."""
    return float(np.maximum(first, second))


def _proven(blocks: Iterator[tuple[Matrices, Off]]) -> float:
    """From blocks of frequencies. The multipliers are 1 / roots^2, or twice that and more if B asks for it."""
    roots: Array | None = None
    of_a = of_b = of_c = coupling = off_y = off_v = 0.0
    for (a, b, c), (off, _, off_c) in blocks:
        off_y, off_v = _most(off_y, off), _most(off_v, off_c)
        of_a = _most(of_a, spectral_norm(a[:1] if (a == a[:1]).all() else a))
        if not b.shape[2]:
            continue
        across, back = a.swapaxes(1, 2) @ b, c.swapaxes(1, 2)
        if roots is None:  # what makes the coupling least at the frequencies first seen
            best, squares = (t.sum(axis=(0, 1)).reshape(2, -1).sum(axis=0) for t in (-across * back, back * back))
            best = (best / np.where(squares > 0, squares, 1.0)).clip(min=0.0)
            roots = np.tile(1 / np.sqrt(best + SHIFT * max(float(best.max()), SHIFT)), 2)
        scaled, multiplied = b * roots, back / (roots * roots)
        of_b = _most(of_b, float_up(spectral_norm(scaled) + 2.0**-50 * frobenius(scaled)))
        of_c = _most(of_c, frobenius(c))
        rounded = sum_error(a.shape[1]) * frobenius(a) * frobenius(b) + 2.0**-48 * frobenius(multiplied)
        coupling = _most(coupling, float_up(frobenius(across + multiplied) + float_up(rounded)))
    if roots is None:
        return float_up(of_a + off_y)
    most, scale = float((1 / (roots * roots)).max()) * (1 + SHIFT), max(1.0, of_b * of_b / 2 * (1 + SHIFT))
    norm, lost = float_up(of_c + off_v), coupling + (scale - 1) * most * of_c
    square = of_a * of_a + lost * (1 + norm * norm) + 2 * norm * off_v * scale * most
    return float_up(float_up(math.sqrt(square * (1 + SHIFT))) + float_up(off_y * (1 + norm)))

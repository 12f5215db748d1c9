"""Trees of splits (docs/maths.md 10): their bytes, and bounds of logit differences on a leaf.

Every split stands for both of its sides, so the leaves cover the ball however the tree looks; what stands in it are
hints, but for one thing: each leaf must be proven, by the rule that reads it.

Precondition: `Differences` of the ball. Postcondition: `leaves` cover it, in order; `on_leaf` and `largest` bound what
they say wherever the sides of a leaf hold.
Charged: nothing for a multiplier: where one is added to a coefficient, what is really added is the difference of two
doubles of the right sign, as rounding is monotone, and that difference is what counts; a backward pass carries its own.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from proofs_check.certificate import RejectedError, need
from proofs_check.kernel import bounds
from proofs_check.kernel.parts import part, with_hints
from proofs_check.kernel.rounding import Array
from proofs_check.rules.margin.differences import Differences
from proofs_check.rules.margin.exponential import upper_of
from proofs_check.witness import LEVELS, MAX_BYTES, SHARED_ROW, difference_row

MAX_DEPTH = 2**10  # splits above a leaf
MAX_LEAVES = 2**18  # of one tree
CHUNK = 2**12  # compressed bytes at once

LEAF, REBOUNDED_LEAF, SIGN_SPLIT, DIFFERENCE_SPLIT, ANEW_LEAF = range(5)


@dataclass(frozen=True)
class Side:
    """One side of a split: sign (v - at) >= 0. v: the input of neuron `index`, at 0; or d_index where `difference`."""

    difference: bool
    index: int
    at: float
    sign: float = 1.0


@dataclass(frozen=True, eq=False)
class Leaf:
    """One part of the ball. slopes: (n,) in [0, 1]. multipliers: of the sides of its path, >= 0. kind: what is bounded
    anew there."""

    path: tuple[Side, ...]
    slopes: Array
    multipliers: Array
    kind: int

    def on(self, differences: bool) -> list[tuple[Side, float]]:
        """Its sides of one sort, with their multipliers."""
        pairs = zip(self.path, self.multipliers.tolist(), strict=True)
        return [(side, multiplier) for side, multiplier in pairs if side.difference == differences]


class Stream:
    """A zlib stream, decompressed as it is asked for. Rejects one that is damaged, cut short or too long."""

    def __init__(self, data: bytes) -> None:
        self.source = io.BytesIO(data)
        self.stream = zlib.decompressobj()
        self.left = MAX_BYTES

    def _more(self, count: int) -> bytes:
        need(not self.stream.eof, "tree", "is cut short")
        chunk = self.stream.unconsumed_tail or self.source.read(CHUNK)
        try:
            found = self.stream.decompress(chunk, count)
        except zlib.error as error:
            raise RejectedError("tree", f"is not a zlib stream: {error}") from error
        need(chunk or found, "tree", "is cut short")
        return found

    def numbers(self, kind: str, count: int) -> NDArray[Any]:
        """The next `count` numbers of that numpy type."""
        size = count * np.dtype(kind).itemsize
        self.left -= size
        need(self.left >= 0, "tree", f"holds more than {MAX_BYTES} bytes")
        found = b""
        while len(found) < size:
            found += self._more(size - len(found))
        return np.frombuffer(found, dtype=kind)

    def end(self) -> None:
        """Nothing is left."""
        while not self.stream.eof:
            need(not self._more(1), "tree", "goes on after its last leaf")
        need(not (self.stream.unused_data or self.source.read(1)), "tree", "goes on after its end")


def leaves(stream: Stream, columns: int, splittable: frozenset[int]) -> Iterator[Leaf]:
    """Depth first, the side sign > 0 of every split first. splittable: the d_j that may be split."""
    path, levels = list[Side](), np.zeros(columns, dtype=np.uint8)
    for _ in range(MAX_LEAVES):
        while (kind := int(stream.numbers("u1", 1)[0])) in (SIGN_SPLIT, DIFFERENCE_SPLIT):
            path.append(_split(stream, kind, columns, splittable))
            need(len(path) <= MAX_DEPTH, "tree", f"is deeper than {MAX_DEPTH}")
        need(kind in (LEAF, REBOUNDED_LEAF, ANEW_LEAF), "tree", f"holds a node of unknown kind {kind}")
        levels = levels + stream.numbers("u1", columns)  # modulo 256
        multipliers = stream.numbers("<f4", len(path)).astype(np.float64)
        need(((multipliers >= 0) & (multipliers < np.inf)).all(), "tree", "a multiplier is negative or not finite")
        yield Leaf(tuple(path), levels / LEVELS, multipliers, kind)
        while path and path[-1].sign < 0:
            path.pop()
        if not path:
            return stream.end()
        path[-1] = dataclasses.replace(path[-1], sign=-1.0)
    raise RejectedError("tree", f"has more than {MAX_LEAVES} leaves")


def _split(stream: Stream, kind: int, columns: int, splittable: frozenset[int]) -> Side:
    index, at = int(stream.numbers("<u4", 1)[0]), 0.0
    if kind == SIGN_SPLIT:
        need(index < columns, "tree", f"splits neuron {index} of {columns}")
        return Side(False, index, at)
    at = float(stream.numbers("<f8", 1)[0])
    need(index in splittable and abs(at) < np.inf, "tree", f"splits d_{index} at {at}")
    return Side(True, index, at)


def on_leaf(found: Differences, leaf: Leaf, y: int) -> Differences | None:
    """Bounds where the sides of `leaf` hold, None: nowhere."""
    lower, upper = found.lower.copy(), found.upper.copy()
    for side, _ in leaf.on(True):
        end, tighter = (lower, max) if side.sign > 0 else (upper, min)
        end[side.index] = tighter(end[side.index], side.at)
    values = part(found.values, [(side.index, side.sign) for side, _ in leaf.on(False)], leaf.kind == ANEW_LEAF)
    if values is None:
        return None
    if leaf.kind != LEAF:
        forms = bounds.difference_forms(len(upper), found.networks, y)
        rows = [values.slope_row(difference_row(j)) for j in range(len(upper))]
        upper = np.minimum(upper, bounds.functionals(values, forms, rows))
        upper[~forms.any(axis=1)] = 0.0
    return None if (lower > upper).any() else dataclasses.replace(found, lower=lower, upper=upper, values=values)


def largest(here: Differences, leaf: Leaf, coefficients: Array, y: int) -> arb:
    """Upper bound of coefficients . d on the leaf, by its slopes and multipliers; an Arb ball."""
    coefficients, constant = coefficients.copy(), arb(0)
    for side, multiplier in leaf.on(True):
        before = arb(float(coefficients[side.index]))
        coefficients[side.index] += side.sign * multiplier
        constant -= (arb(float(coefficients[side.index])) - before) * arb(side.at)
    signs = leaf.on(False)
    hinted = with_hints(
        here.values, leaf.slopes, [(side.index, side.sign) for side, _ in signs], np.array([m for _, m in signs])
    )
    upper = upper_of(dataclasses.replace(here, values=hinted), coefficients[None], y, [SHARED_ROW])
    return constant + arb(float(upper[0]))

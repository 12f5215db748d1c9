"""Lemma 3.2 by branching (docs/maths.md 10): the exponential form, proven part by part of the ball.

A tree of splits, depth first. Every split stands for both of its sides, so the leaves cover the ball however the tree
looks; what stands in it are hints, but for one thing: each leaf must be proven. A rival's tree need only speak of the
points at which no other rival is stronger: there are trees, or proofs on the whole ball, for all of them.

Precondition: a claim tied to the network at hand. Postcondition: it holds.
Charged: nothing for a multiplier: where one is added to a coefficient, what is really added is the difference of two
doubles of the right sign, as rounding is monotone, and that difference is what counts; a backward pass carries its own.
"""

from __future__ import annotations

import dataclasses
import io
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from flint import arb
from numpy.typing import NDArray

from proofs_check.certificate import Assumption, Claim, RejectedError, need
from proofs_check.kernel import bounds
from proofs_check.kernel.parts import part, with_hints
from proofs_check.kernel.rounding import Array
from proofs_check.rules.case import Case
from proofs_check.rules.margin.differences import Differences, decoded, differences, need_class, rivals
from proofs_check.rules.margin.exponential import chord, exponential_misses, upper_of
from proofs_check.rules.margin.rule import box_proves
from proofs_check.witness import LEVELS, MAX_BYTES, SHARED_ROW, difference_row

MAX_DEPTH = 2**10  # splits above a leaf
MAX_LEAVES = 2**18  # of one tree
CHUNK = 2**12  # compressed bytes at once

LEAF, REBOUNDED_LEAF, SIGN_SPLIT, DIFFERENCE_SPLIT, ANEW_LEAF = range(5)


@dataclass(frozen=True)
class BranchedMargin:
    """witness: as in `NetworkMargin`. trees: per class base64 of a tree (FORMAT.md), or None: proven without."""

    witness: str | None
    trees: tuple[str | None, ...]


@dataclass(frozen=True)
class Side:
    """One side of a split: sign (v - at) >= 0. v: the input of neuron `index`, at 0; or d_index where `difference`."""

    difference: bool
    index: int
    at: float
    sign: float = 1.0


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


def branched_margin(claim: Claim, evidence: BranchedMargin, case: Case) -> frozenset[Assumption]:
    """Lemma 3.2: every rival by its tree, or where it has none as in `network_margin`."""
    found, trees = differences(case.robust, evidence.witness, case, claim), evidence.trees
    need_class(case, claim, found.upper)
    need(len(trees) == len(found.upper), "tree", f"{len(trees)} entries for {len(found.upper)} classes")
    need(trees[claim.predicted] is None, "tree", "the predicted class has one")
    unproven = [i for i in rivals(claim, len(trees)) if trees[i] is None and not box_proves(found.upper, i, claim)]
    missed = exponential_misses(found, unproven, claim)
    need(not missed, "margin", f"rivals {missed}: margin is not proven to exceed the required one")
    for rival, tree in enumerate(trees):
        if tree is not None:
            _need_tree(found, rival, Stream(decoded(tree, "tree")), claim)
    return frozenset()


def _need_tree(found: Differences, rival: int, stream: Stream, claim: Claim) -> None:
    """Read the tree depth first, the side sign > 0 of every split first, and prove each leaf as it comes."""
    columns, path = found.values.prepared.slope_start[-1], list[Side]()
    levels = np.zeros(columns, dtype=np.uint8)
    for leaf in range(MAX_LEAVES):
        while (kind := int(stream.numbers("u1", 1)[0])) in (SIGN_SPLIT, DIFFERENCE_SPLIT):
            path.append(_split(stream, kind, columns, claim.predicted, len(found.upper)))
            need(len(path) <= MAX_DEPTH, "tree", f"is deeper than {MAX_DEPTH}")
        need(kind in (LEAF, REBOUNDED_LEAF, ANEW_LEAF), "tree", f"holds a node of unknown kind {kind}")
        levels = levels + stream.numbers("u1", columns)  # modulo 256
        multipliers = stream.numbers("<f4", len(path)).astype(np.float64)
        need(((multipliers >= 0) & (multipliers < np.inf)).all(), "tree", "a multiplier is negative or not finite")
        proven = _leaf_proves(found, rival, claim, path, levels / LEVELS, multipliers, kind)
        need(proven, "margin", f"rival {rival}: leaf {leaf} of its tree is not proven")
        while path and path[-1].sign < 0:
            path.pop()
        if not path:
            return stream.end()
        path[-1] = dataclasses.replace(path[-1], sign=-1.0)
    raise RejectedError("tree", f"has more than {MAX_LEAVES} leaves")


def _split(stream: Stream, kind: int, columns: int, y: int, classes: int) -> Side:
    index, at = int(stream.numbers("<u4", 1)[0]), 0.0
    if kind == SIGN_SPLIT:
        need(index < columns, "tree", f"splits neuron {index} of {columns}")
        return Side(False, index, at)
    at = float(stream.numbers("<f8", 1)[0])
    need(index < classes and index != y and abs(at) < np.inf, "tree", f"splits d_{index} at {at}")
    return Side(True, index, at)


def _leaf_proves(
    found: Differences, rival: int, claim: Claim, path: list[Side], slopes: Array, multipliers: Array, kind: int
) -> bool:
    """sum_j w_j exp(T d_j) < 2 alpha - 1 wherever the sides of `path` hold and d_rival is the largest d_j, j != y; also
    where that is nowhere."""
    lower, upper = found.lower.copy(), found.upper.copy()
    on_differences = [(side, m) for side, m in zip(path, multipliers, strict=True) if side.difference]
    on_neurons = [k for k, side in enumerate(path) if not side.difference]
    for side, _ in on_differences:
        end, tighter = (lower, max) if side.sign > 0 else (upper, min)
        end[side.index] = tighter(end[side.index], side.at)
    signs = [(path[k].index, path[k].sign) for k in on_neurons]
    values = part(found.values, signs, kind == ANEW_LEAF)
    if values is not None and kind != LEAF:
        forms = np.eye(len(upper)) - np.eye(len(upper))[claim.predicted]  # d_j by row
        rows = [values.slope_row(difference_row(j)) for j in range(len(upper))]
        upper = np.minimum(upper, bounds.functionals(values, forms, rows))
    lower[rival] = np.delete(lower, claim.predicted).max()
    upper = np.minimum(upper, upper[rival])
    upper[claim.predicted] = 0.0
    if values is None or (lower > upper).any() or box_proves(upper, rival, claim):
        return True
    hinted = with_hints(values, slopes, signs, multipliers[on_neurons])
    leaf = Differences(lower, upper, hinted, found.error)
    line = chord(leaf, rival, claim)
    coefficients, intercept = line.coefficients.copy(), line.intercept
    for side, multiplier in on_differences:
        before = arb(float(coefficients[side.index]))
        coefficients[side.index] += side.sign * multiplier
        intercept -= (arb(float(coefficients[side.index])) - before) * arb(side.at)
    least_upper = upper_of(leaf, coefficients[None], claim.predicted, [SHARED_ROW])
    return bool(intercept + arb(float(least_upper[0])) < line.threshold)

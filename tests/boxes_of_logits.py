"""Boxes of logits and maps of MixedNUTS, for the tests of both sides of the trust line."""

from __future__ import annotations

import itertools

from flint import arb
from hypothesis import strategies as st

from proofs_check.certificate import MixedNuts

maps = st.builds(MixedNuts, st.floats(0.1, 50), st.floats(-2, 2), st.sampled_from([0.5, 1.0, 2.0, 3.5]))
boxes = st.lists(st.tuples(st.floats(-8, 8), st.sampled_from([0.0, 1e-9, 0.1, 1.0, 4.0])), min_size=2, max_size=4)


def points(box: list[tuple[float, float]]) -> list[list[float]]:
    """Logits in the box (centre, half width): its corners, and a grid."""
    axes = [sorted({c + f * w for f in (-1, -0.5, 0, 0.4, 1)}) for c, w in box]
    return [list(z) for z in itertools.product(*axes)]


def centered(box: list[tuple[float, float]]) -> tuple[list[arb], list[arb]]:
    """Bounds of z_j - mean z over the box, exact."""
    ends = [(arb(c) - arb(w), arb(c) + arb(w)) for c, w in box]
    count = len(box)
    lower, upper = [], []
    for j, (low, up) in enumerate(ends):
        others = [e for k, e in enumerate(ends) if k != j]
        lower.append((low * (count - 1) - sum((u for _, u in others), arb(0))) / count)
        upper.append((up * (count - 1) - sum((b for b, _ in others), arb(0))) / count)
    return lower, upper


def exact_differences(box: list[tuple[float, float]], y: int) -> list[arb]:
    """Upper bounds of z_j - z_y over the box, rounded up to numbers."""
    ends = [(arb(c) - arb(w), arb(c) + arb(w)) for c, w in box]
    return [arb(0) if j == y else arb((up - ends[y][0]).upper()) for j, (_, up) in enumerate(ends)]

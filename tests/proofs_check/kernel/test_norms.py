"""Every question of the judge to a norm, answered from above: in exact arithmetic, for every norm of the table."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import exact_network as en
import numpy as np
import pytest
from small_networks import DUAL, NORMS, ORDER

from proofs_check import certificate as c
from proofs_check.kernel.norms import NORMS as JUDGED


def test_every_norm_has_a_room_on_each_side_and_a_strategy():
    assert set(JUDGED) == set(NORMS)


def at_most_in(norm: c.Norm, values: list[Fraction], bound: float) -> bool:
    """Whether the norm of numbers >= 0 is at most `bound`, in real arithmetic."""
    if ORDER[norm] == math.inf:
        return max(values) <= bound
    p = int(ORDER[norm])
    return sum(v**p for v in values) <= Fraction(bound) ** p


@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_is_rounded_up(norm: c.Norm):
    rng = np.random.default_rng(0)
    for row in (*np.abs(en.wild(rng, 60, 5)), *rng.uniform(1, 2, (10, 100))):
        found = JUDGED[norm].size(row.tolist())
        assert at_most_in(norm, [Fraction(v) for v in row], found)
        assert found <= np.linalg.norm(row, ORDER[norm]) * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_the_dual_norm_is_at_least_what_a_row_reaches_on_the_unit_ball(norm: c.Norm):
    rng = np.random.default_rng(0)
    for rows in (np.abs(en.wild(rng, 60, 5)), rng.uniform(1, 2, (20, 400))):
        for row, bound in zip(rows, JUDGED[norm].dual(rows), strict=True):
            assert (en.exact(row) * en._unit(norm, row)).sum() <= en.rational(bound)
            assert bound <= np.linalg.norm(row, DUAL[norm]) * (1 + 1e-12)
    for count in (2, 9):  # whose squares underflow
        assert JUDGED[norm].dual(np.full((1, count), 2.0**-600))[0] >= 2.0**-600 * count ** (1 / DUAL[norm])


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_dual_norms_cover_every_order_of_summation(norm: c.Norm):
    """A sum of n magnitudes may be n - 1 half units too small, a root of one half as many."""
    rows = np.random.default_rng(0).uniform(1, 2, (20, 400))
    for row, bound in zip(rows, JUDGED[norm].dual(rows), strict=True):
        computed = row.sum() if norm == "Linf" else np.sqrt(np.einsum("x,x->", row, row))
        units = 399 if norm == "Linf" else 201
        assert en.rational(computed) * (1 + units * en.rational(2.0**-53)) <= en.rational(bound)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("count", [1, 2, 3, 9, 784])
def test_vectors_of_ones_are_no_longer_than_said(norm: c.Norm, count: int):
    """And their l2 norm over it is at most `length`, which a vector with one entry needs to be at least 1."""
    found, length = JUDGED[norm].of_ones(count), Fraction(JUDGED[norm].length(count))
    assert at_most_in(norm, [Fraction(1)] * count, found)
    assert found <= count ** (1 / ORDER[norm]) * (1 + 1e-12)
    p = ORDER[norm]
    assert length >= 1
    assert count <= length**2 if p == math.inf else count ** int(p) <= length ** (2 * int(p)) * count**2
    assert length <= max(1.0, count ** (1 / 2 - 1 / p)) * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_operator_norms_are_interpolated_upward(norm: c.Norm):
    for rows, columns in itertools.product((0.0, 0.1, 3.0, 2.0**-60), repeat=2):
        found, p = JUDGED[norm].between(rows, columns), ORDER[norm]
        if p == math.inf:
            assert rows <= found
        else:
            assert Fraction(rows) ** (int(p) - 1) * Fraction(columns) <= Fraction(found) ** int(p)
        assert found <= rows ** (1 - 1 / p) * columns ** (1 / p) * (1 + 1e-12) + 1e-40


@pytest.mark.parametrize("norm", NORMS)
def test_the_balls_share_of_coefficients_is_a_share(norm: c.Norm):
    rng = np.random.default_rng(0)
    sizes, extents = np.abs(en.wild(rng, 40, 6)), rng.uniform(0, 1, (40, 6)) * rng.integers(0, 2, (40, 6))
    for radius in (0.0, 2.0**-60, 0.3, 2.0):
        share = JUDGED[norm].share(sizes, extents, radius)
        assert (share >= 0).all()
        assert (share <= sizes).all()

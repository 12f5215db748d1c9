"""Error bounds of float sums against exact rationals; outward functions against independent enclosures."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx, fmpq
from hypothesis import given
from hypothesis import strategies as st

from proofs_check.certificate import RejectedError
from proofs_check.kernel import rounding
from proofs_check.kernel import rounding as r

finite = st.floats(-(2.0**90), 2.0**90)


@given(st.integers(0, 2**26))
def test_the_sum_error_covers_twice_the_classical_bound(n: int):
    unit = Fraction(1, 2**53)
    count = 2 * n + 15
    gamma = count * unit / (1 - count * unit)
    assert Fraction(r.sum_error(n)) >= gamma / (1 - gamma) - Fraction(1, 2**90) * (n * n + 1)
    assert Fraction(r.sum_error(n)) >= count * unit


@given(finite, finite)
def test_up_and_down_enclose_every_rounded_sum_difference_and_product(a: float, b: float):
    for rounded, true in (
        (a + b, Fraction(a) + Fraction(b)),
        (a - b, Fraction(a) - Fraction(b)),
        (a * b, Fraction(a) * Fraction(b)),
    ):
        value = np.array([rounded])
        assert Fraction(float(r.down(value)[0])) <= true <= Fraction(float(r.up(value)[0]))


@given(st.sampled_from([0.0, 5e-324, -5e-324, 2.0**-1022, 1.0, -1.0, 2.0**199, -(2.0**199)]))
def test_up_covers_two_roundings_and_underflow(x: float):
    step = 2 * Fraction(1, 2**53) * abs(Fraction(x)) + Fraction(2) ** -502
    assert Fraction(float(r.up(np.array(x)))) >= Fraction(x) + step
    assert Fraction(float(r.down(np.array(x)))) <= Fraction(x) - step
    assert float(r.up(np.array(x))) - x <= abs(x) * 2.0**-50 + 2.0**-499


@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=40))
def test_dot_up_is_above_the_exact_product(pairs: list[tuple[float, float]]):
    left, right = np.array(pairs).T
    exact = sum(Fraction(a) * Fraction(b) for a, b in pairs)
    assert Fraction(float(r.dot_up(left[None], right)[0])) >= exact


@given(st.lists(finite, min_size=1, max_size=6))
def test_sum_up_is_above_the_exact_sum_of_its_terms(terms: list[float]):
    found = r.sum_up(*(np.array(v) for v in terms))
    assert Fraction(float(found)) >= sum(map(Fraction, terms))
    assert float(found) <= math.fsum(terms) + math.fsum(map(abs, terms)) * 1e-14 + 1e-100


@given(st.one_of(finite, st.sampled_from([5e-324, -(2.0**-700), 2.0**-600])), finite)
def test_product_up_is_above_the_exact_product_also_where_it_underflows(a: float, b: float):
    found = float(r.product_up(np.array(a), b))
    assert Fraction(found) >= Fraction(a) * Fraction(b)
    assert found <= a * b + abs(a * b) * 1e-15 + 2.0**-499


def test_sum_up_keeps_what_a_sum_of_floats_loses():
    big, one = np.array(2.0**60), np.array(1.0)
    assert (big + one) - big == 0
    assert r.sum_up(big, one, -big) >= 1.0


def test_dot_up_survives_cancellation_that_floats_lose():
    left, right = np.array([[2.0**60, 1.0, -(2.0**60)]]), np.ones(3)
    assert r.dot_up(left, right)[0] >= 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**201, -(2.0**201)])
def test_values_out_of_range_are_rejected(bad: float):
    with pytest.raises(RejectedError, match="2\\^200"):
        r.need_bounded(np.array([0.0, bad]), "here")
    r.need_bounded(np.array([0.0, 2.0**200, -(2.0**200)]), "here")


@pytest.mark.parametrize("value", [arb("nan"), arb("inf"), arb(2) ** 201, arb(0, math.inf)])
def test_balls_without_bound_are_rejected(value: arb):
    with pytest.raises(RejectedError):
        r.arb_up(value)
    with pytest.raises(RejectedError):
        r.arb_down(-value)


def ends(value: arb) -> tuple[float, float]:
    return r.arb_down(value), r.arb_up(value)


@given(st.floats(-30, 30))
def test_the_normal_cdf_is_enclosed_and_symmetric(x: float):
    down, up = ends(r.normal_cdf(arb(x)))
    mirrored = ends(r.normal_cdf(arb(-x)))
    assert 0 <= down < up <= 1 + 2.0**-51
    assert up <= down * (1 + 2.0**-48) + 2.0**-1000
    assert Fraction(down) + Fraction(mirrored[0]) <= 1 <= Fraction(up) + Fraction(mirrored[1])
    assert down <= 0.5 * math.erfc(-x / math.sqrt(2)) * (1 + 1e-9)
    assert up >= 0.5 * math.erfc(-x / math.sqrt(2)) * (1 - 1e-9)


@given(st.floats(1e-12, 1 - 1e-12))
def test_the_normal_quantile_inverts_the_cdf(p: float):
    down, up = ends(r.normal_quantile(arb(p)))
    assert down < up
    assert r.arb_down(r.normal_cdf(arb(down))) <= p <= r.arb_up(r.normal_cdf(arb(up)))
    assert up - down <= 2.0**-48 * max(1.0, abs(up))


@pytest.mark.parametrize("p", [-0.5, 1.0, 1.5, math.nan])
def test_quantiles_of_no_probability_are_rejected(p: float):
    with pytest.raises(RejectedError):
        r.arb_up(r.normal_quantile(arb(p)))


def test_enclose_is_elementwise_and_outward():
    values = np.array([[-3.0, 0.0], [0.5, 40.0]])
    lower, upper = r.enclose(arb.exp, values)
    assert lower.shape == upper.shape == (2, 2)
    for low, high, v in zip(lower.ravel(), upper.ravel(), values.ravel(), strict=True):
        assert arb(low) < arb(v).exp() < arb(high) or (v == 0 and low < 1 < high)
    assert fmpq(*float(lower[0, 1]).as_integer_ratio()) < 1


def test_rounding_helpers_are_outward_by_at_least_two_units():
    for x in (1.0, 1.5, 2.0**-30, 2.0**100, 0.0):
        for value in (x, -x):
            array = np.array([value])
            step = Fraction(2) * Fraction(1, 2**53) * abs(Fraction(value)) + Fraction(2) ** -501
            assert Fraction(float(rounding.up(array)[0])) >= Fraction(value) + step
            assert Fraction(float(rounding.down(array)[0])) <= Fraction(value) - step


def test_arb_ends_are_strictly_outside():
    with ctx.workprec(300):
        for ball in (arb(1) / 3, arb(2).sqrt(), -arb(2).exp(), arb(0), arb(1, 2.0**-60)):
            assert arb(rounding.arb_up(ball)) > ball
            assert arb(rounding.arb_down(ball)) < ball
            assert rounding.arb_up(ball) - rounding.arb_down(ball) <= 2.0**-50 * 8

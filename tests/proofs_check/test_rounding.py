"""Error bounds of float sums against exact rationals; outward functions against independent enclosures."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx, fmpq
from hypothesis import given
from hypothesis import strategies as st

from proofs_check import rounding as r
from proofs_check.certificate import RejectedError

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


def test_dot_up_survives_cancellation_that_floats_lose():
    left, right = np.array([[2.0**60, 1.0, -(2.0**60)]]), np.ones(3)
    assert r.dot_up(left, right)[0] >= 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0**201, -(2.0**201)])
def test_values_out_of_range_are_rejected(bad: float):
    with pytest.raises(RejectedError, match="2\\^200"):
        r.need_bounded(np.array([0.0, bad]), "here")
    r.need_bounded(np.array([0.0, 2.0**200, -(2.0**200)]), "here")


@given(st.floats(-700, 100))
def test_exp_is_enclosed_tightly(x: float):
    down, up = r.exp_down(x), r.exp_up(x)
    assert down < arb(x).exp() < up
    assert up <= down * (1 + 2.0**-49) + 1e-320


@given(st.floats(1e-300, 1e50))
def test_log_is_enclosed_tightly(x: float):
    assert r.log_down(x) < r.log_up(x)
    with ctx.workprec(1200):
        assert arb(r.log_down(x)).exp() < arb(x) < arb(r.log_up(x)).exp()
    assert r.log_down(x) <= math.log(x) + 1e-12 * abs(math.log(x))
    assert r.log_up(x) >= math.log(x) - 1e-12 * abs(math.log(x))
    assert r.log_up(x) - r.log_down(x) <= 2.0**-49 * max(1.0, abs(math.log(x)))


@pytest.mark.parametrize("x", [0.0, -1.0])
def test_log_of_a_number_that_is_not_positive_is_rejected(x: float):
    for function in (r.log_up, r.log_down):
        with pytest.raises(RejectedError):
            function(x)


@pytest.mark.parametrize("value", [arb("nan"), arb("inf"), arb(2) ** 201, arb(0, math.inf)])
def test_balls_without_bound_are_rejected(value: arb):
    with pytest.raises(RejectedError):
        r.arb_up(value)
    with pytest.raises(RejectedError):
        r.arb_down(-value)


@given(st.floats(-30, 30))
def test_the_normal_cdf_is_enclosed_and_symmetric(x: float):
    down, up = r.normal_cdf_down(x), r.normal_cdf_up(x)
    assert 0 <= down < up <= 1 + 2.0**-51
    assert up <= down * (1 + 2.0**-48) + 2.0**-1000
    assert Fraction(down) + Fraction(r.normal_cdf_down(-x)) <= 1 <= Fraction(up) + Fraction(r.normal_cdf_up(-x))
    assert down <= 0.5 * math.erfc(-x / math.sqrt(2)) * (1 + 1e-9)
    assert up >= 0.5 * math.erfc(-x / math.sqrt(2)) * (1 - 1e-9)


@given(st.floats(1e-12, 1 - 1e-12))
def test_the_normal_quantile_inverts_the_cdf(p: float):
    down, up = r.normal_quantile_down(p), r.normal_quantile_up(p)
    assert down < up
    assert r.normal_cdf_down(down) <= p <= r.normal_cdf_up(up)
    assert up - down <= 2.0**-48 * max(1.0, abs(up))


@pytest.mark.parametrize("p", [-0.5, 1.0, 1.5, math.nan])
def test_quantiles_of_no_probability_are_rejected(p: float):
    with pytest.raises(RejectedError):
        r.normal_quantile_up(p)


def exact_tail(successes: int, draws: int, p: float) -> Fraction:
    q = Fraction(p)
    return sum((math.comb(draws, k) * q**k * (1 - q) ** (draws - k) for k in range(successes, draws + 1)), Fraction(0))


@given(st.integers(1, 25), st.data(), st.floats(0, 1))
def test_binomial_tails_are_above_the_exact_sums_and_close(draws: int, data: st.DataObject, p: float):
    k = data.draw(st.integers(0, draws))
    upper_tail = exact_tail(k, draws, p)
    lower_tail = 1 - exact_tail(k + 1, draws, p)
    for bound, true in (
        (r.binomial_at_least_up(k, draws, p), upper_tail),
        (r.binomial_at_most_up(k, draws, p), lower_tail),
    ):
        assert Fraction(bound) >= true
        assert Fraction(bound) <= true * (1 + Fraction(1, 2**50)) + Fraction(1, 2**1000)


def test_large_binomial_tails_are_enclosed():
    assert 0 < r.binomial_at_least_up(99_000, 100_000, 0.9885) < 1e-5
    assert r.binomial_at_least_up(1, 100_000, 0.5) == pytest.approx(1)


def test_enclose_is_elementwise_and_outward():
    values = np.array([[-3.0, 0.0], [0.5, 40.0]])
    lower, upper = r.enclose(arb.exp, values)
    assert lower.shape == upper.shape == (2, 2)
    for low, high, v in zip(lower.ravel(), upper.ravel(), values.ravel(), strict=True):
        assert arb(low) < arb(v).exp() < arb(high) or (v == 0 and low < 1 < high)
    assert fmpq(*float(lower[0, 1]).as_integer_ratio()) < 1

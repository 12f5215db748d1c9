"""Smoothing bounds against models whose smoothed value is known in closed form.

The bounds are float formulas and so are most references here: 1e-9 and 1e-6 are the references' own errors. The
judge, which alone decides, is tested without tolerance in tests/proofs_check/rules/test_smoothing.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from flint import arb, ctx
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy.stats import ncx2, norm

from certmix.theorems import smoothing as theorem

PROBABILITIES = st.floats(0.01, 0.9999)
ALPHAS = st.floats(0.51, 1.0)


def cdf(x: arb) -> arb:
    return (-x / arb(2).sqrt()).erfc() / 2


def quantile(p: float) -> arb:
    return -arb(2).sqrt() * (2 * arb(p)).erfcinv()


def half_space_margin(h_y: float, h_i: float, shift: float) -> arb:
    """h_y − h_i after moving by shift σ along the common normal of two opposite half-spaces, in ball arithmetic."""
    return cdf(quantile(h_y) - arb(shift)) - cdf(quantile(h_i) + arb(shift))


@settings(max_examples=150, deadline=None)
@given(h_y=PROBABILITIES, share=st.floats(0.001, 1.0), alpha=ALPHAS)
def test_opposite_half_spaces_attain_the_direct_bound_and_nothing_exceeds_it(
    h_y: float, share: float, alpha: float
) -> None:
    h_i = share * (1 - h_y)
    required = theorem.required_margin(alpha)
    radius = theorem.direct_radius(h_y, 1 - h_i, required, 1.0)
    with ctx.workprec(200):
        assert half_space_margin(h_y, 1 - (1 - h_i), radius - 1e-9) > required
        assert half_space_margin(h_y, 1 - (1 - h_i), radius + 1e-6) < required


@settings(max_examples=100, deadline=None)
@given(h_y=PROBABILITIES, share=st.floats(0.001, 1.0), alpha=ALPHAS)
def test_the_bounds_are_ordered(h_y: float, share: float, alpha: float) -> None:
    h_i = share * (1 - h_y)
    direct = theorem.direct_radius(h_y, 1 - h_i, theorem.required_margin(alpha), 1.0)
    assume(direct > 1e-6)
    tight = float(theorem.theorem_3_5_radius(h_y, h_i, alpha, 1.0))
    paper = float(theorem.theorem_3_5_radius(h_y, h_i, alpha, 1.0, "paper"))
    assert paper == pytest.approx(tight / 2)
    assert tight <= direct + 1e-9
    assert float(theorem.theorem_3_7_radius(h_y, h_i, alpha, 1.0)) <= direct + 1e-9


@settings(max_examples=60, deadline=None)
@given(h_y=PROBABILITIES, share=st.floats(0.001, 1.0), noise_std=st.floats(0.1, 3))
def test_at_alpha_one_theorem_3_7_is_the_direct_bound_and_radii_scale_with_noise(
    h_y: float, share: float, noise_std: float
) -> None:
    h_i = share * (1 - h_y)
    direct = theorem.direct_radius(h_y, 1 - h_i, 0.0, noise_std)
    assert float(theorem.theorem_3_7_radius(h_y, h_i, 1.0, noise_std)) == pytest.approx(direct, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(h_y=PROBABILITIES, alpha=ALPHAS)
def test_the_closed_form_is_the_direct_bound_with_complementary_rivals(h_y: float, alpha: float) -> None:
    bisected = theorem.direct_radius(h_y, h_y, theorem.required_margin(alpha), 0.7)
    closed = 0.7 * float(norm.ppf(h_y)) - theorem.direct_price(alpha, 0.7)
    assert bisected == pytest.approx(closed, abs=1e-7)


@pytest.mark.parametrize(("h_y", "alpha", "paper", "direct"), [(0.99, 0.76, 0.68, 1.92), (0.999, 0.6, 0.25, 2.12)])
def test_known_radii(h_y: float, alpha: float, paper: float, direct: float) -> None:
    assert float(theorem.theorem_3_7_radius(h_y, 1 - h_y, alpha, 1.0)) == pytest.approx(paper, abs=0.005)
    found = theorem.direct_radius(h_y, h_y, theorem.required_margin(alpha), 1.0)
    assert found == pytest.approx(direct, abs=0.005)


def distributional(thresholds: ArrayLike, tails: ArrayLike) -> Callable[[float], float]:
    """One group's margin by shift."""
    return theorem.distributional_margin([np.asarray(thresholds, dtype=np.float64)], [np.asarray(tails)])


def all_radii(h_y: float, alpha: float, noise_std: float) -> list[float]:
    required = theorem.required_margin(alpha)
    return [
        float(theorem.theorem_3_5_radius(h_y, 1 - h_y, alpha, noise_std)),
        float(theorem.theorem_3_7_radius(h_y, 1 - h_y, alpha, noise_std)),
        theorem.direct_radius(h_y, h_y, required, noise_std),
        noise_std * theorem.largest_shift(distributional([1.0], [h_y]), required),
    ]


@settings(max_examples=60, deadline=None)
@given(half_width=st.floats(0.2, 6), at=st.floats(-3, 3), alpha=st.floats(0.55, 1.0))
def test_no_bound_exceeds_the_true_radius_of_a_slab(half_width: float, at: float, alpha: float) -> None:
    """y on |u·x| <= w, the rival outside: h_y is known on the whole line."""

    def h_y(t: float) -> float:
        return float(norm.cdf(half_width - t) - norm.cdf(-half_width - t))

    for radius in all_radii(h_y(at), alpha, 1.0):
        if radius > 1e-6:
            for move in np.linspace(-radius, radius, 41) * (1 - 1e-6):
                assert 2 * h_y(at + move) - 1 > theorem.required_margin(alpha)


@settings(max_examples=40, deadline=None)
@given(radius=st.floats(1, 6), at=st.floats(0, 3), dimension=st.integers(2, 9), alpha=st.floats(0.55, 1.0))
def test_no_bound_exceeds_the_true_radius_of_a_ball(radius: float, at: float, dimension: int, alpha: float) -> None:
    """y inside a ball: ‖x + ξ‖² is noncentral chi-square; the worst direction is outward."""

    def h_y(t: float) -> float:
        return float(ncx2.cdf(radius**2, dimension, t**2 + 1e-12))

    for certified in all_radii(h_y(at), alpha, 1.0):
        if certified > 1e-6:
            assert 2 * h_y(at + certified * (1 - 1e-6)) - 1 > theorem.required_margin(alpha)


LEVELS = st.lists(st.floats(-1, 1), min_size=2, max_size=7)


def mean_after(levels: list[float], cuts: np.ndarray, move: float) -> float:
    """E φ(t + ξ) at t = move for the step function with these levels between the cuts."""
    return float(np.diff(norm.cdf(np.concatenate([[-np.inf], cuts, [np.inf]]) - move)) @ np.array(levels))


@settings(max_examples=60, deadline=None)
@given(levels=LEVELS, seed=st.integers(0, 10**6), shift=st.floats(0, 3))
def test_the_distributional_bound_holds_for_step_functions_and_is_attained_by_monotone_ones(
    levels: list[float], seed: int, shift: float
) -> None:
    cuts = np.sort(np.random.default_rng(seed).normal(size=len(levels) - 1))
    masses = np.diff(norm.cdf(np.concatenate([[-np.inf], cuts, [np.inf]])))
    thresholds = np.array(sorted({v for v in levels if v > -1}))
    assume(len(thresholds) > 0)
    tails = np.array([masses[np.array(levels) >= s].sum() for s in thresholds])
    tails = np.minimum(tails, 1 - 1e-15)
    bound = distributional(thresholds, tails)(shift)
    for move in np.linspace(-shift, shift, 21):
        assert bound <= mean_after(levels, cuts, float(move)) + 1e-9
    ascending = sorted(levels)
    tails = np.minimum([masses[np.array(ascending) >= s].sum() for s in thresholds], 1 - 1e-15)
    attained = distributional(thresholds, tails)(shift)
    assert attained == pytest.approx(mean_after(ascending, cuts, -shift), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), groups=st.integers(1, 5), shift=st.floats(0, 3))
def test_the_distributional_bound_of_groups_is_the_least_of_theirs(seed: int, groups: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, groups)
    thresholds = [np.sort(rng.uniform(-0.9, 1, size)) for size in sizes]
    tails = [np.sort(rng.uniform(0.01, 0.99, size))[::-1] for size in sizes]
    alone = [
        float(np.diff(s, prepend=-1.0) @ norm.cdf(norm.ppf(t) - shift)) - 1
        for s, t in zip(thresholds, tails, strict=True)
    ]
    assert theorem.distributional_margin(thresholds, tails)(shift) == pytest.approx(min(alone), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(levels=st.lists(st.floats(0, 1), min_size=2, max_size=6), seed=st.integers(0, 10**6), shift=st.floats(0, 3))
def test_with_exact_tails_the_distributional_bound_is_never_below_the_direct_one(
    levels: list[float], seed: int, shift: float
) -> None:
    """Two classes, soft: h̄_y takes `levels` with random masses; φ = 2 h̄_y − 1."""
    masses = np.random.default_rng(seed).dirichlet(np.ones(len(levels)))
    values = np.array(levels)
    h_y = float(np.clip(masses @ values, 1e-9, 1 - 1e-9))
    phi = 2 * values - 1
    thresholds = np.array(sorted({float(p) for p in phi if p > -1}))
    assume(len(thresholds) > 0)
    tails = np.minimum([masses[phi >= s].sum() for s in thresholds], 1 - 1e-15)
    direct = float(theorem.direct_margin(h_y, h_y, shift))
    assert distributional(thresholds, tails)(shift) >= direct - 1e-5


@settings(max_examples=60, deadline=None)
@given(h_y=st.floats(0.3, 0.99), share=st.floats(0, 1), shift=st.floats(0, 3))
def test_votes_with_thresholds_zero_and_one_are_the_direct_bound(h_y: float, share: float, shift: float) -> None:
    h_i = share * (1 - h_y)
    tails = [1 - h_i, h_y]
    direct = float(theorem.direct_margin(h_y, 1 - h_i, shift))
    assert distributional([0.0, 1.0], tails)(shift) == pytest.approx(direct, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(h_y=PROBABILITIES, small=st.floats(0, 3), more=st.floats(0, 3), alpha=ALPHAS)
def test_a_larger_radius_is_never_easier(h_y: float, small: float, more: float, alpha: float) -> None:
    assert theorem.direct_margin(h_y, h_y, small + more) <= theorem.direct_margin(h_y, h_y, small)
    assert theorem.direct_price(alpha, 1.0) >= theorem.direct_price(1.0, 1.0) - 1e-12


def test_alpha_up_to_one_half_certifies_nothing() -> None:
    for alpha in (0.0, 0.3, 0.5):
        assert theorem.direct_price(alpha, 1.0) == math.inf
        assert not theorem.direct_radius(0.999999, 0.999999, theorem.required_margin(alpha), 1.0) > -math.inf

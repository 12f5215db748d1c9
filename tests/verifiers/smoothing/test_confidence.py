"""Confidence bounds: each holds as often as it says, and the check that says so notices a missing split."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from verifiers.smoothing import confidence

REPETITIONS = 3000
NEVER = 1e-9  # probability of a false alarm of any one test here


def allowed_failures(repetitions: int, share: float) -> int:
    """More failures than this have probability below NEVER if each has probability at most `share`."""
    return int(binom.isf(NEVER, repetitions, share))


@pytest.mark.parametrize("truth", [0.02, 0.3, 0.5, 0.9, 0.995])
@pytest.mark.parametrize("draws", [5, 40, 300])
def test_clopper_pearson_covers_and_uses_most_of_its_share(truth: float, draws: int) -> None:
    share = 0.05
    counts = np.arange(draws + 1)
    failing = confidence.clopper_pearson_lower(counts, draws, share) > truth
    # exact failure probability: no simulation needed for a discrete law
    assert float(binom.pmf(counts, draws, truth)[failing].sum()) <= share
    looser = confidence.clopper_pearson_lower(counts, draws, 4 * share) > truth
    if draws == 300 and truth < 0.99:
        assert float(binom.pmf(counts, draws, truth)[looser].sum()) > share  # a share four times too large shows


@settings(max_examples=60, deadline=None)
@given(draws=st.integers(1, 5000), fraction=st.floats(0, 1), share=st.sampled_from([1e-9, 1e-4, 0.01, 0.3]))
def test_clopper_pearson_is_proven_by_exact_arithmetic(draws: int, fraction: float, share: float) -> None:
    count = round(fraction * draws)
    lower = float(confidence.clopper_pearson_lower(count, draws, share))
    if count == 0:
        assert lower == 0
    elif lower > 0:
        assert arb(lower).beta_lower(count, draws - count + 1, 1) <= arb(share)


def beta_draws(rng: np.random.Generator, shape: tuple[int, int], law: str) -> np.ndarray:
    """(repetitions, draws) values in [0, 1] whose mean is 0.7."""
    if law == "votes":
        return (rng.random(shape) < 0.7).astype(float)
    if law == "spread":
        return rng.beta(0.7, 0.3, shape)
    return rng.beta(70, 30, shape)


@pytest.mark.parametrize("law", ["votes", "spread", "narrow"])
@pytest.mark.parametrize("draws", [8, 60])
def test_betting_and_bernstein_cover(law: str, draws: int) -> None:
    share = 0.1
    rng = np.random.default_rng(12)
    bets = confidence.choose_bets(beta_draws(rng, (1, 200), law)[0], draws, share)
    samples = beta_draws(rng, (REPETITIONS // 3, draws), law)
    ones = np.ones(draws)
    betting = sum(confidence.betting_lower(x, ones, bets, share) > 0.7 for x in samples)
    bernstein = sum(confidence.bernstein_lower(x, ones, share) > 0.7 for x in samples)
    assert betting <= allowed_failures(len(samples), share)
    assert bernstein <= allowed_failures(len(samples), share)


def test_a_forgotten_union_bound_is_caught() -> None:
    share, draws, statements = 0.1, 80, 12
    rng = np.random.default_rng(3)
    truth = np.linspace(0.2, 0.9, statements)
    counts = rng.binomial(draws, truth, (REPETITIONS, statements))
    honest = confidence.clopper_pearson_lower(counts, draws, confidence.split(share, statements)) > truth
    forgotten = confidence.clopper_pearson_lower(counts, draws, share) > truth
    limit = allowed_failures(REPETITIONS, share)
    assert int(honest.any(axis=1).sum()) <= limit
    assert int(forgotten.any(axis=1).sum()) > limit


def test_betting_beats_bernstein_on_many_draws_with_little_spread() -> None:
    rng = np.random.default_rng(0)
    x = beta_draws(rng, (1, 5000), "narrow")[0]
    bets = confidence.choose_bets(beta_draws(rng, (1, 500), "narrow")[0], len(x), 1e-3)
    ones = np.ones(len(x))
    betting = confidence.betting_lower(x, ones, bets, 1e-3)
    assert confidence.bernstein_lower(x, ones, 1e-3) < betting < float(x.mean())


@settings(max_examples=50, deadline=None)
@given(total=st.floats(1e-12, 0.999), parts=st.integers(1, 500))
def test_parts_of_a_split_add_up_to_at_most_the_whole(total: float, parts: int) -> None:
    part = confidence.split(total, parts)
    assert parts * Fraction(part) <= Fraction(total)
    assert part > 0.999 * total / parts


@settings(max_examples=50, deadline=None)
@given(alpha=st.floats(0.501, 1.0), share=st.floats(1e-9, 0.3))
def test_samples_needed_is_the_fewest_that_can_certify(alpha: float, share: float) -> None:
    n = confidence.samples_needed(alpha, share)
    assert share ** (1 / (n + 1)) > 1 / (2 * alpha)
    assert n <= 1 or share ** (1 / (n - 1)) <= 1 / (2 * alpha) * (1 + 1e-12)

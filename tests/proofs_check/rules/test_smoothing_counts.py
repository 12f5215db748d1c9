"""Counts, bets, groups and looks of the smoothing rules: what is refused, and what a bound of a probability needs."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from fractions import Fraction

import hostile as ho
import numpy as np
import pytest
from flint import arb, ctx
from stored_cases import ACCEPTED, first_line

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE, smoothing
from proofs_check.rules.case import Case
from verifiers.network.module import build

F32 = np.float32


def test_bets_are_few_because_each_costs_a_logarithm_per_threshold():
    levels = tuple((k + 1) / 64 for k in range(64))
    counts = (tuple(range(1000, 936, -1)),)
    smoothing.need_mean(smoothing.Mean(levels, counts, (0.5,) * 64, 0.5, 0.01), 1000)
    with pytest.raises(c.RejectedError, match="at most 64 bets"):
        smoothing.need_mean(smoothing.Mean(levels, counts, (0.5,) * 65, 0.5, 0.01), 1000)


def test_a_network_of_a_million_classes_is_covered_without_counting_them():
    padded = [c.Input((2,)), c.Pad((0,), (0,), (2**20,), 0.0)]
    case = Case(bounds.prepare(build(padded)), None, np.zeros(2, F32))
    tracemalloc.start()
    with pytest.raises(c.RejectedError, match="rivals of 0"):
        smoothing.need_cover(ho.claim_of(case), case, [(1,)])
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("named", [(0, 2), (1, 1), (1, 3), (-1, 1), (0, 1, 2), (1, 2, 3), (-1, 1, 2)])
def test_groups_name_the_rivals_and_nobody_else(named: tuple[int, ...]):
    case = Case(bounds.prepare(build([c.Input((3,)), c.Flatten((0,))])), None, np.zeros(3, F32))
    smoothing.need_cover(ho.claim_of(case), case, [(1,), (2,)])
    with pytest.raises(c.RejectedError, match="rivals of 0"):
        smoothing.need_cover(ho.claim_of(case), case, [named])


# ---------------------------------------------------------------- counts and confidence (smoothing)


def proves(count: int, draws: int, lower: float, share: float) -> bool:
    try:
        smoothing._need_tail(count, draws, lower, share)
    except c.RejectedError:
        return False
    return True


def exact_tail(count: int, draws: int, p: float) -> Fraction:
    q = Fraction(p)
    return sum((math.comb(draws, k) * q**k * (1 - q) ** (draws - k) for k in range(count, draws + 1)), Fraction(0))


def test_a_lower_bound_is_proven_exactly_up_to_clopper_and_pearsons():
    rng = np.random.default_rng(0)
    seen = {True: 0, False: 0}
    for _ in range(300):
        draws = int(rng.integers(1, 40))
        count, lower = int(rng.integers(1, draws + 1)), float(rng.uniform())
        tail = exact_tail(count, draws, lower)
        for share in (float(tail) * (1 - 1e-9), float(tail) * (1 + 1e-9), 0.01):
            expected = tail <= Fraction(share)
            assert proves(count, draws, lower, share) == expected
            seen[expected] += 1
    assert min(seen.values()) > 200


@pytest.mark.parametrize(
    ("count", "lower", "fine"),
    [(0, 0.0, True), (5, 0.0, True), (10, 0.0, True), (0, 0.1, False), (0, 5e-324, False), (10, 1.0, False),
     (10, 1.5, False), (5, -0.1, False), (10, 0.1, True)],
)  # fmt: skip
def test_a_bound_of_a_probability_lies_in_zero_to_one_and_zero_needs_no_draw(count: int, lower: float, fine: bool):
    assert proves(count, 10, lower, 0.5) == fine


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_the_cheap_tail_bound_is_above_the_exact_tail(p: float):
    for count in range(1, 31):
        with ctx.workprec(128):
            bound = smoothing._tail_up(count, 30, p)
            exact = exact_tail(count, 30, p)
            assert not bound < arb(exact.numerator) / exact.denominator


def test_counts_fit_thresholds_and_draws():
    assert smoothing._totals((0.0, 1.0), ((4, 4), (6, 0)), 10, -1.0) == [10, 4]
    wrong = [
        ((), ((),), "thresholds"),
        ((0.5, 1.5), ((1, 1),), "thresholds"),
        ((0.5, 0.5), ((1, 1),), "thresholds"),
        ((-1.0, 0.5), ((1, 1),), "thresholds"),
        ((0.0, 1.0), (), "counts"),
        ((0.0, 1.0), ((4, 4), (6,)), "counts"),
        ((0.0, 1.0), ((4, 5),), "counts"),
        ((0.0, 1.0), ((4, -1),), "counts"),
        ((0.0, 1.0), ((4, 4), (7, 0)), "counts"),
    ]
    for thresholds, counts, step in wrong:
        with pytest.raises(c.RejectedError) as caught:
            smoothing._totals(thresholds, counts, 10, -1.0)
        assert caught.value.step == step


@pytest.mark.parametrize("lower", [0.0, 1.0, -0.5, 1.5])
def test_a_mean_bet_on_lies_strictly_inside_zero_to_one(lower: float):
    with pytest.raises(c.RejectedError, match="not inside"):
        smoothing.need_mean(smoothing.Mean((1.0,), ((10,),), (0.5,), lower, 0.5), 10)


def test_a_group_without_classes_covers_nobody():
    session, _, row = first_line(ACCEPTED)
    case = Case(session.robust, session.standard, row.value)
    rivals = tuple(i for i in range(session.robust.network.classes) if i != 0)
    claim = dataclasses.replace(parse_claim(), predicted=0)
    smoothing.need_cover(claim, case, [rivals])
    for groups in ([], [rivals, ()], [()], [rivals[:-1]], [(0, *rivals)]):
        with pytest.raises(c.RejectedError, match="rivals"):
            smoothing.need_cover(claim, case, groups)


def parse_claim() -> c.Claim:
    found = parse.line(first_line(ACCEPTED)[1], EVIDENCE)
    assert isinstance(found, parse.Certificate)
    return found.claim


@pytest.mark.parametrize(("count", "lower"), [(0, 0.1), (0, 5e-324), (10, 1.0), (10, 1.5), (5, -0.1)])
def test_what_is_no_bound_of_a_probability_is_called_so(count: int, lower: float):
    with pytest.raises(c.RejectedError, match="is not a probability below 1, or from no draw"):
        smoothing._need_tail(count, 10, lower, 0.5)


@pytest.mark.parametrize("bets", [(0.0,), (2.0,), (4.0,), (0.5, -0.5), (0.5, 2.0)])
def test_a_bet_must_be_positive_and_leave_something(bets: tuple[float, ...]):
    """At lower 1/2 a stake of 2 loses everything on a draw of 0."""
    with pytest.raises(c.RejectedError, match="risks ruin"):
        smoothing.need_mean(smoothing.Mean((1.0,), ((10,),), bets, 0.5, 0.5), 10)


@pytest.mark.parametrize(("samples", "fine"), [(0, False), (1, True), (2**40, True), (2**40 + 1, False)])
def test_a_look_has_between_one_and_2_to_the_40_draws(samples: int, fine: bool):
    asked = c.Smoothing(1.0, "soft", 0.01)
    sample = smoothing.Sample(0, 0, "float32", (smoothing.Look(samples, 0.01),), 0, 0.0)
    if fine:
        assert smoothing._need_split(asked, sample, [Fraction(1, 1000)]) == samples
        return
    with pytest.raises(c.RejectedError, match="2\\^40"):
        smoothing._need_split(asked, sample, [Fraction(1, 1000)])


@pytest.mark.parametrize(("share", "sampler"), [(-0.001, 0.0), (0.0, 0.0), (0.001, -0.001)])
def test_no_share_makes_room_for_another(share: float, sampler: float):
    asked = c.Smoothing(1.0, "soft", 0.01)
    sample = smoothing.Sample(0, 0, "float32", (smoothing.Look(10, 0.01),), 0, sampler)
    with pytest.raises(c.RejectedError, match="every share must be > 0, sampler_share >= 0"):
        smoothing._need_split(asked, sample, [Fraction(share)])


def test_a_mean_without_bets_counts_whole_successes_only():
    mean = smoothing.Mean((1.0,), ((10,),), (), 0.5, 0.01)
    smoothing.need_mean(mean, 10)
    with pytest.raises(c.RejectedError, match="counts value >= 1 only"):
        smoothing.need_mean(dataclasses.replace(mean, thresholds=(0.5,)), 10)


def test_a_probability_of_zero_sinks_to_zero():
    assert smoothing.sunk(arb(0), arb(1)) == 0
    assert smoothing.sunk(arb(0.5), arb(0)) < 0.5 + 1e-12
    assert smoothing.sunk(arb(0.5), arb(1)) < 0.16


def test_a_smoothing_rule_is_about_smoothed_classifiers():
    session, _, row = first_line(ACCEPTED)
    with pytest.raises(c.RejectedError, match="no smoothed classifier"):
        smoothing.scope(parse_claim(), Case(session.robust, session.standard, row.value))

"""Stopping at any time: bets prove means however many draws there are, and nothing else does."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, norm

from proofs_check.certificate import Assumption, Claim, Input, Linear, RejectedError, Smoothing
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.rules import prove
from proofs_check.rules.case import Case
from proofs_check.rules.smoothing import Mean, RivalMean
from proofs_check.rules.stopped import Stopped, StoppedMeans
from verifiers.network.module import build
from verifiers.smoothing import confidence

BETA = 0.001
NETWORK = build([Input((4,)), Linear((0,), np.ones((3, 4), np.float32), np.zeros(3, np.float32))])
ON_GRID = np.array([0, 51, 102, 255], np.float32) / np.float32(255)
CASE = Case(prepare(NETWORK), None, ON_GRID)
DRAWS, HITS, BETS = 700, 690, (0.3, 0.6, 1.0)


def claim(radius: float) -> Claim:
    return Claim(
        norm="L2",
        radius=radius,
        alpha=0.76,
        temperature=1.0,
        predicted=1,
        class_of="robust",
        domain=(0.0, 1.0),
        semantics="real",
        robust=NETWORK.sha256,
        standard=None,
        input=parse.array_sha256(ON_GRID),
        smoothing=Smoothing(0.5, "hard", BETA),
    )


def change(value: Any, path: tuple[str | int, ...], to: Any) -> Any:
    """`value` with what is at `path` replaced (of tuples by position)."""
    if not path:
        return to
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        return (*value[:head], change(value[head], rest, to), *value[head + 1 :])
    return replace(value, **{head: change(getattr(value, head), rest, to)})


def cohen_radius(h_y: float) -> float:
    return 0.5 * float(norm.ppf(h_y) - norm.ppf(1 / 1.52))


def capital(lower: float) -> float:
    """Mean capital over the stakes."""
    rest = DRAWS - HITS
    return float(np.mean([math.exp(HITS * math.log1p(b * (1 - lower)) + rest * math.log1p(-b * lower)) for b in BETS]))


def largest(share: float) -> float:
    """The lower bound at which the capital is just 1/share."""
    low, high = 0.5, HITS / DRAWS
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if capital(middle) >= 1 / share else (low, middle)
    return low


LOWER = largest(BETA) - 1e-9
RADIUS = cohen_radius(LOWER) - 1e-6


def stopped(lower: float = LOWER, share: float = BETA) -> StoppedMeans:
    mean = Mean((1.0,), ((HITS - 90,), (90,)), BETS, lower, share)
    return StoppedMeans(Stopped(1, 100, "float32", DRAWS, 10_000, 0.0), mean, (RivalMean((0, 2), None),))


def verdict(evidence: Any, radius: float = RADIUS, **changes: Any) -> str:
    try:
        assumptions = prove("stopped_means", replace(claim(radius), **changes), evidence, CASE)
    except RejectedError as error:
        return error.step
    assert assumptions == {Assumption.SAMPLES_IID, Assumption.COUNTS_TRUSTED, Assumption.REAL_ARITHMETIC_BASE}
    return "accepted"


def test_exactly_what_the_capital_proves_is_accepted() -> None:
    assert RADIUS > 0.3
    assert verdict(stopped()) == "accepted"
    assert verdict(stopped(), RADIUS + 1e-5) == "radius"
    assert verdict(stopped(LOWER + 1e-7)) == "confidence"


@pytest.mark.parametrize(
    ("path", "value", "step"),
    [
        (("predicted", "bets"), (), "confidence"),  # Clopper-Pearson holds at a number fixed beforehand only
        (("predicted", "bets"), (0.3, -0.1), "confidence"),
        (("predicted", "bets"), (*BETS, 0.01), "confidence"),
        (("predicted", "counts", 0, 0), HITS - 91, "confidence"),
        (("predicted", "share"), BETA * 1.001, "split"),
        (("predicted", "share"), BETA / 2, "confidence"),
        (("predicted", "share"), 0.0, "split"),
        (("sample", "sampler_share"), 1e-12, "split"),
        (("sample", "sampler_share"), -1e-12, "split"),
        (("sample", "samples"), DRAWS + 1, "confidence"),
        (("sample", "samples"), 10_001, "samples"),
        (("sample", "samples"), 0, "samples"),
        (("sample", "most"), DRAWS - 1, "samples"),
        (("sample", "most"), 2**40 + 1, "samples"),
        (("groups", 0, "classes"), (0,), "groups"),
        (("groups",), (), "groups"),
    ],
)
def test_forged_evidence_is_rejected(path: tuple[str | int, ...], value: Any, step: str) -> None:
    assert verdict(change(stopped(), path, value)) == step


@pytest.mark.parametrize(
    ("changes", "step"), [({"norm": "Linf"}, "norm"), ({"alpha": 0.6}, "radius"), ({"predicted": 0}, "groups")]
)
def test_a_changed_claim_is_rejected(changes: dict[str, Any], step: str) -> None:
    assert verdict(stopped(), **changes) == step


def test_a_rivals_own_mean_needs_bets_and_a_share_too() -> None:
    share = BETA / 2 * (1 - 1e-12)
    lower = largest(share) - 1e-9
    of_y = Mean((1.0,), ((HITS,),), BETS, lower, share)
    sample = Stopped(1, 100, "float32", DRAWS, 10_000, 0.0)
    both = StoppedMeans(sample, of_y, (RivalMean((0, 2), of_y),))
    radius = cohen_radius(lower) - 1e-6
    assert verdict(both, radius) == "accepted"
    assert verdict(change(both, ("groups", 0, "complement", "bets"), ()), radius) == "confidence"
    assert verdict(change(both, ("groups", 0, "complement", "share"), BETA), radius) == "split"
    assert verdict(change(both, ("groups", 0, "complement", "share"), -share), radius) == "split"
    assert verdict(change(both, ("sample", "sampler_share"), BETA), radius) == "split"


# ---------------------------------------------------------------- stopped where it hurts most

TRUTH, SHARE, MOST, RUNS = 0.9, 0.05, 600, 2000


def hits() -> np.ndarray:
    """(RUNS, MOST) draws so far with value 1, of a value whose mean is TRUTH."""
    return np.cumsum(np.random.default_rng(0).random((RUNS, MOST)) < TRUTH, axis=1)


def test_stopping_at_the_first_false_statement_makes_false_ones_no_likelier_than_the_share() -> None:
    """Somebody who knows the truth stops where a false bound, a hair above it, first would be accepted."""
    n, seen = np.arange(1, MOST + 1), hits()
    bets, _ = confidence.bets_against(np.array([1.0] * 199 + [0.0]), TRUTH, MOST, SHARE)
    gains = [seen * math.log1p(b * (1 - TRUTH)) + (n - seen) * math.log1p(-b * TRUTH) for b in bets]
    reached = np.mean(np.exp(gains), axis=0) >= 1 / SHARE
    false = int(reached.any(axis=1).sum())
    assert 0.2 * SHARE * RUNS < false <= binom.ppf(1 - 1e-6, RUNS, SHARE)


def test_clopper_pearson_stopped_in_the_same_way_lies_far_more_often() -> None:
    n = np.arange(1, MOST + 1)
    reached = hits() > binom.isf(SHARE, n, TRUTH)
    assert int(reached.any(axis=1).sum()) > 3 * SHARE * RUNS

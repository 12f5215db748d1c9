"""The smoothing rules: what counts prove is accepted, and nothing more."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import betaincinv
from scipy.stats import norm
from stored_cases import ACCEPTED, first_line

from proofs_check import judge
from proofs_check.certificate import Accepted, Assumption, Claim, Input, Linear, ModelFile, RejectedError, Smoothing
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.rules import EVIDENCE, RULES, prove
from proofs_check.rules.case import Case
from proofs_check.rules.margin.rule import NetworkMargin, PairMargin
from proofs_check.rules.smoothing import (
    Look,
    Mean,
    RivalMean,
    Rivals,
    Sample,
    SmoothedDistribution,
    SmoothedMeans,
    Tail,
    _tail_up,
)
from verifiers.network.module import build

CLASSES = 3
NETWORK = build([Input((4,)), Linear((0,), np.ones((CLASSES, 4), np.float32), np.zeros(CLASSES, np.float32))])
PREPARED = prepare(NETWORK)
ON_GRID = np.array([0, 51, 102, 255], np.float32) / np.float32(255)
BETA = 0.001
DRAWS = 10_000


def case_at(value: np.ndarray = ON_GRID) -> Case:
    return Case(PREPARED, PREPARED, value)


FILE = ModelFile("0" * 64, (4,), CLASSES)


def test_what_counts_prove_of_a_model_that_is_only_a_file_rests_on_its_signature() -> None:
    """The same counts prove the same claim, and one more thing is assumed; a rule that derives anything refuses it."""
    here = Case(FILE, None, ON_GRID)
    of_file = replace(claim(0.3), robust=FILE)
    found = prove("smoothed_means", of_file, votes(), here)
    assert found == prove("smoothed_means", claim(0.3), votes(), case_at()) | {Assumption.MODEL_FILE}
    fewer = Case(replace(FILE, classes=CLASSES - 1), None, ON_GRID)
    assert verdict(of_file, votes(), fewer) == "groups"
    mixed = Case(PREPARED, FILE, ON_GRID)
    assert Assumption.MODEL_FILE in prove("smoothed_means", replace(both(0.3), standard=FILE), votes(), mixed)
    plain = replace(of_file, smoothing=None)
    for name, evidence in (("network_margin", NetworkMargin(None)), ("pair_margin", PairMargin(None, None))):
        for case in (here, Case(FILE, FILE, ON_GRID)):
            with pytest.raises(RejectedError, match=r"nothing is derived from it|standard"):
                prove(name, replace(plain, standard=FILE), evidence, case)


def test_a_claim_that_names_a_file_rests_on_its_signature_by_whatever_rule() -> None:
    session, line, row = first_line(ACCEPTED)
    found = parse.line(line, EVIDENCE)
    assert isinstance(found, parse.Certificate)
    network = session.robust.network
    file = ModelFile("0" * 64, network.input_shape, network.classes)
    of_file = replace(found, claim=replace(found.claim, standard=file))
    case = Case(session.robust, file, row.value)
    verdict, before = judge.check(of_file, case), judge.check(found, Case(session.robust, session.standard, row.value))
    assert isinstance(verdict, Accepted)
    assert isinstance(before, Accepted)
    assert verdict.assumptions == before.assumptions | {Assumption.MODEL_FILE}


def claim(radius: float, **changes: Any) -> Claim:
    made = Claim(
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
    return replace(made, **changes)


def sample(share: float = BETA) -> Sample:
    return Sample(1, 100, "float32", (Look(DRAWS, share),), 0, 0.0)


def lower(count: int, share: float, draws: int = DRAWS) -> float:
    """Clopper–Pearson by scipy, a hair down."""
    return float(betaincinv(count, draws - count + 1, share)) * (1 - 1e-9)


def votes(count: int = 9900, share: float = BETA) -> SmoothedMeans:
    """All rivals bounded by 1 − h_y; counts in two blocks."""
    mean = Mean((1.0,), ((count // 2,), (count - count // 2,)), (), lower(count, share), share)
    return SmoothedMeans(sample(), mean, (RivalMean((0, 2), None),))


def distribution(counts: tuple[int, ...] = (9990, 9900, 9000, 7000)) -> SmoothedDistribution:
    """One group of both rivals, four thresholds."""
    share = BETA / 4 * (1 - 1e-12)
    tail = Tail((-0.5, 0.0, 0.5, 0.9), (counts,), tuple(lower(c, share) for c in counts), share)
    return SmoothedDistribution(sample(), (Rivals((0, 2), tail),))


def verdict(claim_: Claim, evidence: SmoothedMeans | SmoothedDistribution, case: Case | None = None) -> str:
    """ "accepted", or the step that failed."""
    name = "smoothed_means" if isinstance(evidence, SmoothedMeans) else "smoothed_distribution"
    rule = RULES[name]
    assert isinstance(evidence, rule.evidence)
    try:
        assumptions = prove(name, claim_, evidence, case or case_at())
    except RejectedError as error:
        return error.step
    assert assumptions == {Assumption.SAMPLES_IID, Assumption.COUNTS_TRUSTED, Assumption.REAL_ARITHMETIC_BASE}
    return "accepted"


def cohen_radius(h_y: float, alpha: float, noise_std: float) -> float:
    return noise_std * float(norm.ppf(h_y) - norm.ppf(1 / (2 * alpha)))


VOTES_RADIUS = cohen_radius(lower(9900, BETA), 0.76, 0.5)


def distribution_radius() -> float:
    """By bisection in scipy, from the same statement."""
    tail = distribution().groups[0].tail
    steps = np.diff([-1.0, *tail.thresholds])
    low, high = 0.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        margin = float(steps @ norm.cdf(norm.ppf(tail.lower) - middle / 0.5)) - 1
        low, high = (middle, high) if margin > (1 - 0.76) / 0.76 else (low, middle)
    return low


@pytest.mark.parametrize(("evidence", "radius"), [(votes(), VOTES_RADIUS), (distribution(), distribution_radius())])
def test_exactly_the_radius_that_counts_prove_is_accepted(
    evidence: SmoothedMeans | SmoothedDistribution, radius: float
) -> None:
    assert radius > 0.3
    assert verdict(claim(radius - 2e-7), evidence) == "accepted"
    assert verdict(claim(0.0), evidence) == "accepted"
    assert verdict(claim(radius + 2e-7), evidence) == "radius"


@pytest.mark.parametrize("evidence", [votes(), distribution()])
@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"norm": "Linf"}, "norm"),
        ({"semantics": "float32"}, "semantics"),
        ({"smoothing": None}, "smoothing"),
        ({"alpha": 0.70}, "radius"),
        ({"alpha": 0.5}, "radius"),
        ({"alpha": 0.0}, "radius"),
        ({"smoothing": Smoothing(0.45, "hard", BETA)}, "radius"),
        ({"smoothing": Smoothing(0.5, "hard", BETA * 0.999)}, "split"),
        ({"predicted": 0}, "groups"),
        ({"predicted": 2}, "groups"),
        ({"smoothing": Smoothing(0.5, "hard", BETA, networks="both")}, "standard"),
    ],
)
def test_a_changed_claim_is_rejected(
    evidence: SmoothedMeans | SmoothedDistribution, changes: dict[str, Any], step: str
) -> None:
    radius = VOTES_RADIUS if isinstance(evidence, SmoothedMeans) else distribution_radius()
    assert verdict(claim(radius - 1e-6), evidence) == "accepted"
    assert verdict(claim(radius - 1e-6, **changes), evidence) == step


def test_weaker_claims_are_accepted() -> None:
    weaker = (
        {"radius": VOTES_RADIUS / 2},
        {"alpha": 0.8},
        {"smoothing": Smoothing(0.51, "hard", BETA)},
        {"smoothing": Smoothing(0.5, "hard", 2 * BETA)},
        {"domain": None},
        {"class_of": "mix"},
    )
    for changes in weaker:
        assert verdict(replace(claim(VOTES_RADIUS - 1e-6), **changes), votes()) == "accepted"


def change(evidence: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """`evidence` with the field at `path` replaced (tuples by position)."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        return (*evidence[:head], change(evidence[head], rest, value), *evidence[head + 1 :])
    return replace(evidence, **{head: change(getattr(evidence, head), rest, value)})


@pytest.mark.parametrize(
    ("path", "value", "step"),
    [
        (("predicted", "counts", 0, 0), 4900, "confidence"),
        (("predicted", "counts", 0, 0), 5051, "counts"),
        (("predicted", "counts", 0, 0), -1, "counts"),
        (("predicted", "counts"), (), "counts"),
        (("predicted", "lower"), 0.9951, "confidence"),
        (("predicted", "lower"), 1.0, "confidence"),
        (("predicted", "lower"), -0.1, "confidence"),
        (("predicted", "thresholds"), (0.9,), "confidence"),
        (("predicted", "thresholds"), (1.5,), "thresholds"),
        (("predicted", "thresholds"), (), "thresholds"),
        (("predicted", "share"), BETA / 2, "confidence"),
        (("predicted", "share"), BETA * 1.01, "split"),
        (("predicted", "share"), -BETA, "split"),
        (("sample", "looks", 0, "share"), BETA * 1.01, "split"),
        (("sample", "looks", 0, "share"), BETA * 0.99, "split"),
        (("sample", "looks", 0, "samples"), 9899, "counts"),
        (("sample", "looks", 0, "samples"), 2 * DRAWS, "confidence"),
        (("sample", "looks", 0, "samples"), 0, "samples"),
        (("sample", "looks"), (), "split"),
        (("sample", "look"), 1, "split"),
        (("sample", "look"), -1, "split"),
        (("sample", "sampler_share"), 1e-18, "split"),
        (("sample", "sampler_share"), -0.5, "split"),
        (("groups",), (), "groups"),
        (("groups", 0, "classes"), (0,), "groups"),
        (("groups", 0, "classes"), (0, 1, 2), "groups"),
        (("groups", 0, "classes"), (0, 2, 3), "groups"),
    ],
)
def test_forged_votes_are_rejected(path: tuple[str | int, ...], value: Any, step: str) -> None:
    assert verdict(claim(VOTES_RADIUS - 1e-6), votes()) == "accepted"
    assert verdict(claim(VOTES_RADIUS - 1e-6), change(votes(), path, value)) == step


TAIL = ("groups", 0, "tail")


@pytest.mark.parametrize(
    ("path", "value", "step"),
    [
        ((*TAIL, "counts", 0, 1), 9890, "confidence"),
        ((*TAIL, "counts", 0, 1), 9991, "counts"),
        ((*TAIL, "counts", 0, 0), DRAWS + 1, "counts"),
        ((*TAIL, "counts", 0), (9990, 9900, 9000), "counts"),
        ((*TAIL, "lower", 2), 0.9, "confidence"),
        ((*TAIL, "lower"), (0.9, 0.9, 0.8), "counts"),
        ((*TAIL, "thresholds", 0), 0.0, "thresholds"),
        ((*TAIL, "thresholds", 0), -1.0, "thresholds"),
        ((*TAIL, "thresholds", 3), 1.01, "thresholds"),
        ((*TAIL, "share"), BETA, "split"),
        ((*TAIL, "share"), 0.0, "split"),
        (("groups", 0, "classes"), (2,), "groups"),
    ],
)
def test_a_forged_distribution_is_rejected(path: tuple[str | int, ...], value: Any, step: str) -> None:
    target = claim(distribution_radius() - 1e-6)
    forged = change(distribution(), path, value)
    assert verdict(target, distribution()) == "accepted"
    assert verdict(target, forged) == step


def test_distance_to_the_grid_is_taken_off_the_radius() -> None:
    off = ON_GRID + np.array([0, 0.001, 0, -0.0015], np.float32)
    scaled = off.astype(np.float64) * 255
    distance = float(np.linalg.norm(scaled - np.rint(scaled))) / 255
    assert distance > 1e-3
    radius = VOTES_RADIUS - distance
    assert verdict(claim(radius - 2e-7), votes(), case_at(off)) == "accepted"
    assert verdict(claim(radius + 2e-7), votes(), case_at(off)) == "radius"


def test_looks_share_the_failure_probability() -> None:
    half = BETA / 2
    two = (Look(DRAWS // 10, half), Look(DRAWS, half))
    evidence = votes(share=half)
    taken = replace(evidence.sample, looks=two, look=1)
    radius = cohen_radius(evidence.predicted.lower, 0.76, 0.5) - 1e-6
    assert verdict(claim(radius), replace(evidence, sample=taken)) == "accepted"
    more = (*two, Look(2 * DRAWS, 1e-9))
    assert verdict(claim(radius), replace(evidence, sample=replace(taken, looks=more))) == "split"
    generous = (replace(two[0], share=BETA / 4), two[1])
    whole = replace(votes(share=BETA * 0.75), sample=replace(taken, looks=generous))
    assert verdict(claim(radius), whole) == "split"  # the look taken has only half


def betting(lower_: float, bets: tuple[float, ...] = (0.4, 0.8), share: float = BETA) -> SmoothedMeans:
    counts = (9800, 9500, 9000, 6000)
    mean = Mean((0.5, 0.8, 0.95, 0.99), (counts,), bets, lower_, share)
    return SmoothedMeans(sample(), mean, (RivalMean((0,), None), RivalMean((2,), None)))


def reached_capital(lower_: float, bets: tuple[float, ...]) -> float:
    """Mean capital over the stakes, by numpy in the logarithm."""
    cells = np.array([200, 300, 500, 3000, 6000])
    values = np.array([0, 0.5, 0.8, 0.95, 0.99])
    return float(np.mean([math.exp(cells @ np.log1p(b * (values - lower_))) for b in bets]))


def test_a_mean_is_accepted_exactly_where_the_capital_has_reached_its_goal() -> None:
    low, high = 0.8, 0.95
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reached_capital(middle, (0.4, 0.8)) >= 1 / BETA else (low, middle)
    radius = cohen_radius(low, 0.76, 0.5)
    assert radius > 0.3
    soft = Smoothing(0.5, "soft", BETA)
    assert verdict(claim(radius - 1e-5, smoothing=soft), betting(low - 1e-7)) == "accepted"
    assert verdict(claim(radius - 1e-5, smoothing=soft), betting(low + 1e-7)) == "confidence"
    for bets in ((0.4, 1.2), (-0.4,), (0.0,), (2.0,)):
        assert verdict(claim(0.1, smoothing=soft), betting(low - 1e-7, bets)) == "confidence"


def test_a_stake_against_the_mean_proves_no_lower_bound() -> None:
    high, against = 0.985, (-0.5,)
    assert reached_capital(high, against) > 10 / BETA  # the counts are far below such a mean
    soft = Smoothing(0.5, "soft", BETA)
    assert verdict(claim(0.1, smoothing=soft), betting(high, against)) == "confidence"
    assert verdict(claim(0.1, smoothing=soft), betting(high, (0.4, *against))) == "confidence"


def test_a_rivals_own_bound_is_used_and_checked() -> None:
    share = BETA / 3
    of_y, of_0, of_2 = (Mean((1.0,), ((count,),), (), lower(count, share), share) for count in (8000, 9000, 9700))
    own = SmoothedMeans(sample(), of_y, (RivalMean((0,), of_0), RivalMean((2,), of_2)))
    shared = SmoothedMeans(sample(), of_y, (RivalMean((0, 2), None),))
    h_y, rest = norm.ppf(of_y.lower), norm.ppf(of_0.lower)
    low, high = 0.0, 3.0
    for _ in range(60):
        s = (low + high) / 2
        low, high = (s, high) if norm.cdf(h_y - s) + norm.cdf(rest - s) - 1 > 0.24 / 0.76 else (low, s)
    assert verdict(claim(0.5 * low - 1e-6), own) == "accepted"
    assert verdict(claim(0.5 * low + 1e-6), own) == "radius"
    assert verdict(claim(0.5 * low - 1e-6), shared) == "radius"
    forged = replace(own, groups=(RivalMean((0,), replace(of_0, lower=of_0.lower + 1e-3)), own.groups[1]))
    assert verdict(claim(0.5 * low - 1e-6), forged) == "confidence"


def both(alpha: float, **changes: Any) -> Claim:
    made = claim(0.0, alpha=alpha, class_of="mix", standard=NETWORK.sha256)
    return replace(made, smoothing=Smoothing(0.5, "soft", BETA, networks="both"), **changes)


def test_both_networks_smoothed_need_no_margin_but_a_named_standard_network() -> None:
    radius = 0.5 * float(norm.ppf(lower(9900, BETA)))
    for alpha in (0.0, 0.3, 0.76):
        assert verdict(both(alpha, radius=radius - 1e-6), votes()) == "accepted"
        assert verdict(both(alpha, radius=radius + 1e-6), votes()) == "radius"
    assert verdict(both(0.3, standard=None), votes()) == "standard"
    assert verdict(both(0.3, class_of="robust"), votes()) == "class_of"
    assert verdict(both(0.3), votes(), Case(PREPARED, None, ON_GRID)) == "standard"


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, DRAWS),
    hint=st.floats(0, 1),
    radius=st.floats(0, 3),
    alpha=st.floats(0, 1),
    noise_std=st.floats(0.05, 2),
    share=st.floats(1e-12, 0.5),
)
def test_whatever_is_sent_only_a_proven_radius_is_accepted(
    count: int, hint: float, radius: float, alpha: float, noise_std: float, share: float
) -> None:
    mean = Mean((1.0,), ((count,),), (), hint, share)
    sent = SmoothedMeans(sample(share), mean, (RivalMean((0, 2), None),))
    asked = claim(radius, alpha=alpha, smoothing=Smoothing(noise_std, "hard", share))
    if verdict(asked, sent) == "accepted":
        # independently, from the counts alone: the radius at the exact Clopper–Pearson bound
        best = arb(float(betaincinv(count, DRAWS - count + 1, share)) * (1 + 1e-9)) if count else arb(0)
        assert alpha > 0.5
        assert radius <= cohen_radius(min(float(best.mid()), 1 - 1e-16), alpha, noise_std) + 1e-6


@settings(max_examples=200, deadline=None)
@given(draws=st.integers(1, 3000), fraction=st.floats(0, 1), p=st.floats(1e-6, 1 - 1e-6))
def test_the_cheap_tail_is_an_upper_bound_of_the_exact_one(draws: int, fraction: float, p: float) -> None:
    count = max(1, round(fraction * draws))
    exact = arb(p).beta_lower(count, draws - count + 1, 1)
    cheap = _tail_up(count, draws, p)
    assert not cheap < exact
    deviations = (count - draws * p) / math.sqrt(draws * p * (1 - p))
    if deviations > 3.5:  # and a close one where confidence bounds live
        assert cheap < 1.2 * exact + arb(1e-12)


def test_evidence_survives_the_strict_parser() -> None:
    for evidence in (votes(), distribution(), betting(0.9)):
        again = parse.read(type(evidence), _plain(dataclasses.asdict(evidence)), "evidence")
        assert again == evidence


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value

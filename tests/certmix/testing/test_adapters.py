"""certmix's own methods under the suite: each reaches its prover, claims something, and breaks nothing."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch

from certmix.provers import certify as certification
from certmix.records.outcomes import Certified
from certmix.testing.adapters import certmix_methods, certmix_smoothing
from certmix.testing.laws import laws_of
from certmix.testing.laws.statistics import BaseCase, check_base
from certmix.testing.protocol import certifier
from certmix.testing.runner import run_law
from proofs_check import certificate as c
from verifiers.network.module import PlainModule, build

METHODS = ("margin", "margin_with_standard", "margin_at_radius", "lipschitz", "lipschitz_at_radius")
RULES = {"margin": ("network_", "pair_"), "lipschitz": ("lipschitz_",)}
LAWS = ("no_counterexample_by_attack", "no_counterexample_near_critical_alpha", "no_counterexample_far_from_the_origin")


def small_network() -> PlainModule:
    weight = np.array([[2.0, -1.0], [-1.0, 1.0], [0.5, 0.5]], np.float32)
    last = np.array([[3.0, -1.0, 0.0], [-1.0, 2.0, 0.5]], np.float32)
    nodes = [
        c.Input((2,)), c.Linear((0,), weight, np.zeros(3, np.float32)), c.Relu((1,)),
        c.Linear((2,), last, np.zeros(2, np.float32)),
    ]  # fmt: skip
    return PlainModule(build(nodes))


@pytest.mark.parametrize("name", METHODS)
def test_an_adapter_reaches_the_prover_it_is_named_after(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = name.split("_")[0]
    seen: list[Any] = []

    def record(*arguments: Any, **keywords: Any) -> list[Any]:
        seen.extend(certification.certify(*arguments, **keywords))
        return seen

    others = {m: None for m in certification.PROVERS if m != method}
    monkeypatch.setattr(certification, "PROVERS", certification.PROVERS | others)
    monkeypatch.setattr(certmix_methods, "certify", record)
    h, x = small_network(), torch.tensor([[1.0, 0.25], [0.0, 1.0]])
    radius = {"radius": 2.0**-6} if name.endswith("radius") else {}
    found = getattr(certmix_methods, name)(h, h, x, 0.9, norm="L2", **radius)
    assert all(r is not None and r > 0 for r in found)
    for outcome in seen:
        assert isinstance(outcome, Certified)
        assert outcome.method == method
        assert json.loads(outcome.line)["evidence"]["rule"].startswith(RULES[method])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_breaks_no_law_in_a_few_examples(name: str, law: str) -> None:
    (found,) = laws_of("mix", [law])
    result = run_law(found, certifier(getattr(certmix_methods, name)), 0.5, 3, 0.0, most_examples=25)
    assert result.broken is None, result.broken
    assert result.crashes == 0, result.crash


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_method_claims_something_under_every_law_that_lets_it(name: str) -> None:
    subject = certifier(getattr(certmix_methods, name))
    nothing_to_claim = {"hidden_spikes_are_not_certified_away", "cancelling_weights_are_not_certified_away",
                        "ties_are_not_certified"} if name.endswith("radius") else set()  # fmt: skip
    for law in laws_of("mix"):
        if law.kind == "soundness":
            result = run_law(law, subject, 10.0, 5, 0.0)
            if result.status == "no claims" and law.name not in nothing_to_claim:  # a slow machine
                result = run_law(law, subject, 120.0, 5, 0.0)
            assert result.status == "held" or law.name in nothing_to_claim, law.name


def linear_base(copies: int, gap: float, alpha: float) -> BaseCase:
    """`copies` inputs `gap` deviations from the boundary of two half-spaces."""
    base = build([c.Input((1,)), c.Linear((0,), np.array([[1.0], [-1.0]], np.float32), np.zeros(2, np.float32))])
    p = float(scipy.stats.norm.cdf(gap))
    return BaseCase(base, np.full((copies, 1), gap, np.float32), (p, 1 - p), alpha, 1.0, 0.05)


@pytest.mark.parametrize("gap", [0.0, 1.0])
def test_smoothing_is_seldom_wrong_and_would_be_caught_if_it_were(gap: float) -> None:
    case = linear_base(60, gap, 0.9 if gap else 1.0)
    trial = check_base(certifier(certmix_smoothing.certify), case, 0)
    assert trial.broken is None
    assert trial.points == 60

    def doubled(base: Any, x: Any, alpha: float, noise_std: float, failure_probability: float) -> list[Any]:
        answers = certmix_smoothing.certify(base, x, alpha, noise_std, failure_probability)
        return [(y, 2 * r) if gap else (y, r + 1) for y, r in (a or (0, 0.0) for a in answers)]

    assert check_base(certifier(doubled, protocol="smoothed"), case, 0).broken is not None
    assert (trial.claims > 50) == (gap > 0)


@pytest.mark.parametrize("noise_std", [1.0, 0.25])
def test_unanimous_votes_reach_the_clopper_pearson_radius(noise_std: float) -> None:
    votes = np.array([[1000.0, 0.0]])
    ((y, radius),) = certmix_smoothing.from_votes(votes, votes, 1.0, noise_std, 0.01)  # type: ignore[misc]
    most = noise_std * float(scipy.stats.norm.ppf(0.01 ** (1 / 1000)))
    assert y == 0
    assert 0.9 * most <= radius <= most


def test_votes_that_do_not_reach_the_required_margin_certify_nothing() -> None:
    even, clear = np.array([[500.0, 500.0]]), np.array([[900.0, 100.0]])
    assert certmix_smoothing.from_votes(even, even, 1.0) == [None]
    assert certmix_smoothing.from_votes(clear, clear, 0.54) == [None]
    assert certmix_smoothing.from_votes(clear, clear, 0.5) == [None]
    assert certmix_smoothing.from_votes(clear, clear, 0.9)[0] is not None


def test_votes_of_selection_choose_the_class_and_votes_of_certification_the_radius() -> None:
    selection, counts = np.array([[60.0, 40.0]]), np.array([[100.0, 900.0]])
    assert certmix_smoothing.from_votes(selection, counts, 1.0) == [None]


def test_false_certificates_from_votes_are_rare() -> None:
    (law,) = laws_of("counts")
    result = run_law(law, certifier(certmix_smoothing.from_votes), 1.0, 0, 0.0)
    assert result.status == "held"
    assert result.claims > 0

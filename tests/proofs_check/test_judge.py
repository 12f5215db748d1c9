"""The judge accepts what is true and proven, and nothing a forger can write."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certmix.records.lines import certificate_line
from proofs_check.certificate import Accepted, Assumption, Claim, Input, Linear, PlainNetwork, Rejected, Relu, Verdict
from proofs_check.judge import check, check_bytes
from proofs_check.kernel.bounds import prepare
from proofs_check.reading import parse
from proofs_check.reading.parse import array_sha256
from proofs_check.rules import EVIDENCE
from proofs_check.rules.case import Case
from proofs_check.rules.margin.rule import EngineMargin, NetworkMargin, PairMargin
from verifiers.network.module import build

X = np.array([0.25, 0.75], dtype=np.float32)


def linear(gain: float) -> PlainNetwork:
    """Logits (gain (x_1 - x_0), 0): at X the margin of d is -gain / 2, moving by 2 gain r in Linf."""
    weight = np.array([[-gain, gain], [0, 0]], dtype=np.float32)
    return build([Input((2,)), Linear((0,), weight, np.zeros(2, np.float32))])


H, G = linear(8.0), linear(-3.0)
# by hand: d_1 <= -4 + 16 r; Lemma 3.2 at alpha = 3/4 asks tanh(-d / 2) > 1/3, so r < (4 - log 2) / 16 = 0.2067
RADIUS = 0.2066
CLAIM = Claim("Linf", RADIUS, 0.75, 1.0, 0, "robust", (0.0, 1.0), "real", H.sha256, G.sha256, array_sha256(X), None)
UPPER = -4 + 16 * RADIUS


def verdict(claim: Claim, rule: str, evidence: object, h: PlainNetwork = H, x: np.ndarray = X) -> Verdict:
    line = certificate_line(0, 0, "margin", claim, rule, evidence)
    return check_bytes(line, h, G, x)


def network(claim: Claim = CLAIM) -> Verdict:
    return verdict(claim, "network_margin", NetworkMargin(None))


def changed(**fields: Any) -> Claim:
    return dataclasses.replace(CLAIM, **fields)


def test_a_true_claim_is_accepted_without_assumptions():
    assert network() == Accepted(frozenset())


def test_the_largest_true_radius_is_found_to_nine_digits():
    exact = (4 - np.log(2)) / 16
    assert isinstance(network(changed(radius=exact * (1 - 1e-9))), Accepted)
    assert isinstance(network(changed(radius=exact * (1 + 1e-9))), Rejected)


def test_a_tie_of_the_mix_on_the_boundary_is_not_accepted():
    # h alone, alpha = 1: d reaches exactly 0 at r = 1/4
    assert isinstance(network(changed(alpha=1.0, radius=0.25)), Rejected)
    assert isinstance(network(changed(alpha=1.0, radius=0.25 - 1e-9)), Accepted)


FORGERIES = {
    "a smaller alpha": changed(alpha=0.74),
    "an alpha of one half": changed(alpha=0.5),
    "a larger radius": changed(radius=0.2068),
    "another norm": changed(norm="L1", radius=0.52),
    "another class": changed(predicted=1),
    "a class out of range": changed(predicted=2),
    "another input": changed(input="0" * 64),
    "another robust network": changed(robust=G.sha256),
    "another standard network": changed(standard=H.sha256),
    "a smaller temperature": changed(temperature=0.9),
    "a domain without the input": changed(domain=(0.5, 1.0)),
    "another class than the mix's": changed(class_of="mix", predicted=1),
}


@pytest.mark.parametrize("name", sorted(FORGERIES))
def test_a_forged_claim_is_rejected_with_a_reason(name: str):
    found = network(FORGERIES[name])
    assert isinstance(found, Rejected)
    assert found.step
    assert found.reason


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_a_smaller_ball_of_another_norm_is_proven_too(norm: str):
    # the ball of the same radius lies inside: the altered claim is itself true
    assert isinstance(network(changed(norm=norm)), Accepted)


def test_margins_of_h_that_are_large_enough_show_the_class_of_the_mix_too():
    assert isinstance(network(changed(class_of="mix")), Accepted)
    assert isinstance(network(changed(class_of="mix", radius=0.2068)), Rejected)


def test_claiming_for_every_standard_network_is_proven_too():
    assert isinstance(network(changed(standard=None)), Accepted)


def test_another_input_than_the_claimed_one_is_rejected():
    assert isinstance(verdict(CLAIM, "network_margin", NetworkMargin(None), x=X[::-1].copy()), Rejected)


def test_an_input_of_another_type_or_shape_is_rejected():
    assert isinstance(verdict(CLAIM, "network_margin", NetworkMargin(None), x=X.astype(np.float64)), Rejected)
    assert isinstance(verdict(CLAIM, "network_margin", NetworkMargin(None), x=X[None]), Rejected)


def test_an_input_that_is_not_a_number_is_rejected():
    x = np.array([np.nan, 0.5], dtype=np.float32)
    assert isinstance(verdict(changed(input=array_sha256(x)), "network_margin", NetworkMargin(None), x=x), Rejected)


def test_an_input_a_hair_outside_the_domain_is_rejected():
    # float32(0.75) is exact, so the hair is on the domain's side: 0.75 - 2^-40 rounds to 0.75 in float32
    assert isinstance(network(changed(domain=(0.0, 0.75 - 2.0**-40))), Rejected)


# ---------------------------------------------------------------- engine_margin


def engine(lower: float, upper: float, claim: Claim = CLAIM) -> Verdict:
    return verdict(claim, "engine_margin", EngineMargin("test", (0.0, lower), (0.0, upper)))


def test_engine_bounds_are_accepted_with_the_engine_trusted():
    assert engine(-8.0, UPPER) == Accepted(frozenset({Assumption.ENGINE_TRUSTED}))


@pytest.mark.parametrize(
    ("lower", "upper"),
    [(-8.0, -4.1), (-3.9, -1.0), (-8.0, -0.6), (-8.0, 0.0), (-8.0, 1.0)],
    ids=["excludes the input above", "excludes it below", "too weak", "zero", "positive"],
)
def test_engine_bounds_that_cannot_be_or_do_not_suffice_are_rejected(lower: float, upper: float):
    assert isinstance(engine(lower, upper), Rejected)


def test_engine_bounds_with_a_wrong_length_or_own_entry_are_rejected():
    for lower, upper in [((0.0,), (0.0,)), ((0.0, -8.0, -8.0), (0.0, UPPER, UPPER)), ((-1.0, -8.0), (0.0, UPPER))]:
        assert isinstance(verdict(CLAIM, "engine_margin", EngineMargin("test", lower, upper)), Rejected)


def test_engine_bounds_do_not_prove_float32_or_the_mixs_own_class():
    assert isinstance(engine(-8.0, UPPER, changed(semantics="float32")), Rejected)
    assert isinstance(engine(-8.0, UPPER, changed(class_of="mix")), Rejected)


@given(st.floats(-10, 10))
def test_engine_bounds_are_accepted_only_where_the_exact_inequality_holds(upper: float):
    accepted = isinstance(engine(-100.0, upper), Accepted)
    # at alpha = 3/4: 3 (1 - e) > 1 + e, that is e^upper < 1/2; and the bound must not exclude d(x) = -4
    assert accepted == (-4 <= upper < np.log(0.5))


# ---------------------------------------------------------------- pair_margin


def pair(claim: Claim) -> Verdict:
    return verdict(claim, "pair_margin", PairMargin(None, None))


def test_the_pair_rule_proves_any_alpha_where_both_agree():
    agreeing = linear(4.0)
    claim = changed(alpha=0.3, class_of="mix", standard=agreeing.sha256, radius=0.2)
    line = certificate_line(0, 0, "margin", claim, "pair_margin", PairMargin(None, None))
    assert check_bytes(line, H, agreeing, X) == Accepted(frozenset())
    wide = dataclasses.replace(claim, radius=0.26)  # both margins vanish at 1/4
    line = certificate_line(0, 0, "margin", wide, "pair_margin", PairMargin(None, None))
    assert isinstance(check_bytes(line, H, agreeing, X), Rejected)


def test_the_pair_rule_is_never_weaker_than_the_lemma():
    assert isinstance(pair(CLAIM), Accepted)


def test_the_pair_rule_does_not_certify_where_g_outvotes_h():
    assert isinstance(pair(changed(alpha=0.1, class_of="mix", radius=0.0)), Rejected)


def test_the_pair_rule_needs_the_standard_network():
    line = certificate_line(0, 0, "margin", changed(standard=None), "pair_margin", PairMargin(None, None))
    assert isinstance(check_bytes(line, H, None, X), Rejected)


def test_the_pair_rule_claims_the_robust_class_only_if_it_is_that():
    disagreeing = linear(-0.5)  # h slightly prefers class 1, g strongly class 0
    strong = linear(20.0)
    claim = changed(robust=disagreeing.sha256, standard=strong.sha256, alpha=0.3, class_of="mix", radius=0.01)
    for class_of, wanted in (("mix", Accepted), ("robust", Rejected)):
        line = certificate_line(
            0, 0, "margin", dataclasses.replace(claim, class_of=class_of), "pair_margin", PairMargin(None, None)
        )
        assert isinstance(check_bytes(line, disagreeing, strong, X), wanted)


# ---------------------------------------------------------------- semantics float32


def cancelling() -> PlainNetwork:
    """d_1 = -1/8 in real arithmetic; float32 may lose the bias beside 2^26 x and say anything within a few units."""
    big = 2.0**26
    first = np.array([[big, 0], [big, 0]], dtype=np.float32)
    weight = np.array([[1, -1], [0, 0]], dtype=np.float32)
    bias = np.array([0.125, 0], dtype=np.float32)
    return build([Input((2,)), Linear((0,), first, bias), Relu((1,)), Linear((2,), weight, np.zeros(2, np.float32))])


def test_a_net_that_float32_evaluates_wrongly_is_certified_in_real_semantics_only():
    h = cancelling()
    claim = changed(robust=h.sha256, standard=None, alpha=1.0, radius=1e-9)
    outcomes = {}
    for semantics in ("real", "float32"):
        line = certificate_line(
            0, 0, "margin", dataclasses.replace(claim, semantics=semantics), "network_margin", NetworkMargin(None)
        )
        outcomes[semantics] = check_bytes(line, h, None, X)
    assert isinstance(outcomes["real"], Accepted)
    assert isinstance(outcomes["float32"], Rejected)


def test_float32_semantics_costs_little_on_an_ordinary_net():
    assert isinstance(network(changed(semantics="float32", radius=RADIUS * (1 - 1e-5))), Accepted)


# ---------------------------------------------------------------- robustness of the judge itself


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=2),
    max_leaves=6,
)
LINE = certificate_line(0, 0, "margin", CLAIM, "network_margin", NetworkMargin(None))
CASE = Case(prepare(H), prepare(G), X)
INFORMATION = {"index", "label", "method"}  # not part of the claim


@given(st.sampled_from(sorted(set(json.loads(LINE)) - {"sha256"})), JSON)
def test_a_resealed_line_with_a_random_value_is_malformed_rejected_or_proven(field: str, value: object):
    fields = {k: v for k, v in json.loads(LINE).items() if k != "sha256"}
    data = parse.seal(json.dumps({**fields, field: value}, separators=(",", ":")).encode()[:-1])
    try:
        found = parse.line(data, EVIDENCE)
    except parse.MalformedError:
        return
    if isinstance(found, parse.Certificate) and isinstance(check(found, CASE), Accepted):
        truth = (4 - np.log(2)) / 16
        claim = found.claim
        assert (
            field in INFORMATION
            or claim == CLAIM
            or (claim.alpha >= 0.75 and claim.radius <= 0.25)
            or (claim.temperature > 1 and claim.radius <= truth)
            or claim.domain != CLAIM.domain
        )


@given(st.text(max_size=40))
def test_any_witness_is_sound_or_rejected(text: str):
    found = verdict(changed(radius=0.25), "network_margin", NetworkMargin(text))
    assert isinstance(found, Rejected)  # the claim is false, no witness may help

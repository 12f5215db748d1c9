"""Margin rules against exact values: the box's worst corner, the two networks' own margin, ties, wrong hypotheses."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
from flint import arb, ctx

from proofs_check.certificate import Accepted, Claim, Input, Linear, PlainNetwork, Rejected, RejectedError, Smoothing
from proofs_check.judge import _tie, check
from proofs_check.kernel import bounds, float32
from proofs_check.reading.parse import Certificate, array_sha256
from proofs_check.rules import prove
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.rule import EngineRelaxedLipschitz, LocalLipschitz, RelaxedLipschitz, need_fixed_point
from proofs_check.rules.margin.differences import Differences, differences, exponentials, need_class, slopes
from proofs_check.rules.margin.exponential import chord, exponential_misses
from proofs_check.rules.margin.rule import EngineMargin, NetworkMargin, PairMargin, box_proves, margin_lower
from proofs_check.witness import Witness
from verifiers.network.module import build

X = np.array([1.0], dtype=np.float32)
Rng = np.random.Generator


def net(*biases: float) -> PlainNetwork:
    """Constant logits."""
    return build([Input((1,)), Linear((0,), np.zeros((len(biases), 1), np.float32), np.array(biases, np.float32))])


def claim_of(h: PlainNetwork, g: PlainNetwork | None, alpha: float, class_of: str = "mix", predicted: int = 0) -> Claim:
    standard = None if g is None else g.sha256
    return Claim("Linf", 0.0, alpha, 1.0, predicted, class_of, None, "real", h.sha256, standard, array_sha256(X), None)


def differences_of(lower: list[float], upper: list[float]) -> Differences:
    values = bounds.value_bounds(bounds.prepare(net(0, 0)), bounds.Ball(X, 0.0, "Linf", None), None)
    return Differences(np.array(lower), np.array(upper), values, np.zeros(len(lower)))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_the_margin_over_a_box_is_that_of_its_worst_corner(temperature: float):
    rng = np.random.default_rng(0)
    for _ in range(60):
        k, y = int(rng.integers(2, 5)), 0
        lower, upper = np.sort(rng.normal(size=(2, k)) * 2, axis=0)
        if rng.integers(3) == 0:
            upper[1] = max(0.0, lower[1])
        lower[y] = upper[y] = 0.0
        for rival in range(1, k):
            found = margin_lower(differences_of(list(lower), list(upper)), rival, temperature, y)
            corners = itertools.product(*zip(lower, upper, strict=True))
            margins = [(1 - e[rival]) / sum(e) for e in ([math.exp(temperature * d) for d in c] for c in corners)]
            assert found <= min(margins) + 1e-12
            assert found >= min(margins) - 1e-12


def test_the_pair_rule_accepts_exactly_where_the_mix_has_a_positive_margin():
    rng = np.random.default_rng(1)
    seen = {True: 0, False: 0}
    for _ in range(60):
        h, g = net(*rng.normal(size=2)), net(*rng.normal(size=2))
        alpha = float(rng.uniform())
        margins = [math.tanh(-(n.nodes[1].bias[1] - n.nodes[1].bias[0]) / 2) for n in (g, h)]  # type: ignore[union-attr]
        total = (1 - alpha) * margins[0] + alpha * margins[1]
        case = Case(bounds.prepare(h), bounds.prepare(g), X)
        lemma = alpha * margins[1] > 1 - alpha
        certificate = Certificate(0, 0, "margin", claim_of(h, g, alpha), "pair_margin", PairMargin(None, None))
        accepted = isinstance(check(certificate, case), Accepted)
        assert accepted == (total > 0 or lemma)
        seen[accepted] += 1
    assert min(seen.values()) > 10


def test_a_mix_that_ties_is_not_certified_by_the_pair():
    tied = net(0, 0)
    for alpha in (0.0, 0.5, 1.0):
        case = Case(bounds.prepare(tied), bounds.prepare(tied), X)
        certificate = Certificate(0, 0, "margin", claim_of(tied, tied, alpha), "pair_margin", PairMargin(None, None))
        assert isinstance(check(certificate, case), Rejected)


def test_equal_logits_do_not_pass_for_a_margin_even_at_alpha_one():
    claim = claim_of(net(0, 0), None, 1.0, "robust")
    assert not box_proves(np.array([0.0, 0.0]), 1, claim)
    assert box_proves(np.array([0.0, -1e-9]), 1, claim)
    with pytest.raises(RejectedError):
        need_fixed_point(claim, np.zeros(2), np.zeros(2))


def test_bounds_above_zero_prove_nothing_by_the_box():
    assert not box_proves(np.array([0.0, 1e-300]), 1, claim_of(net(0, 0), None, 1.0, "robust"))


def test_the_required_margin_itself_is_not_enough():
    """alpha = 3/4 asks for a margin above 1/3: e = 1/2 for one rival."""
    claim = claim_of(net(0, 0), None, 0.75, "robust")
    half = math.log(0.5)
    above, below = (half + s * 1e-13 for s in (1, -1))
    assert not box_proves(np.array([0.0, above]), 1, claim)
    assert box_proves(np.array([0.0, below]), 1, claim)


def test_the_exponential_of_the_own_class_is_one_and_temperature_multiplies():
    found = exponentials(np.array([0.0, -1.0, 0.5]), 2.0, 0)
    assert found[0] == 1
    assert abs(found[1] - arb(-2).exp()) < 1e-12
    assert abs(found[2] - arb(1).exp()) < 1e-12


SMOOTHING = Smoothing(0.5, "hard", 0.001)
DETERMINISTIC = {
    "engine_lipschitz_relaxed": EngineRelaxedLipschitz("none", (0.0, -5.0), (0.0, -5.0)),
    "engine_margin": EngineMargin("none", (0.0, -5.0), (0.0, -5.0)),
    "lipschitz_local": LocalLipschitz("4a", (0.0, 1e-9), None),
    "lipschitz_relaxed": RelaxedLipschitz(None),
    "network_margin": NetworkMargin(None),
    "pair_margin": PairMargin(None, None),
}


@pytest.mark.parametrize("rule", sorted(DETERMINISTIC))
def test_a_deterministic_rule_proves_nothing_of_a_smoothed_classifier(rule: str):
    h = net(5, 0)
    case = Case(bounds.prepare(h), bounds.prepare(h), X)
    claim = claim_of(h, h, 0.9, "robust")
    prove(rule, claim, DETERMINISTIC[rule], case)
    with pytest.raises(RejectedError, match="smoothing"):
        prove(rule, dataclasses.replace(claim, smoothing=SMOOTHING), DETERMINISTIC[rule], case)


@pytest.mark.parametrize("rule", sorted(set(DETERMINISTIC) - {"network_margin", "pair_margin"}))
def test_a_rule_without_float32_bounds_proves_nothing_of_float32(rule: str):
    h = net(5, 0)
    case = Case(bounds.prepare(h), bounds.prepare(h), X)
    claim = dataclasses.replace(claim_of(h, h, 0.9, "robust"), semantics="float32")
    with pytest.raises(RejectedError, match="float32"):
        prove(rule, claim, DETERMINISTIC[rule], case)


@pytest.mark.parametrize("rule", sorted(set(DETERMINISTIC) - {"pair_margin", "network_margin"}))
def test_a_rule_of_the_robust_class_proves_nothing_of_the_mixs_own(rule: str):
    h = net(5, 0)
    case = Case(bounds.prepare(h), bounds.prepare(h), X)
    with pytest.raises(RejectedError, match="class"):
        prove(rule, claim_of(h, h, 0.9), DETERMINISTIC[rule], case)


def test_the_pair_rule_needs_both_a_named_and_a_present_standard_network():
    h = net(5, 0)
    prepared = bounds.prepare(h)
    for claim, case in ((claim_of(h, None, 0.9), Case(prepared, prepared, X)),
                        (claim_of(h, h, 0.9), Case(prepared, None, X))):  # fmt: skip
        with pytest.raises(RejectedError, match="standard model"):
            prove("pair_margin", claim, PairMargin(None, None), case)


def test_the_pair_rule_asks_for_the_robust_class_only_where_it_is_claimed():
    h, g = net(0, 1), net(9, 0)  # h predicts class 1, the mix class 0
    case = Case(bounds.prepare(h), bounds.prepare(g), X)
    prove("pair_margin", claim_of(h, g, 0.3), PairMargin(None, None), case)
    with pytest.raises(RejectedError, match="strict argmax"):
        prove("pair_margin", claim_of(h, g, 0.3, "robust"), PairMargin(None, None), case)


def test_the_class_is_judged_at_the_input_where_the_ball_is_too_large():
    weight = np.array([[0], [1]], dtype=np.float32)
    h = build([Input((1,)), Linear((0,), weight, np.array([1.5, 0], np.float32))])
    case = Case(bounds.prepare(h), None, X)
    claim = dataclasses.replace(claim_of(h, None, 0.9, "robust"), radius=1.0)
    need_class(case, claim, np.array([0.0, 0.5]))  # d = x - 1.5 reaches 1/2 on the ball, and is -1/2 at x
    need_class(case, claim, np.full(2, np.inf))
    with pytest.raises(RejectedError, match="strict argmax"):
        need_class(case, dataclasses.replace(claim, predicted=1), np.full(2, np.inf))
    three = net(5, 0, -1)
    here, of_three = Case(bounds.prepare(three), None, X), claim_of(three, None, 0.9, "robust")
    for on_ball in ([0.0, -1.0, 0.5], [0.0, 0.0, 0.0], [0.0, -1.0, -2.0]):
        need_class(here, of_three, np.array(on_ball))
    with pytest.raises(RejectedError, match="strict argmax"):
        need_class(here, dataclasses.replace(of_three, predicted=1), np.full(3, np.inf))
    tied = bounds.prepare(net(1, 1))
    with pytest.raises(RejectedError, match="strict argmax"):
        need_class(Case(tied, None, X), claim_of(net(1, 1), None, 0.9, "robust"), np.full(2, np.inf))


def test_float32_moves_both_ends_outward_by_both_logits_errors():
    rng = np.random.default_rng(0)
    for _ in range(20):
        weight, bias = rng.normal(size=(4, 1)).astype(np.float32), rng.normal(size=4).astype(np.float32)
        h = build([Input((1,)), Linear((0,), weight, bias)])
        case, y = Case(bounds.prepare(h), None, X), int(rng.integers(4))
        claim = dataclasses.replace(claim_of(h, None, 0.9, "robust", y), radius=0.1)
        real = differences(case.robust, None, case, claim)
        single = differences(case.robust, None, case, dataclasses.replace(claim, semantics="float32"))
        errors = [Fraction(float(e)) for e in float32.logit_error(real.values)]
        assert not real.error.any()
        for j in range(4):
            error = errors[j] + errors[y] if j != y else Fraction(0)
            assert Fraction(float(single.error[j])) >= error
            assert Fraction(float(single.lower[j])) <= Fraction(float(real.lower[j])) - error
            assert Fraction(float(single.upper[j])) >= Fraction(float(real.upper[j])) + error
        assert single.error[y] == 0


def test_slopes_that_are_not_base64_are_rejected():
    prepared = bounds.prepare(net(1, 0))
    assert slopes(None, prepared) is None
    for bad in ("é", "a", "====", "ab\ncd"):
        with pytest.raises(RejectedError, match="base64"):
            slopes(bad, prepared)


def test_a_claim_is_tied_to_the_networks_and_the_input_at_hand():
    h, g = net(5, 0), net(4, 0)
    case = Case(bounds.prepare(h), bounds.prepare(g), X)
    claim = claim_of(h, g, 0.9)

    def tie(case: Case = case, **changes: object) -> None:
        _tie(Certificate(0, 0, "margin", dataclasses.replace(claim, **changes), "network_margin", None), case)  # type: ignore[arg-type]

    tie()
    tie(domain=(1.0, 1.0))
    three, wide = (
        net(4, 0, 0),
        build([Input((2,)), Linear((0,), np.zeros((2, 2), np.float32), np.zeros(2, np.float32))]),
    )
    two = build([Input((2,)), Linear((0,), np.eye(2, dtype=np.float32), np.zeros(2, np.float32))])
    here, half = Case(bounds.prepare(two), None, np.array([0.5, 2], np.float32)), np.array([0.5, np.nan], np.float32)
    of_two = {"robust": two.sha256, "standard": None, "input": array_sha256(here.input)}
    tie(here, **of_two)
    tie(here, **of_two, domain=(0.5, 2.0))
    tie(Case(case.robust, None, X), standard=None)
    wrong: list[tuple[str, Case, dict[str, object]]] = [
        ("domain", here, {**of_two, "domain": (1.0, 2.0)}),
        ("domain", here, {**of_two, "domain": (0.0, 1.0)}),
        ("input", Case(here.robust, None, half), {**of_two, "input": array_sha256(half)}),
        ("input", case, {"input": "0" * 64}),
        ("input", Case(case.robust, case.standard, here.input), {"input": array_sha256(here.input)}),
        ("robust", case, {"robust": g.sha256}),
        ("standard", case, {"standard": h.sha256}),
        ("standard", Case(case.robust, None, X), {}),
        ("standard", Case(case.robust, bounds.prepare(three), X), {"standard": three.sha256}),
        ("standard", Case(case.robust, bounds.prepare(wide), X), {"standard": wide.sha256}),
        ("input", Case(case.robust, case.standard, X.astype(np.float64)), {}),  # type: ignore[arg-type]
        ("input", Case(case.robust, case.standard, np.ones(2, np.float32)), {}),
        ("input", Case(case.robust, case.standard, X * np.float32(np.nan)), {}),
        ("input", case, {"input": "0" * 64}),
        ("predicted", case, {"predicted": 2}),
        ("domain", case, {"domain": (1.0 + 2.0**-52, 2.0)}),
        ("domain", case, {"domain": (0.0, 1.0 - 2.0**-53)}),
    ]
    for step, at_hand, changes in wrong:
        with pytest.raises(RejectedError) as caught:
            tie(at_hand, **changes)
        assert caught.value.step == step


# ---------------------------------------------------------------- the exponential form


def chord_cases(count: int) -> Iterator[tuple[Rng, Differences, int, Claim]]:
    """Random boxes of d for 2 to 5 classes, y = 0, at random alpha and temperature."""
    rng = np.random.default_rng(5)
    for _ in range(count):
        k = int(rng.integers(2, 6))
        lower, upper = np.sort(rng.normal(size=(2, k)) * 3 - 1, axis=0)
        if rng.integers(4) == 0:
            lower = upper.copy()
        lower[0] = upper[0] = 0.0
        claim = dataclasses.replace(
            claim_of(net(0, 0), None, float(rng.choice([0.51, 0.75, 0.9, 1.0])), "robust"),
            temperature=float(rng.choice([0.5, 1.0, 3.0])),
        )
        yield rng, differences_of(list(lower), list(upper)), int(rng.integers(1, k)), claim


def weighted(d: np.ndarray, rival: int, claim: Claim) -> arb:
    weights = [0.0 if j == 0 else 1.0 if j == rival else 1 - arb(claim.alpha) for j in range(len(d))]
    return sum((w * (arb(claim.temperature) * arb(float(v))).exp() for w, v in zip(weights, d, strict=True)), arb(0))


def test_a_chord_is_above_the_sum_wherever_it_reaches_the_threshold():
    reached = 0
    for rng, found, rival, claim in chord_cases(80):
        line = chord(found, rival, claim)
        assert line is not None
        lower, upper = found.lower, found.upper
        shares = [*rng.uniform(size=(20, len(upper))), *rng.integers(0, 2, (20, len(upper)))]
        for share in shares:
            d = np.clip(upper - share * (upper - lower), lower, upper)
            total = weighted(d, rival, claim)
            if total > line.threshold:
                reached += 1
                forms = zip(line.coefficients, d, strict=True)
                above = line.intercept + sum((arb(float(a)) * arb(float(v)) for a, v in forms), arb(0))
                assert not total > above
        assert abs(line.threshold - (2 * arb(claim.alpha) - 1)) < 1e-12
    assert reached > 300


def test_a_chord_is_above_the_sum_at_its_ends_to_the_last_digit():
    """A secant's slope is rounded: one of its ends then lies above the other's line."""
    reached = 0
    for _, found, rival, claim in chord_cases(60):
        with ctx.workprec(300):
            line = chord(found, rival, claim)
            for d in itertools.product(*({a, b} for a, b in zip(found.lower, found.upper, strict=True))):
                total = weighted(np.array(d), rival, claim)
                forms = zip(line.coefficients, d, strict=True)
                above = line.intercept + sum((arb(float(a)) * arb(float(v)) for a, v in forms), arb(0))
                if total >= line.threshold:
                    reached += 1
                    assert not total > above
    assert reached > 100


def test_a_chord_is_the_secant_of_the_violation_region():
    """Independent floats: left ends raised to where the sum could still reach the threshold, then secants."""
    for _, found, rival, claim in chord_cases(80):
        line = chord(found, rival, claim)
        assert line is not None
        k, t = len(found.upper), claim.temperature
        w = np.array([0.0 if j == 0 else 1.0 if j == rival else 1 - claim.alpha for j in range(k)])
        top = np.exp(t * found.upper)
        slack = w @ top - (2 * claim.alpha - 1)
        if slack <= 0:
            continue  # the box form proves it
        total = 0.0
        for j in range(1, k):
            left, right = found.lower[j], found.upper[j]
            rest = top[j] - slack / w[j] if w[j] > 1e-300 else 0.0
            if rest > 0:
                left = max(left, math.log(rest) / t)
            ends = [w[j] * math.exp(t * v) for v in (left, right)]
            gap = right - left
            slope = (ends[1] - ends[0]) / gap if abs(gap) > 1e-9 else w[j] * t * math.exp(t * right)
            assert line.coefficients[j] == pytest.approx(slope, rel=1e-5, abs=1e-9)
            total += max(e - line.coefficients[j] * v for e, v in zip(ends, (left, right), strict=True))
        assert float(line.intercept.mid()) == pytest.approx(total, rel=1e-7, abs=1e-9)
        assert line.coefficients[0] == 0


def test_a_chord_out_of_the_range_of_floats_is_refused():
    claim = dataclasses.replace(claim_of(net(0, 0), None, 0.9, "robust"), temperature=1e300)
    with pytest.raises(RejectedError, match="range of floats"):
        chord(differences_of([0.0, -1.0], [0.0, 1e9]), 1, claim)


def test_along_a_line_the_exponential_form_is_the_exact_inequality():
    """One input: every chord is exact at both ends of the ball, where the convex sum is largest."""
    rng = np.random.default_rng(2)
    seen = {True: 0, False: 0}
    for _ in range(400):
        weight, bias = rng.normal(size=(4, 1)).astype(np.float32), rng.normal(size=4).astype(np.float32) * 2
        h, alpha = build([Input((1,)), Linear((0,), weight, bias)]), float(rng.choice([0.6, 0.75, 0.95]))
        y, radius = int(np.argmax(weight[:, 0] + bias)), float(rng.uniform(0.2, 2))
        claim = dataclasses.replace(claim_of(h, None, alpha, "robust", y), radius=radius)
        found = differences(bounds.prepare(h), None, Case(bounds.prepare(h), None, X), claim)
        rivals = [i for i in range(4) if i != y and not box_proves(found.upper, i, claim)]
        missed = exponential_misses(found, rivals, claim)
        logits = [(weight[:, 0].astype(float) * (1 + s * radius) + bias) for s in (-1, 1)]
        ends = [np.exp(z - z[y]) for z in logits]
        for i in rivals:
            total = max(e[i] + (1 - alpha) * sum(e[j] for j in range(4) if j not in (i, y)) for e in ends)
            assert (i in missed) == (total >= 2 * alpha - 1)
            seen[i in missed] += 1
        wider = dataclasses.replace(found, error=np.where(np.arange(4) == y, 0.0, 50.0))
        assert exponential_misses(wider, rivals, claim) == rivals, "a float32 error of 50 proves nothing"
    assert min(seen.values()) > 10


def test_the_second_form_of_a_class_takes_its_own_witness_row(monkeypatch: pytest.MonkeyPatch):
    h = net(5, 0, 1)
    case, claim = Case(bounds.prepare(h), None, X), claim_of(h, None, 0.9, "robust")
    found = differences(case.robust, None, case, claim)
    hinted = dataclasses.replace(found, values=dataclasses.replace(found.values, witness=Witness(np.ones((7, 1)))))
    asked: list[object] = []

    def record(_: object, forms: np.ndarray, rows: object) -> np.ndarray:
        asked.append(rows)
        return np.zeros(len(forms))

    monkeypatch.setattr(bounds, "functionals", record)
    exponential_misses(hinted, [1, 2], claim)
    exponential_misses(found, [1, 2], claim)
    assert asked == [[5, 6], [0, 0]]


@pytest.mark.parametrize("rule", ["engine_margin", "engine_lipschitz_relaxed"])
def test_bounds_an_engine_states_must_fit_the_network_and_hold_at_the_input(rule: str):
    """d = (0, -5, -6) at the input itself."""
    kind = {"engine_margin": EngineMargin, "engine_lipschitz_relaxed": EngineRelaxedLipschitz}[rule]
    h = net(5, 0, -1)
    case, claim = Case(bounds.prepare(h), None, X), claim_of(h, None, 0.9, "robust")
    prove(rule, claim, kind("none", (0.0, -6.0, -7.0), (0.0, -4.0, -5.0)), case)
    wrong = [
        ((0.0, -6.0), (0.0, -4.0)),
        ((0.0, -6.0, -7.0), (0.0, -4.0)),
        ((0.0, -6.0, -7.0, -8.0), (0.0, -4.0, -5.0, -6.0)),
        ((0.0, -4.9, -7.0), (0.0, -4.0, -5.0)),
        ((0.0, -6.0, -5.9), (0.0, -4.0, -5.0)),
        ((0.0, -6.0, -7.0), (0.0, -5.1, -5.0)),
        ((0.0, -6.0, -7.0), (0.0, -4.0, -6.1)),
        ((-1.0, -6.0, -7.0), (0.0, -4.0, -5.0)),
        ((0.0, -6.0, -7.0), (1.0, -4.0, -5.0)),
    ]
    for lower, upper in wrong:
        with pytest.raises(RejectedError) as caught:
            prove(rule, claim, kind("none", lower, upper), case)
        assert caught.value.step == "bounds"

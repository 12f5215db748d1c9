"""Networks at the edges of floating point: largest proven radii, bounds and float32 errors are never refuted."""

from __future__ import annotations

import dataclasses
from typing import Any

import exact_network as en
import hostile as ho
import numpy as np
import pytest
import torch
from every_rule import CERTIFICATES, G, H, X, claim_of, ones, out_of_range, verdict, zeros

from certmix.records.lines import certificate_line
from proofs_check import certificate as c
from proofs_check import judge
from proofs_check.certificate import Accepted, Claim, Rejected, RejectedError
from proofs_check.kernel import bounds, float32, jacobian
from proofs_check.rules import prove
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz.rule import LocalLipschitz, RelaxedLipschitz
from proofs_check.rules.margin.rule import NetworkMargin, PairMargin
from verifiers.network.module import PlainModule, build

F32 = np.float32


# ---------------------------------------------------------------- hostile networks, end to end


def largest_accepted(rule: str, evidence: Any, claim: Claim, case: Case) -> Claim | None:
    """The claim at the largest radius, of some, that the rule proves."""
    best: Claim | None = None
    low, high = -60.0, 6.0
    for _ in range(7):
        middle = (low + high) / 2
        tried = dataclasses.replace(claim, radius=2.0**middle)
        try:
            prove(rule, tried, evidence(tried), case)
        except RejectedError:
            high = middle
        else:
            best, low = tried, middle
    return best


def a_hostile_case(rng: ho.Rng) -> str:
    """The largest radius a rule proves on a hostile network holds at exact points of that ball."""
    network = ho.hostile_network(rng)
    where = ho.hostile_ball(rng, network.input_shape)
    try:
        prepared = bounds.prepare(network)
    except RejectedError:
        return "network refused"
    case = Case(prepared, prepared, where.center)
    logits = list(en.exact_values(network, en.exact(where.center))[-1])
    y = logits.index(max(logits))
    rule = ("network_margin", "pair_margin", "lipschitz_local", "lipschitz_relaxed")[int(rng.integers(4))]
    claim = claim_of(
        network, where.center, predicted=y, norm=where.norm, domain=where.domain, standard=network.sha256,
        alpha=float(rng.choice([0.51, 0.75, 1.0]) if rule != "pair_margin" else rng.choice([0.0, 0.3, 1.0])),
        temperature=float(rng.choice([1e-3, 1.0, 30.0, 1e12])),
    )  # fmt: skip
    theorem = ("3.5", "4a")[int(rng.integers(2))]

    def evidence(tried: Claim) -> Any:
        if rule == "lipschitz_local":
            values = bounds.value_bounds(prepared, case.ball(tried), None)
            return LocalLipschitz(theorem, tuple(jacobian.difference_constants(values, y).tolist()), None)
        return {"network_margin": NetworkMargin(None), "pair_margin": PairMargin(None, None)}.get(
            rule, RelaxedLipschitz(None)
        )

    found = largest_accepted(rule, evidence, claim, case)
    if found is None:
        return "nothing proven"
    judge_of_g = network if rule == "pair_margin" else None
    points = en.points(rng, case.ball(found), [rng.normal(size=network.input_shape) for _ in range(3)])
    assert not any(ho.refuted(found, network, judge_of_g, p) for p in points), found
    return "proven and true"


def test_the_largest_proven_radius_on_hostile_networks_is_never_refuted():
    found = ho.attempts(20, 0, a_hostile_case)
    assert found["proven and true"] > 2


@pytest.mark.slow
def test_the_largest_proven_radius_on_1000_hostile_networks_is_never_refuted():
    assert ho.attempts(1_000, 10_000, a_hostile_case)["proven and true"] > 100


def bounded(rng: ho.Rng) -> str:
    """Every bound of every node of a hostile network holds at exact points of a hostile ball."""
    network = ho.hostile_network(rng)
    where = ho.hostile_ball(rng, network.input_shape)
    try:
        found = en.boxes(bounds.value_bounds(bounds.prepare(network), where, None))
    except RejectedError:
        return "refused"
    for point in en.points(rng, where, [rng.normal(size=network.input_shape) for _ in range(3)]):
        for k, value in enumerate(en.exact_values(network, point)):
            lower, upper = map(en.exact, found[k])
            assert ((lower <= value) & (value <= upper)).all(), (k, network.nodes[k])
    return "held"


def test_no_exact_point_leaves_the_bounds_of_hostile_networks():
    assert ho.attempts(60, 0, bounded)["held"] > 40


@pytest.mark.slow
def test_no_exact_point_leaves_the_bounds_of_3000_hostile_networks():
    assert ho.attempts(3_000, 10_000, bounded)["held"] > 2_000


# ---------------------------------------------------------------- files built to exhaust or to crash the judge


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_a_large_layer_with_few_unstable_cells_is_judged(norm: c.Norm):
    size = (1, 600, 600)
    conv = c.Conv2d((0,), ones(1, 1, 1, 1), -ones(1), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    mean = c.AveragePool2d((2,), (600, 600), (600, 600), (0, 0, 0, 0), False)
    last = c.Linear((4,), np.array([[1], [0]], F32), zeros(2))
    network = build([c.Input(size), conv, c.Relu((1,)), mean, c.Flatten((3,)), last])
    x = np.where(np.arange(360_000) < 5, 1, 3).astype(F32).reshape(size)
    assert isinstance(verdict(network, x, norm=norm, alpha=1.0), Accepted)


def test_a_network_with_a_million_classes_is_rejected():
    network = build([c.Input((2,)), c.Pad((0,), (0,), (10**6,), 0.0)])
    assert isinstance(verdict(network, np.array([1, 0], F32)), Rejected)


def test_a_network_out_of_range_is_rejected():
    assert isinstance(verdict(out_of_range(), ones(2)), Rejected)


@pytest.mark.parametrize("temperature", [5e-324, 1e-30, 1e30, 1e308])
@pytest.mark.parametrize("radius", [0.0, 5e-324, 0.3, 1e300])
def test_extreme_temperatures_and_radii_end_in_a_verdict(temperature: float, radius: float):
    for name, (claim, evidence) in CERTIFICATES.items():
        tried = dataclasses.replace(claim, temperature=temperature, radius=radius)
        found = judge.check_bytes(certificate_line(0, 0, "margin", tried, name, evidence), H, G, X)
        assert isinstance(found, Accepted | Rejected)


# ---------------------------------------------------------------- float32 semantics


def evaluated_in_float32(rng: ho.Rng) -> str:
    """torch's float32 logits at the centre, subnormals kept and flushed, lie within the proven error."""
    network = ho.hostile_network(rng)
    where = ho.hostile_ball(rng, network.input_shape)
    where = dataclasses.replace(where, radius=min(where.radius, 1e-3))
    try:
        error = float32.logit_error(bounds.value_bounds(bounds.prepare(network), where, None))
    except RejectedError:
        return "refused"
    logits = en.exact_values(network, en.exact(where.center))[-1]
    for flush in (False, True):
        torch.set_flush_denormal(flush)
        found = PlainModule(network)(torch.from_numpy(where.center.copy())[None])[0].numpy()
        torch.set_flush_denormal(False)
        assert np.isfinite(found).all()
        assert (abs(en.exact(found) - logits) <= en.exact(error)).all(), flush
    return "held"


def test_hostile_networks_in_float32_stay_within_the_proven_error():
    assert ho.attempts(100, 0, evaluated_in_float32)["held"] > 60


@pytest.mark.slow
def test_5000_hostile_networks_in_float32_stay_within_the_proven_error():
    assert ho.attempts(5_000, 10_000, evaluated_in_float32)["held"] > 3_000


def test_the_robust_class_is_proven_in_the_claims_own_semantics():
    # h: (x + 2^26) - 2^26 and 1/8 - 2^-20 of x; in float32 the first may lose x and fall below the second
    first = c.Linear((0,), np.array([[1.0], [0.0]], F32), np.array([2.0**26, 0], F32))
    second = c.Linear((1,), np.eye(2, dtype=F32), np.array([-(2.0**26), 0.125], F32))
    h = build([c.Input((1,)), first, second])
    g = build([c.Input((1,)), c.Linear((0,), zeros(2, 1), np.array([9, 0], F32))])
    x = np.array([0.25], dtype=F32)
    for semantics, wanted in (("real", Accepted), ("float32", Rejected)):
        claim = claim_of(h, x, standard=g.sha256, alpha=0.2, radius=0.0, semantics=semantics)
        line = certificate_line(0, 0, "margin", claim, "pair_margin", PairMargin(None, None))
        assert isinstance(judge.check_bytes(line, h, g, x), wanted)
        mixed = dataclasses.replace(claim, class_of="mix")
        line = certificate_line(0, 0, "margin", mixed, "pair_margin", PairMargin(None, None))
        assert isinstance(judge.check_bytes(line, h, g, x), Accepted)


def test_a_subnormal_logit_does_not_decide_in_float32():
    network = build([c.Input((2,)), c.Relu((0,))])
    x = np.array([2.0**-127, 0], dtype=F32)
    scales = {"real": Accepted, "float32": Rejected}
    for semantics, wanted in scales.items():
        found = verdict(network, x, radius=0.0, alpha=1.0, temperature=2.0**130, semantics=semantics)
        assert isinstance(found, wanted)


def test_underflow_inside_batch_norm_is_charged_in_float32():
    # (x - mean) * scale = 2^-127 may be flushed to zero before 1 / sqrt(variance) = 2^20 makes it 2^-107
    norm = c.BatchNorm((0,), ones(2) * F32(2.0**-20), zeros(2), zeros(2), ones(2) * F32(2.0**-40), 2.0**-60)
    network = build([c.Input((2,)), norm])
    x = np.array([2.0**-107, 0], dtype=F32)
    where = bounds.Ball(x, 0.0, "Linf", None)
    assert float32.logit_error(bounds.value_bounds(bounds.prepare(network), where, None))[0] >= 2.0**-107

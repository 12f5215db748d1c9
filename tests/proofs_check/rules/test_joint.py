"""(4b): sums of exponentials by one constant of all logits: against the truth on linear networks, and forgeries."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from flint import arb
from hypothesis import given
from hypothesis import strategies as st
from small_networks import array, every_layer, mlp

from certmix.theorems import lipschitz as floats
from certmix.theorems.lipschitz import LogitsAtInputs, joint_radius, joint_reaches
from proofs_check import certificate as c
from proofs_check.certificate import Claim, Linear, RejectedError
from proofs_check.kernel import bounds
from proofs_check.reading.parse import array_sha256
from proofs_check.rules.case import Case
from proofs_check.rules.lipschitz import joint, layer_norms
from proofs_check.rules.lipschitz.layer_norms import LayerLipschitz, global_constants, joint_constant, layer_lipschitz
from verifiers.network.module import build

F32 = np.float32
sizes = st.floats(-8, 8)


def balls(values: np.ndarray) -> list[arb]:
    return [arb(float(v)) for v in values]


def value_at(terms: list[arb], reach: arb, shares: np.ndarray) -> arb:
    """What (4.2) takes the maximum of, at rational shares, in balls."""
    numerators = [round(1e6 * s) for s in shares]
    p = [arb(n) / sum(numerators) for n in numerators]
    entropy = sum((q * (a - q.log()) for q, a, n in zip(p, terms, numerators, strict=True) if n), arb(0))
    return entropy + reach * (1 + sum((q * q for q in p), arb(0))).sqrt()


@pytest.mark.parametrize("seed", range(30))
def test_no_shares_give_more(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 12))
    terms, reach = balls(rng.normal(0, rng.choice([0.1, 1, 5, 40]), count)), arb(float(rng.exponential(3)))
    most = joint.log_sum(terms, reach)
    for k in range(60):
        shares = np.eye(count)[k] if k < count else rng.dirichlet(np.full(count, rng.choice([0.05, 0.5, 3])))
        assert not most < value_at(terms, reach, shares)


@given(
    st.lists(sizes, min_size=1, max_size=4), st.floats(0, 20), st.floats(-9, 4), sizes, st.floats(1e-9, 2), st.data()
)
def test_any_parabola_level_and_tangents_bound_it(
    a: list[float], reach: float, bend: float, level: float, touching: float, data: st.DataObject
) -> None:
    terms, points = balls(np.array(a)), np.full(len(a), touching)
    most = joint._bound(terms, arb(reach), math.exp(bend), level, points)
    weights = data.draw(st.lists(st.floats(0.001, 1), min_size=len(a), max_size=len(a)))
    assert not most < value_at(terms, arb(reach), np.array(weights) / sum(weights))


@pytest.mark.parametrize("touching", [0.2, 0.45, 0.5, 0.6, 1.0])
def test_a_tangent_bounds_wherever_it_touches(touching: float) -> None:
    """Of two equal terms, with the best bend and level for shares of one half each."""
    terms, bend = balls(np.zeros(2)), 0.5 / math.sqrt(1.5)
    most = joint._bound(terms, arb(1), bend, math.log(2) - 1 + bend, np.full(2, touching))
    assert not most < value_at(terms, arb(1), np.array([0.5, 0.5]))


def moved(z: np.ndarray, y: int, rival: int, claim: Claim) -> float:
    """The largest log of the sum over logits at most claim.radius away: ascent by its own gradient, many starts."""
    rivals = [j for j in range(len(z)) if j != y]
    weights = np.array([1.0 if j == rival else 1 - claim.alpha for j in rivals])
    rng, best = np.random.default_rng(0), -math.inf
    for _ in range(20):
        step = rng.normal(size=len(z))
        for _ in range(200):
            at = z + step / np.linalg.norm(step) * claim.radius
            terms = weights * np.exp(claim.temperature * (at[rivals] - at[y]))
            step = np.zeros(len(z))
            step[rivals], step[y] = terms / terms.sum(), -1.0
        best = max(best, math.log(terms.sum()))
    return best


def logits_as_inputs(classes: int, gain: float = 1.0, offset: float = 0.0) -> c.PlainNetwork:
    """z = gain x, and a multiple of the sum of x added to all: which the constant of centred logits does not see."""
    weight = (gain * np.eye(classes) + offset).astype(F32)
    return build([c.Input((classes,)), c.Linear((0,), weight, np.zeros(classes, F32))])


def case_of(x: np.ndarray, gain: float = 1.0, offset: float = 0.0, **change: object) -> tuple[Case, Claim]:
    network, x = logits_as_inputs(len(x), gain, offset), x.astype(F32)
    given: dict = {
        "norm": "L2", "radius": 0.1, "alpha": 0.75, "temperature": 4.0, "predicted": int(x.argmax()), "domain": None,
        "class_of": "robust", "semantics": "real", "robust": network.sha256, "standard": None,
        "input": array_sha256(x), "smoothing": None,
    }  # fmt: skip
    return Case(bounds.prepare(network), None, x), Claim(**(given | change))


def accepted(case: Case, claim: Claim, theorem: str = "4b", factor: float = 1.0) -> bool:
    constants = [factor * v for v in global_constants(case.robust, claim.predicted, claim.norm)]
    try:
        layer_lipschitz(claim, LayerLipschitz(theorem, tuple(constants)), case)  # type: ignore[arg-type]
    except RejectedError as error:
        return error.step != "margin"  # another step would be a mistake of this test: fails where False is expected
    return True


def largest(case: Case, claim: Claim, theorem: str) -> float:
    low, high = 0.0, 4.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if accepted(case, replace(claim, radius=middle), theorem) else (low, middle)
    return low


@pytest.mark.parametrize(("alpha", "temperature"), [(0.55, 4.0), (0.75, 1.0), (0.75, 8.0), (0.95, 2.0), (1.0, 1.0)])
def test_where_logits_are_the_input_the_radius_is_nearly_the_true_one_and_never_above(
    alpha: float, temperature: float
) -> None:
    x = np.array([2.0, 0.1, 0.0, -0.3, 0.05, 0.2])
    case, claim = case_of(x, alpha=alpha, temperature=temperature)
    found, by_box = largest(case, claim, "4b"), largest(case, claim, "4a")
    strongest, threshold = 5, math.log(2 * alpha - 1) if alpha < 1 else 0.0
    z = case.input.astype(float)
    assert moved(z, 0, strongest, replace(claim, radius=found)) < threshold
    assert moved(z, 0, strongest, replace(claim, radius=found * 1.05)) > threshold
    if alpha < 1:
        assert found > 1.01 * by_box
    else:
        assert found == pytest.approx(by_box, rel=1e-6)  # one rival alone counts: sqrt(2) is its constant


def test_the_constant_is_that_of_centred_logits() -> None:
    x = np.array([2.0, 0.1, 0.0, -0.3])
    radii = [largest(*case_of(x, gain, offset), "4b") for gain, offset in ((1.0, 0.0), (1.0, 5.0), (2.0, 0.0))]
    assert radii[1] == pytest.approx(radii[0], rel=1e-5)
    assert radii[2] != pytest.approx(radii[0], rel=0.05)
    for seed in range(6):
        weight = array(np.random.default_rng(seed), 5, 7)
        network = build([c.Input((7,)), c.Linear((0,), weight, np.zeros(5, F32))])
        exact = np.linalg.norm(weight.astype(float) - weight.astype(float).mean(axis=0), ord=2)
        assert exact <= joint_constant(bounds.prepare(network), "L2") <= exact * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_no_two_points_of_a_network_move_centred_logits_further(seed: int) -> None:
    for network in (mlp(seed), every_layer(seed)):
        prepared, rng = bounds.prepare(network), np.random.default_rng(seed)
        constant, shape = joint_constant(prepared, "L2"), network.input_shape
        for _ in range(20):
            x, y = (rng.normal(size=shape).astype(F32) for _ in range(2))
            ends = [bounds.value_bounds(prepared, c_ball, None) for c_ball in (ball_of(x), ball_of(y))]
            middle = [(e.lower[-1] + e.upper[-1]).ravel() / 2 for e in ends]
            change = middle[0] - middle[1]
            assert np.linalg.norm(change - change.mean()) <= constant * np.linalg.norm((x - y).astype(float)) + 1e-6


def test_where_forms_of_the_logits_end_at_two_nodes_both_count() -> None:
    """z = leaky(x) + x, whose gain as a block is not known: 2 where x > 0."""
    network = build([c.Input((2,)), c.LeakyRelu((0,), 0.5), c.Add((0, 1))])
    assert 2 <= joint_constant(bounds.prepare(network), "L2") <= 2 * (1 + 1e-6)


def ball_of(x: np.ndarray) -> bounds.Ball:
    return bounds.Ball(x, 0.0, "L2", None)


@pytest.mark.parametrize("norm", ["Linf", "L1"])
def test_it_is_about_balls_in_l2_alone(norm: c.Norm) -> None:
    case, claim = case_of(np.array([2.0, 0.1, 0.0, -0.3]), norm=norm, radius=1e-3)
    assert accepted(case, claim, "4a")
    with pytest.raises(RejectedError, match="not in L"):
        layer_lipschitz(claim, LayerLipschitz("4b", global_constants(case.robust, 0, norm)), case)


@pytest.mark.parametrize(
    "change", [{"radius": 3.0}, {"alpha": 0.5}, {"alpha": 0.2}, {"temperature": 1e-3}, {"radius": 1e30}]
)
def test_a_changed_claim_is_rejected(change: dict) -> None:
    case, claim = case_of(np.array([2.0, 0.1, 0.0, -0.3]))
    assert accepted(case, claim)
    assert not accepted(case, replace(claim, **change))


def test_constants_of_differences_are_still_checked_and_may_be_as_large_as_one_likes() -> None:
    case, claim = case_of(np.array([2.0, 0.1, 0.0, -0.3]), radius=0.4)
    assert accepted(case, claim, factor=1e6)
    assert not accepted(case, claim, "4a", factor=1e6)
    stated = tuple(0.9 * v for v in global_constants(case.robust, 0, "L2"))
    with pytest.raises(RejectedError, match="is below the proven bound"):
        layer_lipschitz(claim, LayerLipschitz("4b", stated), case)


def test_rivals_out_of_reach_and_large_numbers_prove_nothing_wrong() -> None:
    far = balls(np.array([0.0, -1e6, -1e9]))
    alone = joint.log_sum(balls(np.array([0.0])), arb(2.0))
    assert abs(joint.log_sum(far, arb(2.0)) - alone) < 1e-9
    assert abs(alone - 2 * arb(2).sqrt()) < 1e-9
    for reach in (0.0, 1e-300, 1e300):
        assert joint.log_sum(balls(np.array([0.0, 0.0])), arb(reach)) >= arb(reach)
    for reach in (math.inf, math.nan):
        assert not joint.log_sum(balls(np.array([-1e3, 0.0])), arb(reach)) < 1e9
    assert not joint.log_sum([arb("nan"), arb(0)], arb(1)) < 1e9


def test_many_classes_of_large_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    case, claim = case_of(np.array([2.0, 0.1, 0.0, -0.3]))
    joint_constant.cache_clear()
    monkeypatch.setattr(layer_norms, "MAX_ENTRIES", 4)
    with pytest.raises(RejectedError, match="a joint constant takes"):
        layer_lipschitz(claim, LayerLipschitz("4b", global_constants(case.robust, claim.predicted, "L2")), case)
    joint_constant.cache_clear()


# ---------------------------------------------------------------- the floats that propose


@pytest.mark.parametrize("seed", range(8))
def test_floats_find_what_the_judge_finds(seed: int) -> None:
    rng = np.random.default_rng(seed)
    terms, reach = rng.normal(0, 2, (6, 5)), rng.exponential(2, 6)
    found = floats.log_sum(torch.from_numpy(terms), torch.from_numpy(reach)).tolist()
    for row, s, value in zip(terms, reach.tolist(), found, strict=True):
        assert value == pytest.approx(float(joint.log_sum(balls(row), arb(s)).mid()), abs=1e-6)


def test_proposed_radii_are_those_that_the_judge_proves() -> None:
    x = np.array([2.0, 0.1, 0.0, -0.3, 0.05, 0.2])
    case, claim = case_of(x)
    point = LogitsAtInputs(torch.from_numpy(case.input.astype(float))[None], torch.tensor([0]), 0.75, 4.0)
    values = torch.tensor([global_constants(case.robust, 0, "L2")])
    radius = float(joint_radius(point, values, joint_constant(case.robust, "L2"), 1e-4)[0])
    best = largest(case, claim, "4b")
    assert best * (1 - 5e-3) <= radius <= best * (1 + 1e-6)
    assert bool(joint_reaches(point, values, joint_constant(case.robust, "L2"), torch.tensor([radius]).double())[0])
    half = replace(point, alpha=0.5)
    assert not bool(joint_reaches(half, values, 1.0, torch.tensor([0.0]).double())[0])


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_what_folding_affine_nodes_rounds_is_charged(order: tuple[int, ...]) -> None:
    """2^40 + 2^-20 - 2^40, in every order: floats that add from the left lose the small one in some."""
    entries = np.array([2.0**40, 2.0**-20, -(2.0**40)], F32)[list(order)]
    first = Linear((0,), entries[:, None], np.zeros(3, F32))
    second = Linear((1,), np.array([[1, 1, 1], [0, 0, 0]], F32), np.zeros(2, F32))
    found = joint_constant(bounds.prepare(build([c.Input((1,)), first, second])), "L2")
    assert found >= 2.0**-20 / math.sqrt(2)  # of (z_1 - z_2) / 2 times (1, -1)


def test_the_exponential_form_with_its_functionals_own_constant_proves_no_larger_radius() -> None:
    """docs/maths.md 4b: chords over what one constant lets the differences be, and that constant of their sum."""
    rng = np.random.default_rng(0)
    alpha, temperature, count = 0.6, 2.0, 40
    mu = (1 - alpha) / alpha
    weights = np.array([1 + mu, mu, mu, mu])
    d = -rng.exponential(1, (count, 4)) - 1.4
    low, high = np.zeros(count), np.full(count, 4.0)
    for _ in range(20):
        middle = (low + high) / 2
        left, right = (np.exp(temperature * (d + s * np.sqrt(2) * middle[:, None])) for s in (-1, 1))
        slopes = weights * (right - left) / (2 * np.sqrt(2) * middle[:, None])
        at_x = (weights * right - slopes * np.sqrt(2) * middle[:, None]).sum(axis=1)
        moved = middle * np.sqrt((slopes**2).sum(axis=1) + slopes.sum(axis=1) ** 2)
        proven = at_x + moved < 1 - mu
        low, high = np.where(proven, middle, low), np.where(proven, high, middle)
    assert (low > 0.1).mean() > 0.8
    terms, reach = torch.from_numpy(np.log(weights) + temperature * d), torch.from_numpy(temperature * 0.99 * low)
    assert (floats.log_sum(terms, reach) < np.log(1 - mu) + 1e-9).all()

"""Networks and inputs built to fool floating-point arithmetic, and everything the judge must refuse."""

from __future__ import annotations

import itertools
import zlib

import exact_network as en
import numpy as np
import pytest
import torch

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.witness import Witness, decode
from verifiers.auto_lirpa.engine import AutoLirpa
from verifiers.engine import MarginQuery
from verifiers.network.module import PlainModule, build

F32 = np.float32
POINT = np.array([0.9], dtype=F32)


def cancelling(large: float) -> c.PlainNetwork:
    """z = (0, x - 1) for x > 0, through large x + x - large x: floats add the middle term to nothing."""
    first = c.Linear((0,), np.array([[large], [1], [large]], dtype=F32), np.zeros(3, dtype=F32))
    last = c.Linear((2,), np.array([[0, 0, 0], [1, 1, -1]], dtype=F32), np.array([0, -1], dtype=F32))
    return build([c.Input((1,)), first, c.Relu((1,)), last])


@pytest.mark.parametrize(("large", "precision"), [(2.0**30, "float32"), (2.0**60, "float64")])
def test_float_crown_claims_what_an_exact_point_refutes_and_the_judge_does_not(large: float, precision: str):
    network, ball = cancelling(large), bounds.Ball(POINT, 0.375, "Linf", None)
    engine = AutoLirpa(methods=("CROWN",), precision=precision)  # type: ignore[arg-type]
    query = MarginQuery(
        network, torch.tensor(POINT)[None], "Linf", torch.tensor([0.375]).double(), None, torch.tensor([0])
    )
    assert float(engine.bounds(query).upper[0, 1]) < 0, "the engine is not fooled: the attack is too weak"
    refuting = en.exact(POINT) + en.rational(0.375)
    difference = en.exact_values(network, refuting)[-1][1]
    assert difference > 0
    _, upper = bounds.difference_bounds(bounds.prepare(network), ball, 0, None)
    assert en.rational(upper[1]) >= difference


def test_small_cancellations_are_still_proven():
    _, upper = bounds.difference_bounds(
        bounds.prepare(cancelling(2.0**20)), bounds.Ball(POINT, 0.0625, "Linf", None), 0, None
    )
    assert -0.1 < upper[1] < -0.03


@pytest.mark.parametrize("seed", range(40))
def test_sums_that_cancel_stay_inside_their_bounds(seed: int):
    rng = np.random.default_rng(seed)
    size = 2.0 ** rng.integers(20, 90)
    half = (rng.normal(size=(4, 3)) * size).astype(F32)
    small = rng.normal(size=(2, 3)).astype(F32)
    first = c.Linear((0,), np.concatenate([half, small, half]), rng.normal(size=10).astype(F32))
    signs = np.array([[1, 1, 1, 1, 1, 1, -1, -1, -1, -1], [0] * 10], dtype=F32)
    network = build([c.Input((3,)), first, c.LeakyRelu((1,), 1.0), c.Linear((2,), signs, np.zeros(2, dtype=F32))])
    ball = bounds.Ball(rng.uniform(size=3).astype(F32), 0.1, "Linf", None)
    lower, upper = bounds.difference_bounds(bounds.prepare(network), ball, 1, None)
    for point in en.points(rng, ball, [rng.normal(size=3) for _ in range(4)]):
        value = en.exact_values(network, point)[-1]
        assert en.rational(lower[0]) <= value[0] - value[1] <= en.rational(upper[0])


# ---------------------------------------------------------------- refused, never wrong


def mlp(weight: float = 1.0, bias: float = 0.0) -> c.PlainNetwork:
    first = c.Linear((0,), np.full((3, 2), weight, dtype=F32), np.full(3, bias, dtype=F32))
    layer = c.Linear((2,), np.full((3, 3), weight, dtype=F32), np.zeros(3, dtype=F32))
    last = c.Linear((4,), np.eye(2, 3, dtype=F32) * F32(weight), np.zeros(2, dtype=F32))
    return build([c.Input((2,)), first, c.Relu((1,)), layer, c.Relu((3,)), last])


def ball(radius: float = 0.1, norm: c.Norm = "Linf", domain: tuple[float, float] | None = None) -> bounds.Ball:
    return bounds.Ball(np.array([0.5, 0.5], dtype=F32), radius, norm, domain)


def refused(network: c.PlainNetwork, where: bounds.Ball) -> str:
    with pytest.raises(c.RejectedError) as caught:
        bounds.difference_bounds(bounds.prepare(network), where, 0, None)
    return caught.value.reason


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize("radius", [np.nan, np.inf, 1e300, 2.0**201])
def test_radii_out_of_range_are_refused(norm: c.Norm, radius: float):
    assert "2^200" in refused(mlp(), ball(radius, norm)) or np.isnan(radius)


def test_values_beyond_the_range_of_the_error_bounds_are_refused():
    assert "2^200" in refused(mlp(2.0**120), ball())


def test_overflowing_values_are_refused():
    huge = mlp(2.0**127)
    nodes = [
        *huge.nodes[:-1],
        c.Scale((4,), np.full(3, 2.0**127, dtype=F32)),
        c.Scale((5,), np.full(3, 2.0**127, dtype=F32)),
    ]
    last = c.Linear((6,), np.eye(2, 3, dtype=F32), np.zeros(2, dtype=F32))
    assert "2^200" in refused(build([*nodes, last]), ball())


def test_a_gain_out_of_range_is_refused():
    one = np.ones(2, dtype=F32)
    norm = c.BatchNorm((0,), one * F32(2.0**100), one, one, one * F32(0), 5e-324)
    with pytest.raises(c.RejectedError, match="2\\^200"):
        bounds.prepare(build([c.Input((2,)), norm]))


def test_a_ball_that_misses_its_domain_is_refused():
    assert "domain" in refused(mlp(), ball(0.1, "Linf", (2.0, 3.0)))


def test_forms_that_are_not_numbers_are_refused():
    values = bounds.value_bounds(bounds.prepare(mlp()), ball(), None)
    for bad in (np.nan, np.inf, 2.0**201):
        with pytest.raises(c.RejectedError):
            bounds.functionals(values, np.array([[bad, 0.0]]), None)


# ---------------------------------------------------------------- the witness


def test_witnesses_have_one_of_three_lengths():
    network = mlp()
    for rows in (1, 3, 5):
        assert decode(zlib.compress(bytes([255] * 6 * rows)), network).slopes.shape == (rows, 6)
    for wrong in (0, 5, 7, 12, 24, 31):
        with pytest.raises(c.RejectedError, match="bytes"):
            decode(zlib.compress(bytes(wrong)), network)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked():
    bomb = zlib.compress(bytes(2**25), 9)
    with pytest.raises(c.RejectedError, match="bytes"):
        decode(bomb, mlp())


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d + b"x", lambda d: b"zz" + d, lambda d: b""])
def test_damaged_streams_are_refused(damage):
    with pytest.raises(c.RejectedError):
        decode(damage(zlib.compress(bytes(6))), mlp())


def test_a_network_without_relu_takes_no_witness():
    network = build([c.Input((2,)), c.Linear((0,), np.eye(2, dtype=F32), np.zeros(2, dtype=F32))])
    with pytest.raises(c.RejectedError):
        decode(zlib.compress(b""), network)


def test_each_final_pass_uses_its_own_row():
    slopes = Witness(np.zeros((5, 6)))
    assert [slopes.row(w, 2) for w in range(5)] == [0, 1, 2, 3, 4]
    assert [Witness(np.zeros((3, 6))).row(w, 2) for w in range(5)] == [0, 1, 2, 1, 2]
    assert [Witness(np.zeros((1, 6))).row(w, 2) for w in range(5)] == [0, 0, 0, 0, 0]


def test_better_slopes_give_better_bounds_and_only_for_their_class():
    rng = np.random.default_rng(3)
    nodes = [c.Input((4,)), c.Linear((0,), rng.normal(size=(9, 4)).astype(F32), np.zeros(9, dtype=F32)), c.Relu((1,)),
             c.Linear((2,), rng.normal(size=(3, 9)).astype(F32), np.zeros(3, dtype=F32))]  # fmt: skip
    network = build(nodes)
    prepared, where = bounds.prepare(network), bounds.Ball(rng.uniform(size=4).astype(F32), 0.4, "Linf", None)
    ones = np.ones((4, 9))
    changed = ones.copy()
    changed[2] = 0.0  # row 1 + j of class j = 1
    first = bounds.difference_bounds(prepared, where, 0, Witness(ones))[1]
    second = bounds.difference_bounds(prepared, where, 0, Witness(changed))[1]
    assert first[2] == second[2]
    assert first[1] != second[1]


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_a_larger_ball_never_has_smaller_bounds_of_a_linear_network(norm: c.Norm):
    rng = np.random.default_rng(0)
    network = build(
        [c.Input((5,)), c.Linear((0,), rng.normal(size=(3, 5)).astype(F32), rng.normal(size=3).astype(F32))]
    )
    prepared, center = bounds.prepare(network), rng.uniform(size=5).astype(F32)
    uppers = [
        bounds.difference_bounds(prepared, bounds.Ball(center, r, norm, None), 1, None)[1] for r in (0, 0.1, 0.5, 2)
    ]
    assert all((a <= b).all() for a, b in itertools.pairwise(uppers))
    weight = network.nodes[1].weight.astype(np.float64)
    forms = weight - weight[1]
    order = {"Linf": 1, "L2": 2, "L1": np.inf}[norm]
    dual = np.linalg.norm(forms, ord=order, axis=1)
    expected = forms @ center + (network.nodes[1].bias.astype(np.float64) - network.nodes[1].bias[1]) + 0.5 * dual
    assert np.delete(uppers[2], 1) == pytest.approx(np.delete(expected, 1), abs=1e-12)


def test_the_bounds_of_a_point_are_its_values_up_to_rounding():
    rng = np.random.default_rng(5)
    network = en.random_network(rng, 8)
    x = rng.uniform(size=network.input_shape).astype(F32)
    found = en.boxes(bounds.value_bounds(bounds.prepare(network), bounds.Ball(x, 0.0, "Linf", None), None))
    values = PlainModule(network).double().values(torch.tensor(x)[None].double())
    assert len(found) == len(values)
    for (lower, upper), value in zip(found, values, strict=True):
        scale = 1 + np.abs(value[0].numpy())
        assert ((upper - lower) <= 1e-10 * scale).all()
        assert (np.abs(value[0].numpy() - lower) <= 1e-6 * scale).all()

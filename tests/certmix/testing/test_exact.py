"""Exact evaluation and judgement of counterexamples."""

from __future__ import annotations

import math
from fractions import Fraction

import flint
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certmix.testing import exact, solvers
from certmix.testing.claims import ConstantClass
from certmix.testing.problem import Problem, constant_network, dual_exponent, exponent
from certmix.testing.protocol import certifier
from certmix.testing.strategies import Wishes, problems
from proofs_check import certificate as c
from verifiers.network.module import build

ANY = certifier(lambda robust, x, norm="Linf": [None] * len(x), "any", "robust")


@settings(max_examples=60, deadline=None, database=None)
@given(problems(ANY, Wishes()))
def test_exact_logits_agree_with_double_precision_on_every_layer_kind(problem: Problem) -> None:
    z = exact.logits(problem.robust, problem.inputs[0])
    floats = problem.robust64(problem.centers64[:1])[0].numpy()
    assert np.allclose([float(v) for v in z], floats, rtol=1e-9, atol=1e-9)


def test_exact_logits_see_what_floats_lose() -> None:
    weight = np.array([[1.0, 2.0**60, -(2.0**60)], [0, 0, 0]], np.float32)
    network = build([c.Input((3,)), c.Linear((0,), weight, np.zeros(2, np.float32))])
    assert exact.logits(network, np.ones(3, np.float32)) == [1, 0]
    assert np.float32(1) + np.float32(2.0**60) - np.float32(2.0**60) == 0


def test_an_irrational_batch_norm_is_refused_not_rounded() -> None:
    one = np.ones(1, np.float32)
    norm = c.BatchNorm((0,), one, one, one, one, 1.0)
    network = build(
        [c.Input((1, 1, 1)), norm, c.Flatten((1,)), c.Linear((2,), np.ones((2, 1), np.float32), np.ones(2, np.float32))]
    )
    with pytest.raises(exact.NotExactError):
        exact.logits(network, np.ones((1, 1, 1)))


@given(st.integers(-40, 40), st.integers(-40, 40), st.sampled_from([0.5, 0.75, 1.0, 0.25]))
def test_the_sign_of_a_two_class_mix_is_that_of_the_closed_form(a: int, b: int, alpha: float) -> None:
    g, h = [Fraction(a, 4), Fraction(0)], [Fraction(b, 4), Fraction(0)]
    value = (1 - alpha) * math.tanh(a / 8) + alpha * math.tanh(b / 8)
    if abs(value) > 1e-12:
        assert exact.mix_sign(g, h, alpha, 1.0, 0, 1) == (1 if value > 0 else -1)


def test_a_tie_is_zero_and_a_difference_of_2_to_the_minus_200_is_not() -> None:
    tie, close = [Fraction(1), Fraction(1)], [Fraction(1), Fraction(1) - Fraction(1, 2**200)]
    assert exact.mix_sign(tie, tie, 0.75, 1.0, 0, 1) == 0
    assert exact.mix_sign(tie, close, 0.75, 1.0, 0, 1) == 1
    assert exact.mix_sign(close, tie, 0.75, 1.0, 1, 0) == -1


def test_saturated_classifiers_are_compared_beyond_double_precision() -> None:
    g, h = [Fraction(-100), Fraction(100)], [Fraction(90), Fraction(0)]
    assert exact.mix_sign(g, h, 0.5, 1.0, 0, 1) == -1
    assert exact.mix_sign([-v for v in h], [Fraction(300), Fraction(0)], 0.5, 1.0, 0, 1) == 1


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1", "L3"])
def test_a_point_at_the_exact_distance_is_outside_and_a_nearer_one_inside(norm: str) -> None:
    center, point = np.array([1.0, 2.0]), np.array([1.5, 2.0])
    assert not exact.inside(center, point, 0.5, norm)
    assert exact.inside(center, point, math.nextafter(0.5, 1), norm)
    assert exact.inside(center, point, math.inf, norm)
    assert exact.distance(center, point, norm).contains(flint.arb(0.5))


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1", "L3"])
def test_the_closed_form_reaches_the_dual_norm_from_inside(norm: str) -> None:
    gradient = np.array([Fraction(3), Fraction(-4), Fraction(1, 2)], object)
    step = solvers._worst_step(gradient, Fraction(1, 4), norm)
    gain = float(sum(a * b for a, b in zip(gradient, step, strict=True)))
    best = 0.25 * float(np.linalg.norm([3, -4, 0.5], dual_exponent(exponent(norm))))
    assert gain == pytest.approx(best, rel=1e-12)
    assert exact.inside(np.zeros(3), step, 0.25 * (1 + 2.0**-50), norm)


def test_a_mixed_integer_program_finds_the_worst_corner_of_a_relu_network() -> None:
    first = c.Linear((0,), np.array([[1, 1], [1, -1]], np.float32), np.zeros(2, np.float32))
    last = c.Linear((2,), np.array([[0, 0], [1, 2]], np.float32), np.array([2.5, 0], np.float32))
    network = build([c.Input((2,)), first, c.Relu((1,)), last])
    problem = Problem(network, network, np.zeros((1, 2), np.float32), 1.0, 1.0, "Linf", 1.0, None, np.zeros((0, 2)))
    proposal = solvers.by_program(ConstantClass(problem, np.array([1.0])), 0)
    best = max(float(problem.robust64(torch.from_numpy(p)[None])[0] @ torch.tensor([-1.0, 1.0]).double())
               for _, p in proposal.points)  # fmt: skip
    assert best == pytest.approx(2 * 2 - 2.5, abs=1e-6)  # at (1, -1): relu(0) + 2 relu(2) - 2.5


def test_a_tie_at_the_input_refutes_every_positive_radius() -> None:
    network = constant_network((1,), np.zeros(2, np.float32))
    problem = Problem(network, network, np.zeros((1, 1), np.float32), 1.0, 1.0, "L2", 1.0, None, np.zeros((0, 1)))
    claims = ConstantClass(problem, np.array([1e-9]))
    assert claims.refutation(0, problem.inputs[0]) is not None

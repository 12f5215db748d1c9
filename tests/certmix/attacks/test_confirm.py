"""Confirmation of counterexamples: enclosures hold, only strict losses inside the ball are confirmed."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from certmix.attacks import Confirmed, Float32Only, confirm
from certmix.attacks.arb_network import logits_in_arb
from certmix.attacks.confirm import contained
from certmix.attacks.running_error import logits_with_error
from proofs_check import certificate as c
from verifiers.network.module import PlainModule, build


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def network_of_every_node(rng: np.random.Generator) -> c.PlainNetwork:
    """A small network in which every type of node occurs."""
    return build(
        [
            c.Input((2, 5, 5)),
            c.Shift((0,), normal(rng, 2, 1, 1)),
            c.Divide((1,), normal(rng, 2, 1, 1) + np.float32(3)),
            c.Pad((2,), (0, 1, 0), (0, 0, 1), 0.7),
            c.Conv2d((3,), normal(rng, 4, 1, 3, 3), normal(rng, 4), (1, 1), (1, 1, 1, 1), (1, 1), 2),
            c.BatchNorm((4,), normal(rng, 4), normal(rng, 4), normal(rng, 4), normal(rng, 4) ** 2, 1e-5),
            c.Relu((5,)),
            c.MaxPool2d((6,), (2, 2), (1, 1), (1, 0, 0, 1)),
            c.LeakyRelu((5,), 0.3),
            c.Add((8, 6)),
            c.Sigmoid((9,)),
            c.Concat((7, 10)),
            c.AveragePool2d((11,), (3, 2), (2, 1), (1, 1, 1, 0), False),
            c.AveragePool2d((11,), (3, 2), (2, 1), (1, 1, 1, 0), True),
            c.Add((12, 13)),
            c.Slice((14,), (1, 0, 0), (8, 3, 6), (2, 1, 2)),
            c.Tanh((15,)),
            c.Scale((16,), normal(rng, 4, 1, 1)),
            c.Flatten((17,)),
            c.Linear((18,), normal(rng, 3, 36), normal(rng, 3)),
        ]
    )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_running_error_bound_encloses_the_real_logits_of_every_node_type(seed: int) -> None:
    rng = np.random.default_rng(seed)
    network = network_of_every_node(rng)
    point = normal(rng, 2, 5, 5)
    quick = logits_with_error(network, point)
    with torch.no_grad():
        module = PlainModule(network).double()(torch.from_numpy(point).double()[None])[0]
    for value, error, exact, independent in zip(
        quick.value, quick.error, logits_in_arb(network, point, 200), module.tolist(), strict=True
    ):
        assert abs(exact - arb(float(value))) <= arb(float(error))
        assert abs(float(exact.mid()) - independent) < 1e-9
        assert 0 < error < 1e-8


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(1, 8))
def test_both_evaluations_enclose_exact_rational_logits(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    scale = np.float32(10.0) ** rng.integers(-20, 20, size=(width, 3)).astype(np.float32)
    first, second = normal(rng, width, 3) * scale, normal(rng, 2, width)
    bias = normal(rng, width)
    network = build(
        [c.Input((3,)), c.Linear((0,), first, bias), c.Relu((1,)), c.Linear((2,), second, np.zeros(2, np.float32))]
    )
    point = normal(rng, 3)
    hidden = [
        max(Fraction(0), sum((Fraction(float(w)) * Fraction(float(v)) for w, v in zip(row, point, strict=True)),
                             Fraction(float(b))))
        for row, b in zip(first, bias, strict=True)
    ]  # fmt: skip
    truth = [sum(Fraction(float(w)) * v for w, v in zip(row, hidden, strict=True)) for row in second]
    quick = logits_with_error(network, point)
    for exact, value, error, ball in zip(
        truth, quick.value, quick.error, logits_in_arb(network, point, 300), strict=True
    ):
        assert abs(exact - Fraction(float(value))) <= Fraction(float(error))
        assert ball.overlaps(arb(exact.numerator) / arb(exact.denominator))
        assert ball.rad() <= abs(arb(float(error))) + arb(2.0**-200)


def linear(weight: list[list[float]], bias: list[float]) -> c.PlainNetwork:
    return build([c.Input((len(weight[0]),)), c.Linear((0,), np.array(weight, np.float32), np.array(bias, np.float32))])


H = linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
X = np.array([0.6, 0.4], np.float32)
OVER = np.array([0.4, 0.6], np.float32)


def check(candidate: np.ndarray, standard: object, robust: c.PlainNetwork, alpha: float, **other: object):
    arguments = {"x": X, "radius": 0.3, "norm": "Linf", "domain": (0.0, 1.0), "temperature": 1.0, "predicted": 0}
    return confirm(candidate, standard=standard, robust=robust, alpha=alpha, **{**arguments, **other})


def test_a_point_where_both_models_change_class_is_confirmed_with_a_true_lower_bound() -> None:
    verdict = check(OVER, H, H, 0.7)
    assert isinstance(verdict, Confirmed)
    assert verdict.rival == 1
    exact = np.tanh((float(OVER[1]) - float(OVER[0])) / 2)
    assert 0 < verdict.margin_down <= exact
    assert verdict.margin_down > exact - 1e-12


def test_a_tie_is_not_a_counterexample() -> None:
    assert isinstance(check(np.array([0.5, 0.5], np.float32), H, H, 0.7), Float32Only)


def test_a_point_that_keeps_the_class_is_not_confirmed() -> None:
    assert isinstance(check(X, H, H, 0.7), Float32Only)


def test_one_float_beyond_the_ball_is_not_confirmed() -> None:
    radius = float(X[0]) - float(OVER[0])
    assert isinstance(check(OVER, H, H, 0.7, radius=max(radius, float(OVER[1]) - float(X[1]))), Confirmed)
    too_small = np.nextafter(radius, 0)
    verdict = check(OVER, H, H, 0.7, radius=float(too_small))
    assert isinstance(verdict, Float32Only)
    assert "ball" in verdict.reason


def test_a_point_outside_the_domain_is_not_confirmed() -> None:
    assert isinstance(check(OVER, H, H, 0.7, domain=(0.0, float(np.nextafter(OVER[1], np.float32(0))))), Float32Only)


def test_a_lead_below_float64_resolution_is_decided_in_arb() -> None:
    # hidden sums cancel: 2^40 x - 2^40 x + 2^-20 x
    def tiny(sign: float) -> c.PlainNetwork:
        first = np.array([[2.0**40, 0], [0, 0], [2.0**-20, 0]], np.float32)
        second = np.array([[0, 0, 0], [2.0**15, 2.0**15, sign]], np.float32)
        return build(
            [
                c.Input((2,)),
                c.Linear((0,), first, np.array([0, 0, 0], np.float32)),
                c.Relu((1,)),
                c.Linear((2,), np.array([[1, 0, 0], [-1, 0, 0], [0, 0, 1]], np.float32), np.zeros(3, np.float32)),
                c.Linear((3,), second, np.zeros(2, np.float32)),
            ]
        )

    network = tiny(1.0)
    error = logits_with_error(network, X).error[1]
    assert error > 2.0**-21, "the float64 bound must be too wide for this test to mean anything"
    up = check(X, network, network, 0.7)
    assert isinstance(up, Confirmed)
    assert 0 < up.margin_down < 2.0**-21
    assert isinstance(check(X, tiny(-1.0), tiny(-1.0), 0.7), Float32Only)


class Opaque(nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] * 50, x[:, 1] * 50], 1) * self.sign


def test_an_opaque_standard_model_counts_as_what_it_gives_and_an_absent_one_as_anything() -> None:
    verdict = check(OVER, None, H, 0.7)
    assert isinstance(verdict, Float32Only)
    assert "standard" in verdict.reason
    assert isinstance(check(OVER, None, H, 0.7, temperature=50.0), Confirmed)
    assert isinstance(check(OVER, None, H, 1.0), Confirmed)
    given, as_network = Opaque(1.0), linear([[50.0, 0.0], [0.0, 50.0]], [0.0, 0.0])
    found, exact = check(OVER, given, H, 0.7), check(OVER, as_network, H, 0.7)
    assert isinstance(found, Confirmed)
    assert isinstance(exact, Confirmed)
    assert found.margin_down == pytest.approx(exact.margin_down)
    assert isinstance(check(OVER, Opaque(-1.0), H, 0.7), Float32Only)
    assert isinstance(check(OVER, Opaque(float("nan")), H, 0.7), Float32Only)


def test_alpha_zero_speaks_of_the_standard_model_alone() -> None:
    reversed_h = linear([[0.0, 1.0], [1.0, 0.0]], [0.0, 0.0])
    assert isinstance(check(OVER, H, reversed_h, 0.0), Confirmed)
    assert isinstance(check(OVER, reversed_h, H, 0.0), Float32Only)


def test_logits_beyond_float64_never_confirm_a_loss_of_the_winning_class() -> None:
    scales = [c.Scale((k,), np.array([3e38, 3e38], np.float32)) for k in range(2, 11)]
    huge = build([c.Input((2,)), c.Linear((0,), np.array([[-1, 0], [0, 1]], np.float32), np.zeros(2, np.float32)),
                  c.Relu((1,)), *scales])  # fmt: skip
    assert not np.isfinite(logits_with_error(huge, OVER).error).all()
    assert isinstance(check(OVER, huge, huge, 0.7, predicted=1), Float32Only)


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_containment_is_exact(norm: c.Norm) -> None:
    x = np.zeros(3, np.float32)
    offset = np.array([3.0, 4.0, 0.0], np.float32) * np.float32(2.0**-10)
    size = {"Linf": 4.0, "L2": 5.0, "L1": 7.0}[norm] * 2.0**-10
    assert contained(offset, x, size, norm, None)
    assert not contained(offset, x, float(np.nextafter(size, 0)), norm, None)
    assert not contained(np.full(3, np.nan, np.float32), x, 1.0, norm, None)

"""Every evaluator of plain networks knows every layer kind of the table, and agrees with the tests' exact values."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact_network import exact, exact_values
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_kinds import OPS, alone

from certmix.attacks.arb_network import logits_in_arb
from certmix.attacks.running_error import logits_with_error
from certmix.testing import exact as suite

RATIONAL = (  # kinds whose values are rational, and known to the suite; of the others they are known to 2^-200
    "linear", "conv2d", "shift", "scale", "divide", "relu", "leaky_relu", "square", "cube", "abs", "hard_swish",
    "max_pool2d", "average_pool2d", "pad", "slice", "concat", "add", "flatten", "gather", "product",
)  # fmt: skip


@pytest.mark.parametrize("op", OPS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=4, deadline=None)
def test_evaluators_enclose_the_exact_value_of_every_kind(op: str, seed: int):
    network, _ = alone(op, seed)
    point = np.random.default_rng(seed).normal(size=network.input_shape).astype(np.float32)
    values = [Fraction(int(v.p), int(v.q)) for v in exact_values(network, exact(point))[-1].ravel()]
    slack = 0 if op in RATIONAL else Fraction(1, 2**100)
    rounded = logits_with_error(network, point)
    for value, near, error in zip(values, rounded.value, rounded.error, strict=True):
        assert abs(value - Fraction(float(near))) <= Fraction(float(error)) + slack
    for value, ball in zip(values, logits_in_arb(network, point, 256), strict=True):
        assert abs(value - Fraction(float(ball.mid()))) <= Fraction(float(ball.rad())) + abs(value) / 2**50 + slack
    if op in RATIONAL:
        assert suite.logits(network, point) == values
    else:
        with pytest.raises(suite.NotExactError, match=r"is irrational|has no rational value"):
            suite.logits(network, point)

"""The float32 error of each kind of node alone: roundings, flushed subnormals, what is refused."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from exact_steps import layer
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel import bounds, float32, rounding
from verifiers.network.module import build

F32 = np.float32


Array = NDArray[np.float64]


# ---------------------------------------------------------------- float32


def worst_sum(n: int) -> tuple[c.PlainNetwork, c.Float32Array]:
    """A sum that sequential float32 addition gets wrong by n units: 1 + n times just under half an ulp."""
    weight = np.full((2, n + 1), 2.0**-24, dtype=F32)
    weight[:, 0] = 1
    return build([c.Input((n + 1,)), c.Linear((0,), weight, np.zeros(2, F32))]), np.ones(n + 1, dtype=F32)


@pytest.mark.parametrize("n", [1, 4, 63, 400])
def test_the_float32_error_covers_a_sum_rounded_down_at_every_step(n: int):
    net, x = worst_sum(n)
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(x, 0.0, "Linf", None), None)
    total = F32(0)
    for w in net.nodes[1].weight[0]:
        total = F32(total + w)
    assert total == 1
    assert float32.logit_error(values)[0] >= n * 2.0**-24


def test_float_error_is_the_classical_bound():
    for n in (0, 1, 5, 100, 2**20 - 1):
        unit = Fraction(1, 2**24)
        gamma = (n + 2) * unit / (1 - (n + 2) * unit)
        assert Fraction(rounding.float32_sum_error(n)) >= gamma / (1 - gamma)


def test_errors_of_a_layer_are_carried_on_through_the_next():
    """Both layers wrong by n units: the second multiplies the first one's error by its weights' sizes."""
    net, x = worst_sum(64)
    grown = c.Linear((1,), np.array([[3, -4], [0, 1]], dtype=F32), np.zeros(2, F32))
    deep = build([*net.nodes, grown])
    ball = bounds.Ball(x, 0.0, "Linf", None)
    first = float32.logit_error(bounds.value_bounds(bounds.prepare(net), ball, None))
    both = float32.logit_error(bounds.value_bounds(bounds.prepare(deep), ball, None))
    assert both[0] >= 3 * first[0] + 4 * first[1]
    assert both[1] >= first[1]


def error_of(x: list[float], *nodes: c.Node) -> Array:
    ball = bounds.Ball(np.array(x, dtype=F32), 0.0, "Linf", None)
    return float32.logit_error(bounds.value_bounds(bounds.prepare(build([c.Input((len(x),)), *nodes])), ball, None))


def vector(*values: float) -> c.Float32Array:
    return np.array(values, dtype=F32)


def test_a_subnormal_operand_or_result_may_count_as_zero():
    assert error_of([2.0**-127, 0], c.Scale((0,), vector(2.0**100, 1)))[0] >= 2.0**-27
    assert (error_of([2.0**-127, 0], c.Relu((0,))) >= 2.0**-126).all()


def test_a_subnormal_weight_may_count_as_zero_beside_a_large_input():
    assert error_of([2.0**100, 0], c.Scale((0,), vector(2.0**-127, 1)))[0] >= 2.0**-27


def test_a_bias_takes_part_in_the_rounding_of_its_sum():
    weight = np.array([[2.0**-20], [1]], dtype=F32)
    assert error_of([1.0], c.Linear((0,), weight, vector(1, -1)))[0] >= 2.0**-24
    assert error_of([1.0], c.Linear((0,), weight, vector(1, -1)))[1] >= 2.0**-24


def test_a_leaky_slope_and_its_product_are_rounded():
    error = error_of([-8.0, -8.0], c.LeakyRelu((0,), 0.3))
    exact = abs(Fraction(float(F32(0.3) * F32(-8))) - Fraction(0.3) * -8)
    assert all(Fraction(float(e)) >= exact + Fraction(8, 2**24) for e in error)
    carried = error_of([1.0, 1.0], c.Linear((0,), vector(3, 4, 5, 6).reshape(2, 2), vector(0, 0)))
    grown = error_of([1.0, 1.0], c.Linear((0,), vector(3, 4, 5, 6).reshape(2, 2), vector(0, 0)), c.LeakyRelu((1,), 0.3))
    assert (grown > carried).all()


def test_a_leaky_relu_rounds_what_its_input_is_off_too():
    """Slope 1: an input `error` off is rounded twice at the size it then has, and what underflows may be flushed."""
    mapping = layer(c.LeakyRelu((0,), 1.0), (1, 1, 1))
    for size, error in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0**-149, 0.0), (0.0, 0.0)):
        found = mapping.float32_error([np.full((1, 1, 1), size)], [np.full((1, 1, 1), error)]).item()
        rounded = 2 * Fraction(1, 2**24) * (Fraction(size) + Fraction(error))
        assert Fraction(found) >= Fraction(error) + rounded + Fraction(1, 2**126)


def test_pooling_carries_the_largest_error_of_its_window():
    nodes = (c.Scale((0,), np.array([1, 1000], dtype=F32).reshape(1, 2, 1)),
             c.MaxPool2d((1,), (2, 1), (1, 1), (0, 0, 0, 0)), c.Flatten((2,)))  # fmt: skip
    ball = bounds.Ball(np.ones((2, 2, 1), dtype=F32), 0.0, "Linf", None)
    errors = float32.logit_error(bounds.value_bounds(bounds.prepare(build([c.Input((2, 2, 1)), *nodes])), ball, None))
    assert (errors >= 1000 * 2.0**-24).all()


def test_one_value_out_of_range_among_many_is_refused():
    refused: list[c.Node] = [
        c.Scale((0,), vector(1, 2.0**127)),
        c.Divide((0,), vector(1, 2.0**-127)),
    ]
    for node in refused:
        with pytest.raises(c.RejectedError, match="overflow"):
            error_of([4.0, 4.0], node)
    assert (error_of([4.0, 4.0], c.Divide((0,), vector(-3, -5))) < 1e-5).all()


@pytest.mark.parametrize("part", ["scale", "shift", "mean", "variance", "inverse"])
def test_batch_norm_parameters_out_of_range_are_refused(part: str):
    parts = {"scale": vector(-1, 1), "shift": vector(-1, 1), "mean": vector(-1, 1), "variance": vector(1, 1)}
    large = vector(2.0**-50 if part == "inverse" else 2.0**41 if part == "variance" else -(2.0**41), 1)
    wrong = {**parts, ("variance" if part == "inverse" else part): large}
    with pytest.raises(c.RejectedError, match="batch norm"):
        error_of([1.0, 1.0], c.BatchNorm((0,), **wrong, epsilon=2.0**-60))
    assert (error_of([1.0, 1.0], c.BatchNorm((0,), **parts, epsilon=2.0**-60)) < 1e-4).all()


def test_an_underflow_inside_batch_norm_is_magnified_by_every_later_factor():
    """(x - mean), / sqrt(variance), * scale in any order: the stretch is at least their product."""
    for scale, mean, variance in ((-(2.0**30), 0, 1), (1, -(2.0**30), 1), (1, 0, 2.0**-30), (4, 8, 2.0**-10)):
        node = c.BatchNorm((0,), vector(scale, 0), vector(0, 0), vector(mean, 0), vector(variance, 1), 2.0**-60)
        stretch = layer(node, (2, 1, 1)).stretch(1.0)
        assert stretch >= max(abs(scale), 1) * max(abs(mean) + 1, 1) * max(1 / variance, 1) * (1 - 2.0**-20)
    assert layer(c.Scale((0,), vector(1, 1)), (2, 1, 1)).stretch(1.0) == 1


# ---------------------------------------------------------------- float32, continued


def test_as_many_products_as_a_sum_has_may_be_flushed():
    """64 products of 2^-127, all computed as 0, are 2^-121 together."""
    weight = np.zeros((2, 64), dtype=F32)
    weight[0] = 2.0**-64
    assert error_of([2.0**-63] * 64, c.Linear((0,), weight, vector(0, 0)))[0] >= 2.0**-121


def test_a_reciprocal_out_of_range_is_refused_though_the_quotient_is_not():
    for constants in ((2.0**-127, 1), (1, -(2.0**-127))):
        with pytest.raises(c.RejectedError, match="reciprocal"):
            error_of([2.0**-100, 2.0**-100], c.Divide((0,), vector(*constants)))


def test_a_variance_of_zero_is_covered_by_epsilon():
    node = c.BatchNorm((0,), vector(1, 1), vector(0, 0), vector(0, 0), vector(0, 0), 2.0**-10)
    assert (error_of([1.0, 1.0], node) < 1e-3).all()


def test_small_batch_norm_factors_do_not_shrink_an_underflow():
    """A product taken last does not make the earlier underflow of another association smaller."""
    for scale, mean, variance, largest in ((2.0**-30, 1, 1, 1), (1, 0, 1, 2.0**-30), (1, 1, 2.0**30, 1)):
        node = c.BatchNorm((0,), vector(scale, 0), vector(0, 0), vector(mean, 0), vector(variance, variance), 2.0**-60)
        assert layer(node, (2, 1, 1)).stretch(largest) >= 1


def test_padded_pooling_has_the_error_of_its_real_cells():
    nodes = (c.Scale((0,), np.full((1, 1, 1), 3, dtype=F32)), c.MaxPool2d((1,), (2, 2), (1, 1), (1, 1, 0, 0)))
    net = build([c.Input((1, 2, 2)), *nodes, c.Flatten((2,))])
    ball = bounds.Ball(np.ones((1, 2, 2), dtype=F32), 0.0, "Linf", None)
    found = float32.logit_error(bounds.value_bounds(bounds.prepare(net), ball, None))
    assert ((found >= 2.0**-23) & (found < 1e-5)).all()

"""The bound of the float32 evaluation error against actual float32 evaluations, compared in exact arithmetic."""

from __future__ import annotations

import itertools

import exact_network as en
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel import bounds, float32, rounding
from verifiers.network.module import PlainModule, build

F32 = np.float32
Rng = np.random.Generator
KINDS = ("linear", "conv", "norm", "shift", "scale", "divide", "relu", "leaky", "max", "average", "pad", "slice",
         "concat", "add", "residual")  # fmt: skip


def float32_points(rng: Rng, ball: bounds.Ball, count: int) -> list[c.Float32Array]:
    """float32 arrays that lie exactly in the ball."""
    center, found = ball.center.astype(np.float64), [ball.center]
    for _ in range(count):
        step = rng.uniform(-1, 1, center.shape) if rng.integers(2) else np.sign(rng.normal(size=center.shape))
        order = {"Linf": np.inf, "L2": 2, "L1": 1}[ball.norm]
        length = np.linalg.norm(step.ravel(), ord=order)
        point = center + ball.radius * 0.999 * step / length
        if ball.domain is not None:
            point = np.clip(point, *ball.domain)
        found.append(point.astype(F32))
    return [p for p in found if lies_in(p, ball)]


def lies_in(point: c.Float32Array, ball: bounds.Ball) -> bool:
    gap = en.exact(point) - en.exact(ball.center)
    radius = en.rational(ball.radius)
    inside = {"Linf": abs(gap).max() <= radius, "L1": abs(gap).sum() <= radius, "L2": (gap * gap).sum() <= radius**2}
    return bool(inside[ball.norm])


def shuffled_sum(rng: Rng, terms: NDArray[np.float32]) -> np.float32:
    """float32 sum in a random order and a random association."""
    pool = list(rng.permutation(terms))
    while len(pool) > 1:
        i = int(rng.integers(len(pool) - 1))
        pool[i : i + 2] = [F32(pool[i] + pool[i + 1])]
    return pool[0]


def shuffled_values(rng: Rng, network: c.PlainNetwork, x: c.Float32Array) -> NDArray[np.float32]:
    """float32 logits of a network of linear and ReLU nodes, sums shuffled."""
    value = x
    for node in network.nodes[1:]:
        if isinstance(node, c.Linear):
            sums = [shuffled_sum(rng, np.append(row * value, b)) for row, b in zip(node.weight, node.bias, strict=True)]
            value = np.array(sums, dtype=F32)
        else:
            value = np.maximum(value, F32(0))
    return value


def beyond(computed: NDArray[np.float32], true: en.Exact, error: NDArray[np.float64]) -> bool:
    gap = abs(en.exact(computed) - true)
    return any(g > en.rational(e) for g, e in zip(gap, error, strict=True))


@pytest.mark.parametrize("seed", range(60))
def test_torch_in_float32_stays_inside_the_bound(seed: int):
    rng = np.random.default_rng(seed)
    network = en.random_network(rng, int(rng.integers(1, 9)), KINDS)
    ball = en.random_ball(rng, network.input_shape)
    error = float32.logit_error(bounds.value_bounds(bounds.prepare(network), ball, None))
    module = PlainModule(network)
    for point in float32_points(rng, ball, 6):
        computed = module(torch.tensor(point)[None])[0].numpy()
        assert not beyond(computed, en.exact_values(network, en.exact(point))[-1], error)


def multilayer(rng: Rng, widths: list[int]) -> c.PlainNetwork:
    nodes: list[c.Node] = [c.Input((widths[0],))]
    for k, (n, m) in enumerate(itertools.pairwise(widths)):
        nodes.append(c.Linear((len(nodes) - 1,), rng.normal(size=(m, n)).astype(F32), rng.normal(size=m).astype(F32)))
        if k < len(widths) - 2:
            nodes.append(c.Relu((len(nodes) - 1,)))
    return build(nodes)


@pytest.mark.parametrize("seed", range(15))
def test_every_order_of_summation_stays_inside_the_bound(seed: int):
    rng = np.random.default_rng(seed)
    network = multilayer(rng, [12, 9, 8, 3])
    ball = bounds.Ball(rng.uniform(size=12).astype(F32), 0.05, "Linf", None)
    error = float32.logit_error(bounds.value_bounds(bounds.prepare(network), ball, None))
    largest = np.zeros(3)
    for point in float32_points(rng, ball, 3):
        true = en.exact_values(network, en.exact(point))[-1]
        for _ in range(4):
            computed = shuffled_values(rng, network, point)
            assert not beyond(computed, true, error)
            largest = np.maximum(largest, [abs(float(g)) for g in en.exact(computed) - true])
    assert (error > 0).all()
    assert (error < 1e-3).all(), "useless"


def test_a_sum_that_cancels_in_float32_is_covered():
    big = F32(2.0**24)
    first = c.Linear((0,), np.array([[big], [1], [big]], dtype=F32), np.zeros(3, dtype=F32))
    last = c.Linear((1,), np.array([[1, 1, -1], [0, 0, 0]], dtype=F32), np.zeros(2, dtype=F32))
    network = build([c.Input((1,)), first, last])
    x = np.array([1.0], dtype=F32)
    error = float32.logit_error(bounds.value_bounds(bounds.prepare(network), bounds.Ball(x, 0.0, "Linf", None), None))
    assert F32(F32(big + F32(1)) - big) == 0
    assert error[0] >= 1
    assert error[1] < 2.0**-90, "a sum of nothing"


def test_subnormal_products_are_covered():
    tiny = F32(2.0**-80)
    first = c.Linear((0,), np.array([[tiny], [tiny]], dtype=F32), np.zeros(2, dtype=F32))
    grown = c.Scale((1,), np.array([2.0**100, 1], dtype=F32))
    network = build([c.Input((1,)), first, grown])
    x = np.array([2.0**-75], dtype=F32)
    error = float32.logit_error(bounds.value_bounds(bounds.prepare(network), bounds.Ball(x, 0.0, "Linf", None), None))
    assert error[0] >= 2.0**-55, "float32 computes 0 where the real value is 2^-55"


def test_what_float32_cannot_hold_or_nobody_specifies_is_refused():
    two = np.ones(2, dtype=F32)
    cases = [
        [c.Input((2,)), c.Scale((0,), two * F32(2.0**127))],
        [c.Input((2,)), c.Divide((0,), two * F32(2.0**-127)), c.Scale((1,), two * F32(2.0**-20))],
        [c.Input((2,)), c.BatchNorm((0,), two, two, two, two * F32(0), 1e-30)],
        [c.Input((2,)), c.Sigmoid((0,))],
        [c.Input((2,)), c.Tanh((0,))],
    ]
    for nodes in cases:
        found = bounds.value_bounds(bounds.prepare(build(nodes)), bounds.Ball(two, 0.1, "Linf", None), None)
        with pytest.raises(c.RejectedError, match="float32"):
            float32.logit_error(found)
    pool = c.AveragePool2d((0,), (2, 1), (1, 1), (0, 0, 0, 0), True)
    nodes = [c.Input((2, 2, 1)), pool, c.Flatten((1,))]
    ball = bounds.Ball(np.full((2, 2, 1), 2.0**125, dtype=F32), 0.0, "Linf", None)
    with pytest.raises(c.RejectedError, match="sum"):
        float32.logit_error(bounds.value_bounds(bounds.prepare(build(nodes)), ball, None))
    with pytest.raises(c.RejectedError, match="terms"):
        rounding.float32_sum_error(2**20)


def test_rearrangements_and_comparisons_cost_at_most_a_flushed_subnormal():
    nodes = [c.Input((1, 4, 4)), c.MaxPool2d((0,), (2, 2), (2, 2), (0, 0, 0, 0)), c.Relu((1,)), c.Flatten((2,)),
             c.Concat((3, 3)), c.Slice((4,), (0,), (6,), (1,))]  # fmt: skip
    ball = bounds.Ball(np.ones((1, 4, 4), dtype=F32), 0.1, "Linf", None)
    assert (float32.logit_error(bounds.value_bounds(bounds.prepare(build(nodes)), ball, None)) <= 2.0**-120).all()

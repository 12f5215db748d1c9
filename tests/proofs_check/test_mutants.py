"""The documented Ensures of every step of the judge, each alone, in exact arithmetic.

An error term is so small that others hide its absence in a whole bound. Here each step is asked by itself, where
floats round the wrong way: sums that cancel, ends that meet, points instead of balls.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Callable, Iterator
from fractions import Fraction

import exact_network as en
import numpy as np
import pytest
import torch
from flint import arb, ctx, fmpq
from numpy.typing import NDArray
from small_networks import NORMS

from proofs_check import certificate as c
from proofs_check.kernel import bounds, float32, jacobian, rounding
from proofs_check.kernel import layers as network
from proofs_check.kernel import relaxations as rx
from verifiers.network.module import PlainModule, build

F32 = np.float32
Rng = np.random.Generator
Array = NDArray[np.float64]


def at_most(exact: en.Exact, bound: Array) -> bool:
    return all(v <= en.rational(b) for v, b in zip(np.ravel(exact), np.ravel(bound), strict=True))


def at_least(exact: en.Exact, bound: Array) -> bool:
    return all(v >= en.rational(b) for v, b in zip(np.ravel(exact), np.ravel(bound), strict=True))


# ---------------------------------------------------------------- affine nodes


def cancelling(rng: Rng, *shape: int) -> c.Float32Array:
    """float32 weights whose sum along the last axis nearly cancels."""
    value = (rng.normal(size=shape) * 2.0 ** rng.integers(0, 12, size=shape)).astype(F32)
    half = shape[-1] // 2
    value[..., half : 2 * half] = -value[..., :half] * F32(1 + 2.0**-20)
    return value


def image_net(*nodes: c.Node) -> c.PlainNetwork:
    """Nodes on a (2, 4, 4) image, then flattened to logits."""
    return build([c.Input((2, 4, 4)), *nodes, c.Flatten((len(nodes),))])


def affine_nets(rng: Rng) -> Iterator[c.PlainNetwork]:
    """One affine node of each kind (and of each way to write it) on inputs that make it cancel."""
    zero, two = (0, 0, 0, 0), np.array([0.3, 0.7], dtype=F32)
    bias = rng.normal(size=3).astype(F32)
    yield build([c.Input((8,)), c.Linear((0,), cancelling(rng, 3, 8), bias)])
    yield image_net(c.Conv2d((0,), cancelling(rng, 3, 2, 2, 4), bias, (1, 1), (1, 0, 0, 2), (2, 1), 1))
    yield image_net(c.Conv2d((0,), cancelling(rng, 4, 1, 3, 2), bias[[0, 1, 2, 0]], (2, 1), zero, (1, 1), 2))
    yield image_net(c.AveragePool2d((0,), (3, 2), (1, 2), (1, 0, 1, 1), bool(rng.integers(2))))
    variance, mean = rng.uniform(1e-3, 1, 2).astype(F32), rng.normal(size=2).astype(F32)
    yield image_net(c.BatchNorm((0,), two * F32(3), (mean * F32(300)).astype(F32), mean * F32(100), variance, 1e-5))
    yield image_net(c.Shift((0,), -rng.uniform(0.2, 0.9, (2, 4, 4)).astype(F32)))
    yield image_net(c.Scale((0,), cancelling(rng, 2, 1, 1)))
    yield image_net(c.Divide((0,), cancelling(rng, 2, 4, 4)))
    yield image_net(c.Pad((0,), (1, 0, 1), (0, 1, 0), 0.7))
    yield image_net(c.Slice((0,), (0, 1, 0), (2, 4, 3), (1, 2, 1)))
    shifted = c.Shift((0,), -rng.uniform(0.2, 0.9, (1, 1, 1)).astype(F32))
    yield image_net(shifted, c.Add((0, 1)))
    yield image_net(shifted, c.Concat((0, 1)))


def small_ball(rng: Rng, shape: tuple[int, ...], radius: float, norm: c.Norm = "Linf") -> bounds.Ball:
    sign = rng.choice([-1, 1])
    return bounds.Ball((sign * rng.uniform(0.1, 1, shape)).astype(F32), radius, norm, None)


@pytest.mark.parametrize("seed", range(12))
def test_interval_bounds_of_an_affine_node_hold_at_the_corners_that_attain_them(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        ball = small_ball(rng, net.input_shape, float(rng.choice([0.0, 2.0**-24, 0.1])))
        found = en.boxes(bounds.value_bounds(bounds.prepare(net), ball, None))
        size = 2 * math.prod(net.input_shape)
        directions = [rng.normal(size=net.input_shape) for _ in range(3)]
        for point in en.points(rng, ball, directions)[: size if ball.radius else 1]:
            for k, value in enumerate(en.exact_values(net, point)):
                assert at_least(value, found[k][0]), net.nodes[k]
                assert at_most(value, found[k][1]), net.nodes[k]


def exact_forms(rows: network.Rows, value: en.Exact) -> list[fmpq]:
    """Each row's linear form of an image (C, H, W), exactly."""
    image = np.moveaxis(value, 0, -1)
    height, width = image.shape[:2]
    totals: list[fmpq] = []
    for r, cells in enumerate(rows.values):
        top, left = (0, 0) if rows.corner is None else rows.corner[r].tolist()
        total = fmpq(0)
        for i, j, k in zip(*np.nonzero(cells), strict=True):
            if 0 <= top + i < height and 0 <= left + j < width:
                total += en.rational(cells[i, j, k]) * image[top + i, left + j, k]
        totals.append(total)
    return totals


def windows(rng: Rng, shape: tuple[int, ...], count: int) -> network.Rows:
    """Rows on whole images, or on windows of random size and corner inside the image."""
    if rng.integers(2) or shape[1:] == (1, 1):
        return network.Rows(en.wild(rng, count, *shape[1:], shape[0]), None)
    h, w = (int(rng.integers(1, n + 1)) for n in shape[1:])
    corner = np.stack([rng.integers(0, n - m + 1, count) for n, m in zip(shape[1:], (h, w), strict=True)], axis=1)
    return network.Rows(en.wild(rng, count, h, w, shape[0]), corner)


def exact_images(values: list[en.Exact], prepared: bounds.Prepared) -> list[en.Exact]:
    return [v.reshape(s) for v, s in zip(values, prepared.shapes, strict=True)]


def holds(values: bounds.Values, k: int, rows: network.Rows, images: list[en.Exact], slack: fmpq) -> None:
    """rows . v_k <= sum of the parts . inputs + cost at a point, with `slack` to spare."""
    parts, cost = bounds._step(values, k, network.Rows(rows.values.copy(), rows.corner), None)
    before = exact_forms(rows, images[k])
    inputs = bounds.inputs_of(values.prepared.network.nodes[k])
    for r, form in enumerate(before):
        total = sum((exact_forms(p, images[i])[r] for p, i in zip(parts, inputs, strict=True)), en.rational(cost[r]))
        assert form + slack <= total, values.prepared.network.nodes[k]


@pytest.mark.parametrize("seed", range(8))
def test_one_backward_step_through_an_affine_node_loses_nothing(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        ball = small_ball(rng, net.input_shape, 0.0)
        prepared = bounds.prepare(net)
        values = bounds.value_bounds(prepared, ball, None)
        images = exact_images(en.exact_values(net, en.exact(ball.center)), prepared)
        for k in range(1, len(net.nodes)):
            holds(values, k, windows(rng, prepared.shapes[k], 3), images, fmpq(0))


@pytest.mark.parametrize("seed", range(6))
def test_a_charge_covers_the_adjoint_and_the_bias_of_its_channel(seed: int):
    """charge >= G(terms) size + G(cells) |bias| in every cell, in exact arithmetic (Values)."""
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        prepared = bounds.prepare(net)
        values = bounds.value_bounds(prepared, small_ball(rng, net.input_shape, 0.01), None)
        for k, mapping in enumerate(prepared.maps):
            if mapping is None:
                continue
            inputs = bounds.inputs_of(net.nodes[k])
            size = mapping.apply(*(values.magnitude(i) for i in inputs), absolute=True) + mapping.bias_size
            bias = np.broadcast_to(np.abs(mapping.bias), size.shape)
            cells = en.rational((size.size + 8) * 2.0**-52)
            weights = en.rational((mapping.terms + 8) * 2.0**-52) if mapping.terms else fmpq(0)
            charge = values.charges[k]
            paid = np.zeros(size.shape) if charge is None else np.broadcast_to(charge, size.shape)
            assert at_most(cells * en.exact(bias) + weights * en.exact(size), paid), net.nodes[k]


@pytest.mark.parametrize("seed", range(6))
def test_terms_count_every_product_of_a_sum(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        prepared = bounds.prepare(net)
        for k, mapping in enumerate(prepared.maps):
            if mapping is None or mapping.terms == 0:
                continue
            shapes = [prepared.shapes[i] for i in bounds.inputs_of(net.nodes[k])]
            basis = np.eye(math.prod(shapes[0])).reshape(-1, *shapes[0])
            matrix = np.array([mapping.apply(b, absolute=True).ravel() for b in basis])
            products = max((matrix != 0).sum(axis=0).max(), (matrix != 0).sum(axis=1).max())
            exact = isinstance(net.nodes[k], (c.Linear, c.Conv2d, c.Scale))  # the weights are; plus one for the bias
            assert mapping.terms >= products + (1 if exact else 2)


def test_batch_norm_and_division_know_how_far_their_gains_are_off():
    rng = np.random.default_rng(0)
    for _ in range(40):
        parts = [rng.normal(size=2).astype(F32) for _ in range(3)]
        node = c.BatchNorm((0,), *parts, rng.uniform(0, 2, 2).astype(F32), 1e-5)
        mapping = network.affine_map(node, [(2, 1, 1)])
        assert isinstance(mapping, network.Diagonal)
        true = en.exact(node.scale) / en.each(en.root, en.exact(node.variance) + en.rational(1e-5))
        off = abs(en.exact(mapping.gain.ravel()) - true) / abs(true)
        assert all(v <= (mapping.terms - 2) * en.rational(2.0**-53) for v in off)
        moved = en.exact(node.mean) * en.exact(mapping.gain.ravel())
        assert all(abs(s) + abs(m) <= en.rational(b) * (1 + en.rational(2.0**-50)) for s, m, b in
                   zip(en.exact(node.shift), moved, mapping.bias_size.ravel(), strict=True))  # fmt: skip
    constant = np.array([3, 7], dtype=F32)
    assert network.affine_map(c.Divide((0,), constant), [(2, 1, 1)]).terms >= 3
    assert network.affine_map(c.Scale((0,), constant), [(2, 1, 1)]).terms >= 2


def test_gains_beyond_the_range_are_refused():
    node = c.BatchNorm((0,), *[np.ones(2, dtype=F32) * F32(2.0**60)] * 3, np.zeros(2, dtype=F32), 2.0**-400)
    with pytest.raises(c.RejectedError, match=r"2\^200"):
        network.affine_map(node, [(2, 1, 1)])


# ---------------------------------------------------------------- lines


def line_errors(lines: rx.Lines, y: en.Exact, f: en.Exact) -> Iterator[bool]:
    """Whether the lines enclose f at y; arrays (C, 1, 1)."""
    k, t, w, s = (en.exact(np.broadcast_to(v, y.shape)) for v in
                  (lines.upper_slope, lines.upper_intercept, lines.lower_slope, lines.lower_intercept))  # fmt: skip
    yield from (bool(a <= b) for a, b in zip((w * y + s).ravel(), f.ravel(), strict=True))
    yield from (bool(a <= b) for a, b in zip(f.ravel(), (k * y + t).ravel(), strict=True))


def intervals(rng: Rng, count: int) -> tuple[Array, Array]:
    """(count, 1, 1): ends of every sign, some that meet, some zero."""
    ends = np.sort(en.wild(rng, 2, count), axis=0)
    kind = rng.integers(8, size=count)
    ends[0] = np.where(kind == 0, ends[1], ends[0])
    ends[0] = np.where(kind == 1, -abs(ends[1]) * (1 + 2.0**-50), ends[0])
    ends = np.sort(np.where(kind == 2, np.stack([np.zeros(count), abs(ends[1])]), ends), axis=0)
    ends = np.sort(np.where(kind == 3, np.stack([np.zeros(count), -abs(ends[1])]), ends), axis=0)
    return ends[0][:, None, None], ends[1][:, None, None]


def leaky(slope: float) -> Callable[[fmpq], fmpq]:
    return lambda y: max(y, en.rational(slope) * y)


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 0.7, 1.0])
def test_relu_lines_enclose_the_kink_and_both_ends(slope: float):
    rng = np.random.default_rng(int(100 * slope))
    lower, upper = intervals(rng, 400)
    for hint in (None, rng.uniform(-0.5, 1.5, lower.shape)):
        lines = rx.relu_lines(lower, upper, slope, hint)
        for y in (lower, upper, np.clip(0.0, lower, upper)):
            assert all(line_errors(lines, en.exact(y), en.each(leaky(slope), en.exact(y))))
        unstable = (lower < 0) & (upper > 0)
        chosen = np.where(upper > -lower, 1.0, slope) if hint is None else np.clip(hint, slope, 1.0)
        assert (lines.lower_slope == np.where(unstable, chosen, np.where(lower >= 0, 1.0, slope))).all()
        assert (lines.upper_intercept[~unstable] == 0).all(), "stable cells are exact"


def test_a_stable_relu_costs_nothing_even_at_zero():
    lower, upper = np.array([0.0, -1.0, 0.0])[:, None, None], np.array([1.0, 0.0, 0.0])[:, None, None]
    lines = rx.relu_lines(lower, upper, 0.1, None)
    assert lines.upper_slope.ravel().tolist() == [1.0, 0.1, 1.0]
    assert lines.lower_slope.ravel().tolist() == [1.0, 0.1, 1.0]
    assert not lines.upper_intercept.any()


def test_charged_lines_move_by_the_whole_error_term():
    rng = np.random.default_rng(0)
    for _ in range(40):
        k, t, w, s, m = (en.wild(rng, 6, 1, 1) for _ in range(5))
        w, m = np.clip(w, -3, 3), np.abs(m)
        found = rx.Lines(k, t, w, s).charged(m, 30)
        error = en.rational((30 + 8) * 2.0**-52)
        top = en.exact(t) + error * (abs(en.exact(t)) + abs(en.exact(k)) * en.exact(m))
        steepest = en.exact(np.maximum(np.abs(w), 1.0))
        bottom = en.exact(s) - error * (abs(en.exact(s)) + steepest * en.exact(m))
        assert at_most(top, found.upper_intercept)
        assert at_least(bottom, found.lower_intercept)
        assert (found.upper_slope == k).all()
        assert (found.lower_slope == w).all()


CURVES = ((rx.SIGMOID, en.SIGMOID), (rx.TANH, en.TANH))


@pytest.mark.parametrize(("curve", "exact"), CURVES, ids=["sigmoid", "tanh"])
def test_curve_lines_enclose_the_curve_where_they_touch_it(curve: rx.Curve, exact: Callable[[fmpq], fmpq]):
    rng = np.random.default_rng(1)
    lower, upper = (np.clip(v, -20, 20) for v in intervals(rng, 60))
    lines = rx.curve_lines(lower, upper, curve)
    touch = rx._touching_point(lower, upper, curve), -rx._touching_point(-upper, -lower, curve)
    shares = [rng.uniform(size=lower.shape) for _ in range(3)]
    for y in (lower, upper, *(np.clip(v, lower, upper) for v in (0.0, *touch)),
              *(np.clip(lower + s * (upper - lower), lower, upper) for s in shares)):  # fmt: skip
        assert all(line_errors(lines, en.exact(y), en.each(exact, en.exact(y))))


@pytest.mark.parametrize(("curve", "exact"), CURVES, ids=["sigmoid", "tanh"])
def test_the_upper_intercept_is_right_for_any_slope_and_any_touching_point(
    curve: rx.Curve, exact: Callable[[fmpq], fmpq]
):
    rng = np.random.default_rng(2)
    lower, upper = (np.clip(v, -6, 6) for v in intervals(rng, 80))
    first = np.maximum(lower, 0)
    touch = np.clip(first + rng.uniform(size=lower.shape) * (upper - first), first, np.maximum(upper, 0))
    at_touch = rng.integers(3, size=lower.shape)  # the tangent's own slope, or near it, or anything
    k = np.select([at_touch == 0, at_touch == 1], [curve.near_slope(touch), curve.near_slope(touch) + 1e-3],
                  rng.uniform(-0.3, 1.3, lower.shape))  # fmt: skip
    t = en.exact(rx.upper_intercept(lower, upper, k, touch, curve))
    points = [lower, upper, np.clip(touch, lower, upper), np.clip(0.0, lower, upper)]
    points += [np.clip(lower + s * (upper - lower), lower, upper) for s in np.linspace(0, 1, 15)]
    for y in points:
        assert all((en.each(exact, en.exact(y)) <= en.exact(k) * en.exact(y) + t).ravel())


@pytest.mark.parametrize(("curve", "exact"), CURVES, ids=["sigmoid", "tanh"])
def test_curve_lines_are_about_as_good_as_can_be(curve: rx.Curve, exact: Callable[[fmpq], fmpq]):
    """The chord where the curve is convex, tangents where concave: on average well below what constants would cost."""
    lower, upper = (np.array(v)[:, None, None] for v in ([-3.0, 1.0, -2.0, -0.5, -1.0], [-1.0, 3.0, 2.0, 1.0, 0.3]))
    lines = rx.curve_lines(lower, upper, curve)
    y = lower + np.linspace(0, 1, 201) * (upper - lower)
    above = lines.upper_slope * y + lines.upper_intercept - curve.near(y)
    under = curve.near(y) - lines.lower_slope * y - lines.lower_intercept
    rise = curve.near(upper) - curve.near(lower)
    assert (above.mean(axis=-1, keepdims=True) <= 0.45 * rise).all()
    assert (under.mean(axis=-1, keepdims=True) <= 0.45 * rise).all()
    assert above[0, 0, -1] < 1e-12, "convex: the chord"
    assert under[1, 0, 0] < 1e-12, "concave: the chord from below"
    below = lines.upper_slope * lower + lines.upper_intercept - curve.near(lower)
    assert (below[[0, 2, 3, 4]] < 1e-6).all(), "the line passes the lower end"


@pytest.mark.parametrize("seed", range(6))
def test_pool_lines_and_their_selection_enclose_the_pooled_value(seed: int):
    rng = np.random.default_rng(seed)
    for node in (c.MaxPool2d((0,), (2, 2), (2, 2), (0, 0, 0, 0)), c.MaxPool2d((0,), (3, 2), (1, 1), (1, 1, 0, 0))):
        net = image_net(node)
        center = rng.uniform(size=(2, 4, 4)).astype(F32)
        center[0] += 10 * np.arange(16).reshape(4, 4).astype(F32)  # one cell dominates its window
        ball = bounds.Ball(center, float(rng.choice([0.0, 0.2, 6.0])), "Linf", None)
        prepared = bounds.prepare(net)
        values = bounds.value_bounds(prepared, ball, None)
        for point in en.points(rng, ball, [rng.normal(size=(2, 4, 4)) for _ in range(2)]):
            images = exact_images(en.exact_values(net, point), prepared)
            holds(values, 1, windows(rng, prepared.shapes[1], 3), images, fmpq(0))
            assert at_least(images[1], values.lower[1])
            assert at_most(images[1], values.upper[1])
    dominated = bounds.value_bounds(prepared, bounds.Ball(center, 0.2, "Linf", None), None).lines[1]
    assert dominated is not None
    assert (dominated.upper_slope[0] == 1).all(), "the dominating cell itself, no constant"
    assert (np.asarray(dominated.upper_intercept)[0] < 1e-9).all()


def test_cells_that_tie_dominate_their_window():
    lower = upper = np.ones((1, 2, 2))
    lines = rx.pool_lines(lower, upper, c.MaxPool2d((0,), (2, 2), (2, 2), (0, 0, 0, 0)))
    assert lines.upper_slope.item() == 1
    assert lines.upper_intercept.item() == 0


@pytest.mark.parametrize("node", [c.Relu((0,)), c.LeakyRelu((0,), 0.3), c.Sigmoid((0,)), c.Tanh((0,))],
                         ids=["relu", "leaky", "sigmoid", "tanh"])  # fmt: skip
def test_monotone_bounds_hold_at_the_ends(node: c.Node):
    rng = np.random.default_rng(0)
    lower, upper = (np.clip(v, -30, 30) for v in intervals(rng, 150))
    low, high = rx.monotone(node, lower, upper)
    function = {c.Sigmoid: en.SIGMOID, c.Tanh: en.TANH}.get(type(node)) or leaky(rx.relu_slope(node) or 0.0)
    assert at_least(en.each(function, en.exact(lower)), low)
    assert at_most(en.each(function, en.exact(upper)), high)
    near = np.array([float(v.p) / float(v.q) for v in en.each(function, en.exact(upper)).ravel()])
    assert np.allclose(high.ravel(), near, rtol=1e-12, atol=1e-100)


@pytest.mark.parametrize("node", [c.Relu((1,)), c.LeakyRelu((1,), 0.3), c.Sigmoid((1,)), c.Tanh((1,))],
                         ids=["relu", "leaky", "sigmoid", "tanh"])  # fmt: skip
def test_one_backward_step_through_a_nonlinear_node_loses_nothing(node: c.Node):
    rng = np.random.default_rng(0)
    for _ in range(10):
        first = c.Conv2d((0,), cancelling(rng, 2, 2, 1, 4), cancelling(rng, 2), (1, 1), (0, 1, 0, 2), (1, 1), 1)
        net = build([c.Input((2, 4, 4)), first, node, c.Flatten((2,))])
        ball = small_ball(rng, (2, 4, 4), float(rng.choice([0.0, 0.1])))
        prepared = bounds.prepare(net)
        values = bounds.value_bounds(prepared, ball, None)
        for point in en.points(rng, ball, [rng.normal(size=(2, 4, 4))]):
            images = exact_images(en.exact_values(net, point), prepared)
            holds(values, 2, windows(rng, prepared.shapes[2], 3), images, fmpq(0))


# ---------------------------------------------------------------- the ball and what a form reaches on it


def test_the_box_holds_the_ball_and_its_domain():
    rng = np.random.default_rng(0)
    center = en.wild(rng, 60).astype(F32)
    for radius in (0.1, 2.0**-30, 1e10):
        lower, upper = bounds.Ball(center, radius, "Linf", None).box()
        assert at_least(en.exact(center) - en.rational(radius), lower)
        assert at_most(en.exact(center) + en.rational(radius), upper)
    low, high = bounds.Ball(np.array([0.2, 0.9], dtype=F32), 0.5, "L2", (0.0, 1.0)).box()
    assert (low.ravel()[0], high.ravel()[1]) == (0.0, 1.0)
    point = bounds.Ball(np.array([0.5], dtype=F32), 0.0, "Linf", (0.5, 0.5)).box()
    assert [float(v.item()) for v in point] == [0.5, 0.5]


def reached(ball: bounds.Ball, rows: network.Rows, shape: tuple[int, ...]) -> tuple[Array, bounds.Values]:
    values = bounds.value_bounds(bounds.prepare(image_net()), ball, None)
    assert values.prepared.shapes[0] == shape
    return bounds._reach(values, 0, rows), values


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(8))
def test_a_form_never_reaches_beyond_its_bound(norm: c.Norm, seed: int):
    """The exact maximum over the ball: centre plus radius times the dual norm (l2: a point a hair inside)."""
    rng = np.random.default_rng(seed)
    for _ in range(10):
        rows = windows(rng, (2, 4, 4), 4)
        center = rng.uniform(0.1, 1, (2, 4, 4)).astype(F32)
        if rng.integers(2):  # the centre cancels: only the error term and the radius are left
            half = rows.values.shape[-1] // 2
            rows.values[..., half:] = -rows.values[..., :half]
            center[1] = center[0]
        ball = bounds.Ball(center, float(rng.choice([0.0, 2.0**-60, 0.3])), norm, None)
        found, _ = reached(ball, rows, (2, 4, 4))
        whole = network.widen(rows, (2, 4, 4)).values
        for row, bound in zip(whole, found, strict=True):
            direction = np.moveaxis(row, -1, 0)
            point = en.exact(center) + en.rational(ball.radius) * en._unit(norm, direction)
            assert (en.exact(direction) * point).sum() <= en.rational(bound)
            order = {"Linf": 1, "L2": 2, "L1": np.inf}[norm]
            best = (direction * center).sum() + ball.radius * np.linalg.norm(direction.ravel(), order)
            assert bound <= best + 1e-12 * np.abs(direction).sum() + 1e-100


def farthest(norm: c.Norm, form: Array, center: Array, radius: float) -> Array:
    """The point of the ball within [0, 1] where the form is largest, in floats: greedy in l1, by bisection in l2."""
    if norm == "L1":
        point, left = center.copy(), radius
        for at in np.argsort(-np.abs(form)):
            way = min(left, 1 - center[at] if form[at] > 0 else center[at])
            point[at] += np.sign(form[at]) * way
            left -= way
        return point
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        near = np.linalg.norm(np.clip(center + middle * form, 0, 1) - center) <= radius
        low, high = (middle, high) if near else (low, middle)
    return np.clip(center + low * form, 0, 1)


@pytest.mark.parametrize("norm", ["L2", "L1"])
@pytest.mark.parametrize("seed", range(6))
def test_a_ball_cut_by_its_domain_reaches_as_far_as_its_farthest_point(norm: c.Norm, seed: int):
    rng = np.random.default_rng(seed)
    for radius in (0.01, 0.3, 1.0, 4.0):
        center = rng.choice([0.0, 1.0, 0.25, 0.5], size=(2, 4, 4), p=[0.4, 0.2, 0.2, 0.2]).astype(F32)
        rows = network.Rows(rng.normal(size=(6, 4, 4, 2)), None)
        found, _ = reached(bounds.Ball(center, radius, norm, (0.0, 1.0)), rows, (2, 4, 4))
        alone, _ = reached(bounds.Ball(center, radius, norm, None), rows, (2, 4, 4))
        for row, bound, uncut in zip(rows.values, found, alone, strict=True):
            form = np.moveaxis(row, -1, 0).ravel()
            start = center.astype(float).ravel()
            point = en.exact(start + (farthest(norm, form, start, radius) - start) * (1 - 1e-13))
            step = point - en.exact(start)
            size = (step * step).sum() if norm == "L2" else sum(abs(v) for v in step)
            assert size <= en.rational(radius) ** (2 if norm == "L2" else 1)
            best = (en.exact(form) * point).sum()
            assert best <= en.rational(bound)
            slack = 1e-9 if norm == "L1" else 0.02  # in l2 the multiplier is found by a few steps of an iteration
            assert bound <= float(best.p) / float(best.q) + slack * radius * np.linalg.norm(form)
            assert bound <= uncut + 1e-12 * (1 + abs(uncut))


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_coordinates_at_the_end_of_the_domain_cost_nothing_outward(norm: c.Norm):
    """A form that points out of the domain everywhere has its maximum at the centre."""
    rows = network.Rows(np.full((1, 4, 4, 2), 3.0), None)
    found, _ = reached(bounds.Ball(np.ones((2, 4, 4), dtype=F32), 0.5, norm, (0.0, 1.0)), rows, (2, 4, 4))
    assert 96.0 <= found[0] <= 96.0 * (1 + 1e-12)


def test_a_centre_outside_its_domain_is_bounded_all_the_same():
    """The judge rejects such a claim; the bound itself must not rest on that."""
    rows = network.Rows(np.array([1.0, -1.0])[:, None, None, None] * np.ones((2, 4, 4, 2)), None)
    for norm in ("L2", "L1"):
        found, _ = reached(bounds.Ball(np.full((2, 4, 4), 1.125, F32), 6.0, norm, (0.0, 1.0)), rows, (2, 4, 4))
        assert found[0] >= 32 * 1.0
        assert found[1] >= -32.0


def test_the_length_of_a_tiny_form_does_not_underflow():
    rows = network.Rows(np.full((1, 4, 4, 2), 2.0**-540), None)
    found, _ = reached(bounds.Ball(np.zeros((2, 4, 4), dtype=F32), 2.0**60, "L2", None), rows, (2, 4, 4))
    assert found[0] >= 2.0**60 * 2.0**-540 * math.sqrt(32)


def test_the_reach_over_a_later_box_counts_rounding():
    rng = np.random.default_rng(0)
    for net in affine_nets(rng):
        ball = small_ball(rng, net.input_shape, 0.0)
        prepared = bounds.prepare(net)
        values = bounds.value_bounds(prepared, ball, None)
        for k, shape in enumerate(prepared.shapes):
            rows = windows(rng, shape, 3)
            found = bounds._reach(values, k, rows)
            ends = [en.exact(v) for v in (values.lower[k], values.upper[k])]
            middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
            wide = network.Rows(np.abs(rows.values), rows.corner)
            for form, spread, bound in zip(exact_forms(rows, middle), exact_forms(wide, half), found, strict=True):
                assert form + spread <= en.rational(bound)


def test_adding_rows_that_meet_counts_the_rounding():
    """A residual sum: rows arriving at a pending node are added, and what that rounds goes to the constant."""
    rng = np.random.default_rng(0)
    eye = c.Conv2d((0,), np.eye(2, dtype=F32)[:, :, None, None], np.zeros(2, F32), (1, 1), (0, 0, 0, 0), (1, 1), 1)
    net = image_net(eye, c.Scale((1,), np.full((1, 1, 1), -1, dtype=F32)), c.Add((2, 1)))
    prepared = bounds.prepare(net)
    ball = small_ball(rng, (2, 4, 4), 0.0)
    values = bounds.value_bounds(prepared, ball, None)
    images = exact_images(en.exact_values(net, en.exact(ball.center)), prepared)
    for _ in range(40):
        rows, other = windows(rng, (2, 4, 4), 3), windows(rng, (2, 4, 4), 3)
        before = [a + b for a, b in zip(exact_forms(rows, images[2]), exact_forms(other, images[1]), strict=True)]
        pending = {2: rows, 1: other}
        constant = bounds._replace(values, 2, pending, np.zeros(3), None)
        after = exact_forms(pending[1], images[1])
        for b, a, paid in zip(before, after, constant, strict=True):
            assert b <= a + en.rational(paid)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_whole_bounds_of_networks_that_cancel_hold_at_points_and_in_balls(norm: c.Norm, seed: int):
    rng = np.random.default_rng(seed)
    for first in affine_nets(rng):
        size = math.prod(first.shapes[-1])
        middle = len(first.nodes)
        last = c.Linear((middle,), cancelling(rng, 3, size), rng.normal(size=3).astype(F32))
        net = build([*first.nodes, c.LeakyRelu((middle - 1,), float(rng.choice([0.0, 0.3, 1.0]))), last])
        ball = small_ball(rng, net.input_shape, float(rng.choice([0.0, 0.1])), norm)
        lower, upper = bounds.difference_bounds(bounds.prepare(net), ball, 1, None)
        for point in en.points(rng, ball, [rng.normal(size=net.input_shape)]):
            logits = en.exact_values(net, point)[-1]
            assert at_least(logits - logits[1], lower)
            assert at_most(logits - logits[1], upper)


def test_functionals_take_float_coefficients_as_they_are():
    net = build([c.Input((2,)), c.Linear((0,), np.eye(2, dtype=F32), np.zeros(2, F32))])
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.ones(2, F32), 0.5, "Linf", None), None)
    assert bounds.functionals(values, np.array([[1.0, -1.0], [2.0, 3.0]]), None) == pytest.approx([1.0, 7.5])


def test_bounds_speak_of_no_more_classes_than_sums_of_them_are_exact():
    net = build([c.Input((1,)), c.Linear((0,), np.ones((4097, 1), dtype=F32), np.zeros(4097, F32))])
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.ones(1, F32), 0.5, "Linf", None), None)
    with pytest.raises(c.RejectedError, match="4096"):
        bounds.differences(values, 0)


def test_magnitudes_cover_both_ends():
    net = build([c.Input((3,)), c.Linear((0,), np.ones((2, 3), dtype=F32), np.zeros(2, F32))])
    center = np.array([-5, 0.5, 3], dtype=F32)
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(center, 1.0, "Linf", None), None)
    assert (values.magnitude(0).ravel() >= [6, 1.5, 4]).all()


@pytest.mark.parametrize("node", [c.Relu((0,)), c.LeakyRelu((0,), 0.3), c.Sigmoid((0,)), c.Tanh((0,))],
                         ids=["relu", "leaky", "sigmoid", "tanh"])  # fmt: skip
def test_every_cell_of_a_line_is_charged_for_its_own_size(node: c.Node):
    net = build([c.Input((1, 4, 4)), node, c.Flatten((1,))])
    center = (np.arange(16).reshape(1, 4, 4) - 8).astype(F32)
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(center, 0.5, "Linf", None), None)
    lower, upper, slope = values.lower[0], values.upper[0], rx.relu_slope(node)
    curve = rx.curve_of(node)
    if slope is not None:
        plain = rx.relu_lines(lower, upper, slope, None)
    else:
        assert curve is not None
        plain = rx.curve_lines(lower, upper, curve)
    charged, error = values.lines[1], en.rational((16 + 8) * 2.0**-52)
    assert charged is not None
    size = en.exact(np.maximum(np.abs(lower), np.abs(upper)))
    assert at_most(en.exact(plain.upper_intercept) + error * en.exact(np.abs(plain.upper_slope)) * size,
                   charged.upper_intercept)  # fmt: skip
    assert at_least(en.exact(np.broadcast_to(plain.lower_intercept, lower.shape)) - error * size,
                    charged.lower_intercept)  # fmt: skip


def test_rows_that_meet_on_cells_of_very_different_size_are_charged_for_the_largest():
    """Any order of rounding: half a unit of each summed coefficient times the cell's magnitude."""
    rng = np.random.default_rng(0)
    scale = c.Scale((0,), (2.0 ** np.arange(0, 64, 2).reshape(2, 4, 4)).astype(F32))
    net = image_net(scale, c.Scale((1,), np.full((1, 1, 1), -1, dtype=F32)), c.Add((2, 1)))
    values = bounds.value_bounds(bounds.prepare(net), small_ball(rng, (2, 4, 4), 0.0), None)
    rows, other = (network.Rows(rng.normal(size=(3, 4, 4, 2)), None) for _ in range(2))
    pending = {2: rows, 1: other}
    constant = bounds._replace(values, 2, pending, np.zeros(3), None)
    size = en.exact(np.moveaxis(values.magnitude(1), 0, -1))
    for cells, paid in zip(pending[1].values, constant, strict=True):
        assert (abs(en.exact(cells)) * size).sum() * en.rational(2.0**-53) <= en.rational(paid)


def long_form(center: float, radius: float, norm: c.Norm, domain: tuple[float, float] | None, row: Array) -> float:
    """The bound of one form on a vector, all of whose coordinates are `center`."""
    eye = np.zeros((2, len(row)), dtype=F32)
    net = build([c.Input((len(row),)), c.Linear((0,), eye, np.zeros(2, F32))])
    ball = bounds.Ball(np.full(len(row), center, F32), radius, norm, domain)
    values = bounds.value_bounds(bounds.prepare(net), ball, None)
    return float(bounds._reach_in_ball(values, network.Rows(row[None, None, None], None))[0])


def test_long_forms_in_a_ball_cover_every_order_of_summation():
    """400 terms: sqrt of a sum of squares may lose 201 half units, a sum of ways to the domain's end 400."""
    row = np.random.default_rng(0).uniform(1, 2, 400)
    length = np.sqrt(np.einsum("x,x->", row, row))
    assert long_form(0.0, 1.0, "L2", None, row) >= length * (1 + 201 * 2.0**-53)
    for norm in ("L2", "L1"):  # a ball far larger than the domain
        found = long_form(0.0, 1e6, norm, (0.0, 1.0), row)
        assert found >= row.sum() * (1 + 400 * 2.0**-53)
        assert found <= row.sum() * (1 + 1e-9)


def test_the_largest_coefficients_spend_an_l1_ball_first():
    """Centre 3/4 of a domain up to 1: a radius of 5/8 buys the two best coordinates whole, and half of the third."""
    row = np.array([3.0, 7.0, 1.0, 5.0])
    assert long_form(0.75, 0.625, "L1", (0.0, 1.0), row) == pytest.approx(0.75 * 16 + 0.25 * 7 + 0.25 * 5 + 0.125 * 3)


def test_forms_beyond_the_range_are_refused_even_where_they_come_to_nothing():
    net = build([c.Input((2,)), c.Linear((0,), np.zeros((2, 2), F32), np.zeros(2, F32))])
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.zeros(2, F32), 0.0, "Linf", None), None)
    with pytest.raises(c.RejectedError, match="exceeds"):
        bounds.functionals(values, np.array([[2.0**201, -(2.0**201)]]), None)


def test_a_witness_is_no_larger_than_the_limit(monkeypatch: pytest.MonkeyPatch):
    net = build([c.Input((3,)), c.Relu((0,)), c.Linear((1,), np.zeros((2, 3), F32), np.zeros(2, F32))])
    monkeypatch.setattr(bounds, "MAX_WITNESS", 9)
    assert bounds.witness(zlib.compress(bytes(9)), net).slopes.shape == (3, 3)
    monkeypatch.setattr(bounds, "MAX_WITNESS", 8)
    with pytest.raises(c.RejectedError, match="at most 8"):
        bounds.witness(zlib.compress(bytes(9)), net)


def test_the_length_of_a_form_covers_every_order_of_summation():
    """sqrt of a sum of 32 squares: 17 half units."""
    rng = np.random.default_rng(0)
    rows = network.Rows(rng.uniform(1, 2, (20, 4, 4, 2)), None)
    found, _ = reached(bounds.Ball(np.zeros((2, 4, 4), dtype=F32), 1.0, "L2", None), rows, (2, 4, 4))
    for cells, bound in zip(rows.values.reshape(20, -1), found, strict=True):
        length = np.sqrt(np.einsum("x,x->", cells, cells))
        assert en.rational(length) * (1 + 17 * en.rational(2.0**-53)) <= en.rational(bound)


@pytest.mark.parametrize("norm", NORMS)
def test_a_form_that_cancels_on_cells_of_different_size_is_charged_for_the_largest(norm: c.Norm):
    """Any order of summation may lose n half units of the sum of absolute values."""
    rng = np.random.default_rng(0)
    center = -(2.0 ** np.arange(0, 32).reshape(2, 4, 4)).astype(F32)
    rows = network.Rows(rng.normal(size=(5, 4, 4, 2)), None)
    rows.values[:, 0] = 0.0
    found, values = reached(bounds.Ball(center, 0.0, norm, None), rows, (2, 4, 4))
    for cells, bound in zip(rows.values, found, strict=True):
        image = np.moveaxis(center.astype(float), 0, -1)
        size = (abs(en.exact(cells)) * abs(en.exact(image))).sum()
        true = (en.exact(cells) * en.exact(image)).sum()
        assert true + 31 * en.rational(2.0**-53) * size <= en.rational(bound)
    assert len(values.lower) > 0


def test_what_is_no_number_stops_a_bound():
    net = build([c.Input((2,)), c.Linear((0,), np.eye(2, dtype=F32), np.zeros(2, F32))])
    prepared = bounds.prepare(net)
    for low, high in ((np.nan, 1.0), (0.0, np.nan), (-np.inf, 0.0), (0.0, np.inf)):
        values = bounds.Values(prepared, bounds.Ball(np.ones(2, F32), 0.5, "Linf", None), None)
        with pytest.raises(c.RejectedError, match=r"2\^200"):
            values.append(np.full((2, 1, 1), low), np.full((2, 1, 1), high), None, None)
    values = bounds.value_bounds(prepared, bounds.Ball(np.full(2, 2.0**100, F32), 0.5, "Linf", None), None)
    with pytest.raises(c.RejectedError, match=r"2\^200"):
        bounds.functionals(values, np.full((1, 2), 2.0**150), None)


def test_a_ball_that_misses_its_domain_in_one_coordinate_is_empty():
    with pytest.raises(c.RejectedError, match="domain"):
        bounds.Ball(np.array([0.5, 3.0], dtype=F32), 0.5, "Linf", (0.0, 1.0)).box()


# ---------------------------------------------------------------- rounding


def test_rounding_helpers_are_outward_by_at_least_two_units():
    for x in (1.0, 1.5, 2.0**-30, 2.0**100, 0.0):
        for value in (x, -x):
            array = np.array([value])
            step = Fraction(2) * Fraction(1, 2**53) * abs(Fraction(value)) + Fraction(2) ** -501
            assert Fraction(float(rounding.up(array)[0])) >= Fraction(value) + step
            assert Fraction(float(rounding.down(array)[0])) <= Fraction(value) - step


def test_arb_ends_are_strictly_outside():
    with ctx.workprec(300):
        for ball in (arb(1) / 3, arb(2).sqrt(), -arb(2).exp(), arb(0), arb(1, 2.0**-60)):
            assert arb(rounding.arb_up(ball)) > ball
            assert arb(rounding.arb_down(ball)) < ball
            assert rounding.arb_up(ball) - rounding.arb_down(ball) <= 2.0**-50 * 8


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
        assert Fraction(float32.float_error(n)) >= gamma / (1 - gamma)


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
        mapping = network.affine_map(node, [(2, 1, 1)])
        assert mapping is not None
        stretch = float32._stretch(node, mapping, 1.0)
        assert stretch >= max(abs(scale), 1) * max(abs(mean) + 1, 1) * max(1 / variance, 1) * (1 - 2.0**-20)
    assert float32._stretch(c.Scale((0,), vector(1, 1)), mapping, 1.0) == 1


# ---------------------------------------------------------------- the Jacobian


def test_slope_intervals_hold_every_slope():
    lower, upper = np.array([-1.0, 0.0, 0.5, -2.0, 0.0]), np.array([1.0, 1.0, 2.0, -1.0, 0.0])
    least, most = jacobian.slope_interval(c.LeakyRelu((0,), 0.1), lower, upper)
    assert least.tolist() == [0.1, 0.1, 1.0, 0.1, 0.1]
    assert most.tolist() == [1.0, 1.0, 1.0, 0.1, 1.0]
    for node, curve in ((c.Sigmoid((0,)), rx.SIGMOID), (c.Tanh((0,)), rx.TANH)):
        least, most = jacobian.slope_interval(node, lower, upper)
        for a, b, s, t in zip(lower, upper, least, most, strict=True):
            for share in np.linspace(0, 1, 11):
                slope = curve.exact_slope(arb(float(np.clip(a + share * (b - a), a, b))))
                assert s <= slope <= t
    with pytest.raises(c.RejectedError, match="slopes"):
        jacobian.slope_interval(c.MaxPool2d((0,), (1, 1), (1, 1), (0, 0, 0, 0)), lower, upper)


def test_scaled_intervals_hold_every_product():
    rng = np.random.default_rng(0)
    centre, radius = en.wild(rng, 1, 5, 5, 4), np.abs(en.wild(rng, 1, 5, 5, 4)) * rng.integers(0, 2, (1, 5, 5, 4))
    least = rng.uniform(0, 1, (5, 5, 4))
    most = least + rng.uniform(0, 1, (5, 5, 4)) * rng.integers(0, 2, (5, 5, 4))
    found = jacobian.scaled(jacobian.Interval(centre, radius), least, most)
    low, high = (en.exact(found.centre) + s * en.exact(found.radius) for s in (-1, 1))
    for end in (en.exact(centre) - en.exact(radius), en.exact(centre) + en.exact(radius)):
        for slope in (least, most):
            product = end * en.exact(slope)
            assert all((low <= product).ravel())
            assert all((product <= high).ravel())


@pytest.mark.parametrize("seed", range(6))
def test_an_affine_step_of_the_jacobian_holds_the_exact_product(seed: int):
    rng = np.random.default_rng(seed)
    for net in affine_nets(rng):
        prepared = bounds.prepare(net)
        k, mapping = 1, prepared.maps[1]
        assert mapping is not None
        if len(bounds.inputs_of(net.nodes[k])) > 1:
            continue
        (shape,) = (prepared.shapes[i] for i in bounds.inputs_of(net.nodes[k]))
        out = prepared.shapes[k]
        centre = en.wild(rng, 2, *out[1:], out[0])
        if out[0] > 1:
            centre[..., 1] = -centre[..., 0]
        radius = np.abs(en.wild(rng, *centre.shape)) * rng.integers(0, 2)
        (found,) = jacobian.affine_step(mapping, jacobian.Interval(centre, radius))
        rows = network.Rows(centre, None)
        point = rng.normal(size=shape)
        zero = en._apply(net.nodes[k], [en.exact(np.zeros(shape)).reshape(net.shapes[0])]).reshape(out)
        moved = en._apply(net.nodes[k], [en.exact(point).reshape(net.shapes[0])]).reshape(out) - zero
        size = exact_forms(network.Rows(found.radius, None), en.exact(np.abs(point)))
        for a, b, r in zip(exact_forms(rows, moved), exact_forms(network.Rows(found.centre, None), en.exact(point)),
                           size, strict=True):  # fmt: skip
            assert abs(a - b) <= r


@pytest.mark.parametrize("norm", NORMS)
def test_dual_norms_are_rounded_up(norm: c.Norm):
    rng = np.random.default_rng(0)
    rows = np.abs(en.wild(rng, 60, 5))
    for row, bound in zip(rows, jacobian.dual_norms_up(rows, norm), strict=True):
        v, b = en.exact(row), en.rational(bound)
        exact = {"Linf": v.sum() <= b, "L1": v.max() <= b, "L2": (v * v).sum() <= b * b}
        assert exact[norm]
        assert bound <= np.linalg.norm(row, {"Linf": 1, "L2": 2, "L1": np.inf}[norm]) * (1 + 1e-12)
    assert jacobian.dual_norms_up(np.full((1, 2), 2.0**-600), norm)[0] >= 2.0**-600


def test_sums_and_magnitudes_of_intervals_are_rounded_up():
    rng = np.random.default_rng(0)
    parts = [jacobian.Interval(en.wild(rng, 1, 5, 5, 4), np.abs(en.wild(rng, 1, 5, 5, 4))) for _ in range(2)]
    total = jacobian.sum_of(*parts, (4, 5, 5))
    centre, radius = (en.exact(getattr(parts[0], n)) + en.exact(getattr(parts[1], n)) for n in ("centre", "radius"))
    gap = abs(centre - en.exact(total.centre)) + radius
    assert at_most(gap, total.radius)
    assert at_most(abs(en.exact(total.centre)) + en.exact(total.radius), total.magnitude())
    both = np.sort(en.wild(rng, 2, 1, 5, 5, 4), axis=0)
    between = jacobian.Interval.between(both[0], both[1])
    assert at_least(en.exact(both[0]) - en.exact(between.centre) + en.exact(between.radius), np.zeros((1, 5, 5, 4)))
    assert at_most(en.exact(both[1]) - en.exact(between.centre) - en.exact(between.radius), np.zeros((1, 5, 5, 4)))


# ---------------------------------------------------------------- the witness and what interval arithmetic gets exactly


def test_a_witness_byte_is_a_slope_of_so_many_255ths():
    net = build([c.Input((2,)), c.Relu((0,)), c.Linear((1,), np.eye(2, dtype=F32), np.zeros(2, F32))])
    found = bounds.witness(zlib.compress(bytes([255, 51])), net)
    assert found.slopes.tolist() == [[1.0, 0.2]]


def test_a_relu_uses_its_own_part_of_each_row():
    """Two ReLU layers of one cell: the second one's slope stands second."""
    one, zero = np.ones((1, 1), dtype=F32), np.zeros(1, F32)
    last = c.Linear((4,), np.array([[-1], [0]], dtype=F32), np.zeros(2, F32))
    net = build([c.Input((1,)), c.Linear((0,), one, zero), c.Relu((1,)),
                 c.Linear((2,), one, np.array([-0.5], F32)), c.Relu((3,)), last])  # fmt: skip
    ball = bounds.Ball(np.zeros(1, F32), 1.0, "Linf", None)
    values = bounds.value_bounds(bounds.prepare(net), ball, bounds.Witness(np.array([[0.0, 1.0], [0.0, 1.0], [0, 0]])))
    assert [bounds._hint(values, k, 0).item() for k in (2, 4)] == [0.0, 1.0]  # type: ignore[union-attr]
    rows = network.Rows(np.full((2, 1, 1, 1), -1.0), None)
    lines = values.lines[4]
    assert lines is not None
    assert bounds._lower_slopes(values, 4, rows, lines, [1, 2]).ravel().tolist() == [1.0, 0.0]


def test_a_last_pass_takes_the_row_of_its_class():
    rng = np.random.default_rng(0)
    net = build([c.Input((3,)), c.Linear((0,), rng.normal(size=(4, 3)).astype(F32), np.zeros(4, F32)), c.Relu((1,)),
                 c.Linear((2,), rng.normal(size=(3, 4)).astype(F32), np.zeros(3, F32))])  # fmt: skip
    slopes = rng.uniform(size=(7, 4))
    ball = bounds.Ball(np.zeros(3, F32), 1.0, "L2", None)
    values = bounds.value_bounds(bounds.prepare(net), ball, bounds.Witness(slopes))
    lower, upper = bounds.differences(values, 1)
    eye = np.eye(3)
    for j in (0, 2):
        assert upper[j] == pytest.approx(bounds.functionals(values, (eye[j] - eye[1])[None], [1 + j])[0])
        assert lower[j] == pytest.approx(-bounds.functionals(values, (eye[1] - eye[j])[None], [0])[0])


def test_cells_of_unstable_and_other_nodes_are_refined_to_their_backward_bounds():
    """x - x through two layers: interval arithmetic sees twice the radius, a backward pass nothing."""
    first = c.Linear((0,), np.array([[1], [1]], dtype=F32), np.zeros(2, F32))
    second = c.Linear((1,), np.array([[1, -1], [1, 1]], dtype=F32), np.zeros(2, F32))
    for node in (c.Relu((2,)), c.Tanh((2,))):
        net = build([c.Input((1,)), first, second, node])
        values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.zeros(1, F32), 1.0, "Linf", None), None)
        low, high = en.boxes(values)[2]
        assert max(abs(low[0]), abs(high[0])) < 1e-9
        assert -2.0 - 1e-9 < low[1] <= -2.0
        assert 2.0 <= high[1] < 2.0 + 1e-9


def test_cells_that_travel_in_several_parts_are_all_refined(monkeypatch: pytest.MonkeyPatch):
    rng = np.random.default_rng(0)
    layers = [c.Linear((k,), rng.normal(size=(6, 6)).astype(F32), np.zeros(6, F32)) for k in (0, 1, 3)]
    net = build([c.Input((6,)), *layers[:2], c.Relu((2,)), layers[2], c.Tanh((4,))])
    ball = bounds.Ball(np.zeros(6, F32), 1.0, "Linf", None)
    together = en.boxes(bounds.value_bounds(bounds.prepare(net), ball, None))
    monkeypatch.setattr(bounds, "CHUNK", 24)  # two cells at a time
    parts = en.boxes(bounds.value_bounds(bounds.prepare(net), ball, None))
    for (low, high), (a, b) in zip(together, parts, strict=True):
        assert a == pytest.approx(low, rel=1e-9)
        assert b == pytest.approx(high, rel=1e-9)


def test_the_best_cut_on_the_way_counts():
    """Bounds over the box of the last ReLU's own interval can beat the pass to the input, and are taken."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes, nodes = (3, 5, 5, 2), [c.Input((3,))]
        for n, m in itertools.pairwise(sizes):
            nodes.append(c.Linear((len(nodes) - 1,), rng.normal(size=(m, n)).astype(F32), np.zeros(m, F32)))
            if m > 2:
                nodes.append(c.Relu((len(nodes) - 1,)))
        net = build(nodes)
        values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.zeros(3, F32), 3.0, "Linf", None), None)
        form = np.array([[1.0, -1.0]])
        found = bounds.functionals(values, form, None)[0]
        (relu_low, relu_high), (low, high) = en.boxes(values)[4:]
        weight = form @ net.nodes[5].weight.astype(float)
        over_relu = (np.maximum(weight, 0) @ relu_high + np.minimum(weight, 0) @ relu_low).item()
        over_logits = high[0] - low[1]
        assert found <= min(over_relu, over_logits) + 1e-9


@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_a_first_layer_is_bounded_by_the_dual_norm_of_its_rows(norm: c.Norm):
    """Interval arithmetic is exact over a box, and far too wide over an l2 or l1 ball."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 30)).astype(F32)
    net = build([c.Input((30,)), c.Linear((0,), weight, np.zeros(4, F32)), c.Relu((1,))])
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(np.zeros(30, F32), 1.0, norm, None), None)
    dual = np.linalg.norm(weight.astype(float), 2 if norm == "L2" else np.inf, axis=1)
    low, high = en.boxes(values)[1]
    assert high == pytest.approx(dual, rel=1e-9)
    assert low == pytest.approx(-dual, rel=1e-9)


def test_every_cell_of_a_pool_larger_than_its_input_is_charged():
    node = c.MaxPool2d((0,), (6, 6), (1, 1), (5, 5, 5, 5))
    net = build([c.Input((1, 1, 1)), node, c.Flatten((1,))])
    ball = bounds.Ball(np.full((1, 1, 1), 3, F32), 0.5, "Linf", None)
    lines = bounds.value_bounds(bounds.prepare(net), ball, None).lines[1]
    assert lines is not None
    assert (np.asarray(lines.upper_intercept) >= (36 + 8) * 2.0**-52 * 3.5).all()
    assert (np.asarray(lines.lower_intercept) <= -(36 + 8) * 2.0**-52 * 3.5).all()


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
        mapping = network.affine_map(node, [(2, 1, 1)])
        assert mapping is not None
        assert float32._stretch(node, mapping, largest) >= 1


def test_padded_pooling_has_the_error_of_its_real_cells():
    nodes = (c.Scale((0,), np.full((1, 1, 1), 3, dtype=F32)), c.MaxPool2d((1,), (2, 2), (1, 1), (1, 1, 0, 0)))
    net = build([c.Input((1, 2, 2)), *nodes, c.Flatten((2,))])
    ball = bounds.Ball(np.ones((1, 2, 2), dtype=F32), 0.0, "Linf", None)
    found = float32.logit_error(bounds.value_bounds(bounds.prepare(net), ball, None))
    assert ((found >= 2.0**-23) & (found < 1e-5)).all()


# ---------------------------------------------------------------- windows that reach beyond the image


@pytest.mark.parametrize("seed", range(6))
def test_settled_windows_are_zero_beyond_the_image(seed: int):
    """A later adjoint would spread what is left there into the image."""
    rng = np.random.default_rng(seed)
    shape = (2, 6, 7)
    for h, w in ((2, 2), (1, 3), (3, 1), (5, 6)):
        values = rng.normal(size=(40, h, w, 2))
        corner = np.stack([rng.integers(-h - 1, 8, 40), rng.integers(-w - 1, 9, 40)], axis=1)
        rows = network.settle(values.copy(), corner, False, shape)
        whole = network.widen(rows, shape).values
        for r in range(40):
            for i in range(h):
                for j in range(w):
                    y, x = corner[r] + (i, j)
                    inside = 0 <= y < 6 and 0 <= x < 7
                    if inside:
                        assert (whole[r, y, x] == values[r, i, j]).all()
                    elif rows.corner is not None:
                        assert not rows.values[r, i, j].any()
        rows_in, columns_in = (
            (corner[:, axis, None] + np.arange(size) >= 0) & (corner[:, axis, None] + np.arange(size) < length)
            for axis, size, length in ((0, h, 6), (1, w, 7))
        )
        kept = rows_in[:, :, None] & columns_in[:, None, :]
        assert np.abs(whole).sum() == pytest.approx(np.abs(values * kept[..., None]).sum())


@pytest.mark.parametrize("seed", range(6))
def test_two_convolutions_in_a_row_bound_what_windows_at_the_border_reach(seed: int):
    """Padding on all sides, then another convolution: rows pass the border twice. Exactly linear: a point."""
    rng = np.random.default_rng(seed)
    convs = [c.Conv2d((k,), en.weights(rng, 2, 2, 3, 3), en.weights(rng, 2), (1, 1), (2, 1, 1, 2), (1, 1), 1)
             for k in range(3)]  # fmt: skip
    net = build([c.Input((2, 7, 7)), *convs, c.Relu((3,)), c.Flatten((4,))])
    ball = small_ball(rng, (2, 7, 7), 0.3, "L2")
    prepared = bounds.prepare(net)
    values = bounds.value_bounds(prepared, ball, None)
    cells = np.array([(0, 0, 0), (8, 9, 1), (0, 9, 1), (4, 3, 0)])  # row, column, channel
    rows = network.unit_rows(prepared.shapes[3], np.concatenate([cells, cells]))
    rows.values[4:] *= -1
    found = bounds._descend(values, 3, rows, None, False)
    point = ball.center.astype(float)
    near = PlainModule(net).double().values(torch.tensor(point)[None])[3][0].detach().numpy()
    cells = np.array([near[0, 0, 0], near[1, 8, 9], near[1, 0, 9], near[0, 4, 3]])
    slack = 1e-9 * np.abs(near).max()
    gradient = (found[:4] + found[4:]) / 2  # centre plus and minus radius times the norm of the gradient
    assert (found[:4] - gradient) == pytest.approx(cells, abs=slack)
    assert (found[:4] >= cells).all()


# ---------------------------------------------------------------- the Jacobian, continued


@pytest.mark.parametrize("seed", range(6))
def test_a_pooling_step_holds_the_gradient_of_every_choice_of_cells(seed: int):
    """Within the bounds any cell may be the largest that reaches the largest lower end; rows go to the chosen ones."""
    rng = np.random.default_rng(seed)
    for node in (c.MaxPool2d((0,), (2, 2), (1, 1), (0, 0, 0, 0)), c.MaxPool2d((0,), (3, 2), (2, 1), (1, 1, 0, 0))):
        shape = (2, 4, 4)
        lower = rng.normal(size=shape)
        upper = lower + rng.choice([0.0, 0.1, 1.0], size=shape)
        sliding = rx.pool_sliding(node)
        pooled = sliding.windows(lower, -np.inf).max(axis=(1, 2)).shape
        centre, radius = en.wild(rng, 2, *pooled[1:], 2), np.abs(en.wild(rng, 2, *pooled[1:], 2)) * (seed % 2)
        slopes = jacobian.pool_slopes(node, lower, upper, shape)
        found = slopes.times(jacobian.Interval(centre, radius), slopes.least, slopes.most)
        low, high = (en.exact(found.centre) + s * en.exact(found.radius) for s in (-1, 1))
        for _ in range(4):
            value = np.where(rng.integers(2, size=shape) == 0, lower, upper)
            choice = sliding.windows(value, -np.inf)
            taps = choice.reshape(2, -1, *choice.shape[3:]).argmax(axis=1)
            rows = en.exact(centre) + en.exact(rng.choice([-1, 0, 1], size=centre.shape)) * en.exact(radius)
            gradient = en.exact(np.zeros((2, 4, 4, 2)))
            for ch, i, j in np.ndindex(2, *pooled[1:]):
                a, b = divmod(int(taps[ch, i, j]), node.kernel[1])
                y, x = i * node.stride[0] - node.padding[0] + a, j * node.stride[1] - node.padding[1] + b
                gradient[:, y, x, ch] += rows[:, i, j, ch]
            assert all((low <= gradient).ravel())
            assert all((gradient <= high).ravel())


def test_a_pooling_step_is_exact_where_one_cell_surely_wins():
    lower = np.arange(16.0).reshape(1, 4, 4)
    node = c.MaxPool2d((0,), (2, 2), (2, 2), (0, 0, 0, 0))
    rows = jacobian.Interval(np.ones((1, 2, 2, 1)), np.zeros((1, 2, 2, 1)))
    slopes = jacobian.pool_slopes(node, lower, lower + 0.5, (1, 4, 4))
    found = slopes.times(rows, slopes.least, slopes.most)
    assert not slopes.uncertain().any()
    expected = np.zeros((4, 4))
    expected[1::2, 1::2] = 1.0
    assert found.centre[0, :, :, 0] == pytest.approx(expected, abs=1e-12)
    assert (found.radius <= 1e-12).all()
    slopes = jacobian.pool_slopes(node, np.zeros((1, 4, 4)), np.zeros((1, 4, 4)), (1, 4, 4))
    tied = slopes.times(rows, slopes.least, slopes.most)
    assert slopes.uncertain().all()
    assert (tied.centre - tied.radius <= 0).all()
    assert (tied.centre + tied.radius >= 1).all()


@pytest.mark.parametrize(("node", "curve"), [(c.Sigmoid((0,)), rx.SIGMOID), (c.Tanh((0,)), rx.TANH)])
def test_slope_intervals_of_curves_are_those_of_their_ends(node: c.Node, curve: rx.Curve):
    lower, upper = np.array([-3.0, 1.0, -2.0, 0.0, -1.0, -5.0]), np.array([-1.0, 2.0, 1.0, 2.0, 0.0, 0.5])
    far, near = np.array([3.0, 2.0, 2.0, 2.0, 1.0, 5.0]), np.array([1.0, 1.0, 0.0, 0.0, 0.0, 0.0])
    least, most = jacobian.slope_interval(node, lower, upper)
    assert least == pytest.approx(curve.near_slope(far), rel=1e-12)
    assert most == pytest.approx(curve.near_slope(near), rel=1e-12)
    flat, _ = jacobian.slope_interval(node, np.array([-800.0]), np.array([800.0]))
    assert 0 <= flat[0] < 1e-200


def test_slopes_anywhere_are_the_steepest_of_each_node():
    nodes = [c.Input((2,)), c.Relu((0,)), c.LeakyRelu((0,), 0.1), c.Sigmoid((0,)), c.Tanh((0,)), c.Flatten((0,))]
    prepared = bounds.prepare(build([*nodes, c.Linear((1,), np.eye(2, dtype=F32), np.zeros(2, F32))]))
    assert [jacobian.unrestricted_slopes(prepared, k) for k in (1, 2, 3, 4)] == [(0, 1), (0.1, 1), (0, 0.25), (0, 1)]
    with pytest.raises(c.RejectedError, match="multipliers"):
        jacobian.unrestricted_slopes(prepared, 5)


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_dual_norms_cover_every_order_of_summation(norm: c.Norm):
    """A sum of n magnitudes may be n - 1 half units too small, a root of one half as many."""
    rows = np.random.default_rng(0).uniform(1, 2, (20, 400))
    for row, bound in zip(rows, jacobian.dual_norms_up(rows, norm), strict=True):
        computed = row.sum() if norm == "Linf" else np.sqrt(np.einsum("x,x->", row, row))
        units = 399 if norm == "Linf" else 201
        assert en.rational(computed) * (1 + units * en.rational(2.0**-53)) <= en.rational(bound)
    assert jacobian.dual_norms_up(np.full((1, 9), 2.0**-600), norm)[0] >= 3 * 2.0**-600

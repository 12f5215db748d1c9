"""Linear relaxations enclose their functions where they touch them, in exact arithmetic; one backward step each."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import exact_network as en
import numpy as np
import pytest
from exact_steps import at_least, at_most, cancelling, exact_images, holds, image_net, layer, small_ball, windows
from flint import fmpq
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.kernel.layers.curve import Curve
from proofs_check.kernel.relaxations import LinearRelaxation
from verifiers.network.module import build

F32 = np.float32


Rng = np.random.Generator


Array = NDArray[np.float64]


# ---------------------------------------------------------------- lines


def line_errors(lines: LinearRelaxation, y: en.Exact, f: en.Exact) -> Iterator[bool]:
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
    relu = layer(c.LeakyRelu((0,), slope), lower.shape)
    for hint in (None, rng.uniform(-0.5, 1.5, lower.shape)):
        lines = relu.relaxation(lower, upper, hint)
        for y in (lower, upper, np.clip(0.0, lower, upper)):
            assert all(line_errors(lines, en.exact(y), en.each(leaky(slope), en.exact(y))))
        unstable = (lower < 0) & (upper > 0)
        chosen = np.where(upper > -lower, 1.0, slope) if hint is None else np.clip(hint, slope, 1.0)
        assert (lines.lower_slope == np.where(unstable, chosen, np.where(lower >= 0, 1.0, slope))).all()
        assert (lines.upper_intercept[~unstable] == 0).all(), "stable cells are exact"


def test_a_stable_relu_costs_nothing_even_at_zero():
    lower, upper = np.array([0.0, -1.0, 0.0])[:, None, None], np.array([1.0, 0.0, 0.0])[:, None, None]
    lines = layer(c.LeakyRelu((0,), 0.1), lower.shape).relaxation(lower, upper, None)
    assert lines.upper_slope.ravel().tolist() == [1.0, 0.1, 1.0]
    assert lines.lower_slope.ravel().tolist() == [1.0, 0.1, 1.0]
    assert not lines.upper_intercept.any()


def test_charged_lines_move_by_the_whole_error_term():
    rng = np.random.default_rng(0)
    for _ in range(40):
        k, t, w, s, m = (en.wild(rng, 6, 1, 1) for _ in range(5))
        w, m = np.clip(w, -3, 3), np.abs(m)
        found = LinearRelaxation(k, t, w, s).charged(m, 30)
        error = en.rational((30 + 8) * 2.0**-52)
        top = en.exact(t) + error * (abs(en.exact(t)) + abs(en.exact(k)) * en.exact(m))
        steepest = en.exact(np.maximum(np.abs(w), 1.0))
        bottom = en.exact(s) - error * (abs(en.exact(s)) + steepest * en.exact(m))
        assert at_most(top, found.upper_intercept)
        assert at_least(bottom, found.lower_intercept)
        assert (found.upper_slope == k).all()
        assert (found.lower_slope == w).all()


CURVES = ((layer(c.Sigmoid((0,)), (1, 1, 1)), en.SIGMOID), (layer(c.Tanh((0,)), (1, 1, 1)), en.TANH))


@pytest.mark.parametrize(("curve", "exact"), CURVES, ids=["sigmoid", "tanh"])
def test_curve_lines_enclose_the_curve_where_they_touch_it(curve: Curve, exact: Callable[[fmpq], fmpq]):
    rng = np.random.default_rng(1)
    lower, upper = (np.clip(v, -20, 20) for v in intervals(rng, 60))
    lines = curve.relaxation(lower, upper, None)
    touch = curve.touching_point(lower, upper), -curve.touching_point(-upper, -lower)
    shares = [rng.uniform(size=lower.shape) for _ in range(3)]
    for y in (lower, upper, *(np.clip(v, lower, upper) for v in (0.0, *touch)),
              *(np.clip(lower + s * (upper - lower), lower, upper) for s in shares)):  # fmt: skip
        assert all(line_errors(lines, en.exact(y), en.each(exact, en.exact(y))))


@pytest.mark.parametrize(("curve", "exact"), CURVES, ids=["sigmoid", "tanh"])
def test_the_upper_intercept_is_right_for_any_slope_and_any_touching_point(curve: Curve, exact: Callable[[fmpq], fmpq]):
    rng = np.random.default_rng(2)
    lower, upper = (np.clip(v, -6, 6) for v in intervals(rng, 80))
    first = np.maximum(lower, 0)
    touch = np.clip(first + rng.uniform(size=lower.shape) * (upper - first), first, np.maximum(upper, 0))
    at_touch = rng.integers(3, size=lower.shape)  # the tangent's own slope, or near it, or anything
    tangent = curve.slope(curve.approximate(touch))
    k = np.select([at_touch == 0, at_touch == 1], [tangent, tangent + 1e-3],
                  rng.uniform(-0.3, 1.3, lower.shape))  # fmt: skip
    t = en.exact(curve.upper_intercept(lower, upper, k, touch))
    points = [lower, upper, np.clip(touch, lower, upper), np.clip(0.0, lower, upper)]
    points += [np.clip(lower + s * (upper - lower), lower, upper) for s in np.linspace(0, 1, 15)]
    for y in points:
        assert all((en.each(exact, en.exact(y)) <= en.exact(k) * en.exact(y) + t).ravel())


@pytest.mark.parametrize(("curve", "exact"), CURVES, ids=["sigmoid", "tanh"])
def test_curve_lines_are_about_as_good_as_can_be(curve: Curve, exact: Callable[[fmpq], fmpq]):
    """The chord where the curve is convex, tangents where concave: on average well below what constants would cost."""
    lower, upper = (np.array(v)[:, None, None] for v in ([-3.0, 1.0, -2.0, -0.5, -1.0], [-1.0, 3.0, 2.0, 1.0, 0.3]))
    lines = curve.relaxation(lower, upper, None)
    y = lower + np.linspace(0, 1, 201) * (upper - lower)
    above = lines.upper_slope * y + lines.upper_intercept - curve.approximate(y)
    under = curve.approximate(y) - lines.lower_slope * y - lines.lower_intercept
    rise = curve.approximate(upper) - curve.approximate(lower)
    assert (above.mean(axis=-1, keepdims=True) <= 0.45 * rise).all()
    assert (under.mean(axis=-1, keepdims=True) <= 0.45 * rise).all()
    assert above[0, 0, -1] < 1e-12, "convex: the chord"
    assert under[1, 0, 0] < 1e-12, "concave: the chord from below"
    below = lines.upper_slope * lower + lines.upper_intercept - curve.approximate(lower)
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
    dominated = bounds.value_bounds(prepared, bounds.Ball(center, 0.2, "Linf", None), None).relaxations[1]
    assert dominated is not None
    assert (dominated.upper_slope[0] == 1).all(), "the dominating cell itself, no constant"
    assert (np.asarray(dominated.upper_intercept)[0] < 1e-9).all()


def test_cells_that_tie_dominate_their_window():
    lower = upper = np.ones((1, 2, 2))
    lines = layer(c.MaxPool2d((0,), (2, 2), (2, 2), (0, 0, 0, 0)), (1, 2, 2)).relaxation(lower, upper, None)
    assert lines.upper_slope.item() == 1
    assert lines.upper_intercept.item() == 0


@pytest.mark.parametrize("node", [c.Relu((0,)), c.LeakyRelu((0,), 0.3), c.Sigmoid((0,)), c.Tanh((0,))],
                         ids=["relu", "leaky", "sigmoid", "tanh"])  # fmt: skip
def test_monotone_bounds_hold_at_the_ends(node: c.Node):
    rng = np.random.default_rng(0)
    lower, upper = (np.clip(v, -30, 30) for v in intervals(rng, 150))
    low, high = layer(node, lower.shape).interval(lower, upper)
    function = {c.Sigmoid: en.SIGMOID, c.Tanh: en.TANH}.get(type(node)) or leaky(getattr(node, "slope", 0.0))
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


@pytest.mark.parametrize("node", [c.Relu((0,)), c.LeakyRelu((0,), 0.3), c.Sigmoid((0,)), c.Tanh((0,))],
                         ids=["relu", "leaky", "sigmoid", "tanh"])  # fmt: skip
def test_every_cell_of_a_line_is_charged_for_its_own_size(node: c.Node):
    net = build([c.Input((1, 4, 4)), node, c.Flatten((1,))])
    center = (np.arange(16).reshape(1, 4, 4) - 8).astype(F32)
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(center, 0.5, "Linf", None), None)
    lower, upper = values.lower[0], values.upper[0]
    plain = layer(node, lower.shape).relaxation(lower, upper, None)
    charged, error = values.relaxations[1], en.rational((16 + 8) * 2.0**-52)
    assert charged is not None
    size = en.exact(np.maximum(np.abs(lower), np.abs(upper)))
    assert at_most(en.exact(plain.upper_intercept) + error * en.exact(np.abs(plain.upper_slope)) * size,
                   charged.upper_intercept)  # fmt: skip
    assert at_least(en.exact(np.broadcast_to(plain.lower_intercept, lower.shape)) - error * size,
                    charged.lower_intercept)  # fmt: skip


# ---------------------------------------------------------------- the witness and what interval arithmetic gets exactly


def test_every_cell_of_a_pool_larger_than_its_input_is_charged():
    node = c.MaxPool2d((0,), (6, 6), (1, 1), (5, 5, 5, 5))
    net = build([c.Input((1, 1, 1)), node, c.Flatten((1,))])
    ball = bounds.Ball(np.full((1, 1, 1), 3, F32), 0.5, "Linf", None)
    lines = bounds.value_bounds(bounds.prepare(net), ball, None).relaxations[1]
    assert lines is not None
    assert (np.asarray(lines.upper_intercept) >= (36 + 8) * 2.0**-52 * 3.5).all()
    assert (np.asarray(lines.lower_intercept) <= -(36 + 8) * 2.0**-52 * 3.5).all()

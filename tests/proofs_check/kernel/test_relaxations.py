"""Linear relaxations enclose their functions where they touch them, in exact arithmetic; one backward step each."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import exact_network as en
import numpy as np
import pytest
from exact_steps import at_least, at_most, cancelling, exact_images, holds, image_net, layer, small_ball, windows
from flint import fmpq
from layer_kinds import CURVES
from numpy.typing import NDArray

from proofs_check import certificate as c
from proofs_check.kernel import bounds
from proofs_check.kernel.layers import curve as curve_module
from proofs_check.kernel.layers import product as product_module
from proofs_check.kernel.layers.curve import Curve
from proofs_check.kernel.layers.powers import Above
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


curves = pytest.mark.parametrize(
    ("node", "exact"), [(node, en.of_elements(node)) for node in CURVES.values()], ids=list(CURVES)
)


def curve_of(node: c.Node) -> Curve:
    found = layer(node, (1, 1, 1))
    assert isinstance(found, Curve)
    return found


def within_domain(curve: Curve, *values: Array) -> Array:
    """In increasing order, away from 0 where a curve is of positive numbers only."""
    return np.sort(np.abs(values) + 0.01 if isinstance(curve, Above) else values, axis=0)


def around_borders(curve: Curve, rng: Rng, count: int) -> tuple[Array, Array]:
    """Intervals of every sort, cut to [-20, 20]; among them those that end at a border of pieces, or next to one."""
    lower, upper = (np.clip(v, -20, 20).ravel() for v in intervals(rng, count))
    for border in curve.borders:
        middle = float(border.mid())
        for end in (middle, np.nextafter(middle, 9e9), np.nextafter(middle, -9e9)):
            lower = np.concatenate([lower, [end, end - 1.5, end, end - 1e-9]])
            upper = np.concatenate([upper, [end + 0.7, end, end, end + 1e-9]])
    lower, upper = within_domain(curve, lower, upper)
    return lower[:, None, None], upper[:, None, None]


def points_between(curve: Curve, rng: Rng, lower: Array, upper: Array) -> Iterator[Array]:
    yield from (lower, upper)
    for border in curve.borders:
        yield np.clip(float(border.mid()), lower, upper)
    for share in (*np.linspace(0, 1, 12), rng.uniform(size=lower.shape)):
        yield np.clip(lower + share * (upper - lower), lower, upper)


@curves
def test_curve_lines_and_bounds_enclose_the_curve(node: c.Node, exact: Callable[[fmpq], fmpq]):
    rng, curve = np.random.default_rng(1), curve_of(node)
    lower, upper = around_borders(curve, rng, 40)
    lines, (low, high) = curve.relaxation(lower, upper, None), curve.interval(lower, upper)
    for y in points_between(curve, rng, lower, upper):
        value = en.each(exact, en.exact(y))
        assert all(line_errors(lines, en.exact(y), value))
        assert at_least(value, low)
        assert at_most(value, high)


@curves
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("bisections", [0, 1, curve_module.BISECTIONS])
def test_the_intercept_is_right_for_any_slope_and_touching_point(
    node: c.Node, exact: Callable[[fmpq], fmpq], sign: int, bisections: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(curve_module, "BISECTIONS", bisections)  # few: the tangent touches far from where it should
    rng, curve = np.random.default_rng(2), curve_of(node)
    lower, upper = (np.clip(v, -6, 6) for v in around_borders(curve, rng, 30))
    which = rng.integers(3, size=lower.shape)  # the slope somewhere, or near that, or anything
    somewhere = np.clip(lower + rng.uniform(size=lower.shape) * (upper - lower), lower, upper)
    tangent = sign * curve.approximate(curve.slope, somewhere)
    k = np.select([which == 0, which == 1], [tangent, tangent + 1e-3], rng.uniform(-1.5, 1.5, lower.shape))
    t = en.exact(curve.upper_intercept(sign, lower, upper, k))
    for y in (somewhere, *points_between(curve, rng, lower, upper)):
        assert all((sign * en.each(exact, en.exact(y)) <= en.exact(k) * en.exact(y) + t).ravel())


@curves
@pytest.mark.parametrize("sign", [1, -1])
def test_curve_lines_are_about_as_low_in_the_middle_as_can_be(node: c.Node, exact: Callable[[fmpq], fmpq], sign: int):
    """No line above is lower there than any chord of points to the left and right; bounds are those of many points."""
    rng, curve = np.random.default_rng(3), curve_of(node)
    lower = rng.uniform(-5, 3, (60, 1, 1))
    lower, upper = within_domain(curve, lower, lower + rng.uniform(0.01, 5, lower.shape))
    middle, shares = (lower + upper) / 2, np.linspace(0, 1, 80)
    left, right = middle + shares[::-1] * (lower - middle), middle + shares * (upper - middle)
    at_left, at_right = (sign * curve.approximate(curve.value, side)[:, 0] for side in (left, right))
    weight = np.abs(right - middle)[:, 0, None] / np.maximum(right[:, 0, None] - left[:, 0, :, None], 1e-300)
    heights = weight * at_left[:, :, None] + (1 - weight) * at_right[:, None]
    heights[:, -1, 0] = at_left[:, -1]  # the curve itself
    best, worst = heights.max(axis=(1, 2)), heights.min(axis=(1, 2))
    k = curve.upper_slope(sign, lower, upper)
    found = (k * middle + curve.upper_intercept(sign, lower, upper, k)).ravel()
    assert (found <= best + 0.05 * (best - worst) + 1e-9).all()
    extreme = sign * curve.interval(lower, upper)[1 if sign > 0 else 0].ravel()
    assert (extreme <= np.concatenate([at_left, at_right], axis=1).max(axis=1) + 0.02 * (upper - lower).ravel()).all()


@curves
def test_pieces_bend_as_they_say_and_slopes_are_those_of_the_formula(node: c.Node, exact: Callable[[fmpq], fmpq]):
    """By divided differences, on every piece and up to its borders."""
    curve = curve_of(node)
    ends = [-8.0, *(float(border.mid()) for border in curve.borders), 8.0]
    for j, bend in enumerate(curve.bends):
        (x,) = within_domain(curve, np.linspace(ends[j], ends[j + 1], 300)[1:-1])
        x = np.unique(x)
        values = en.each(exact, en.exact(x))
        rises = (values[1:] - values[:-1]) / (en.exact(x[1:]) - en.exact(x[:-1]))
        assert all(bend * (b - a) >= -fmpq(1, 2**200) for a, b in itertools.pairwise(rises))
        slopes = bend * en.exact(curve.approximate(curve.slope, x))
        for before, rise, after in zip(slopes[:-1], bend * rises, slopes[1:], strict=True):
            assert before - fmpq(1, 2**40) <= rise <= after + fmpq(1, 2**40)


@curves
def test_slopes_of_a_curve_hold_every_difference_quotient(node: c.Node, exact: Callable[[fmpq], fmpq]):
    rng, curve = np.random.default_rng(4), curve_of(node)
    lower, upper = (np.clip(v, -6, 6) for v in around_borders(curve, rng, 30))
    least, most = curve.derivative_range(lower, upper)
    points = [np.clip(lower + s * (upper - lower), lower, upper) for s in np.linspace(0, 1, 9)]
    for a, b in itertools.pairwise(points):
        rise, run = en.each(exact, en.exact(b)) - en.each(exact, en.exact(a)), en.exact(b) - en.exact(a)
        assert all((en.exact(least) * run <= rise + fmpq(1, 2**250)).ravel())
        assert all((rise <= en.exact(most) * run + fmpq(1, 2**250)).ravel())
    if np.isfinite(sum(curve.limits)):
        assert curve.derivative()[0] <= least.min() + 1e-12
        assert most.max() <= curve.derivative()[1] + 1e-12


def test_slopes_on_both_sides_of_a_kink_that_an_interval_crosses_count():
    """The hard swish has slopes from 0 to -1/2 at -3, and from 3/2 to 1 at 3."""
    curve = curve_of(c.HardSwish((0,)))
    for lower, upper, least, most in ((-4.0, -2.5, -0.5, 0.0), (2.5, 4.0, 1.0, 1.5)):
        found = curve.derivative_range(np.full((1, 1, 1), lower), np.full((1, 1, 1), upper))
        assert found[0].item() <= least
        assert found[1].item() >= most


@pytest.mark.parametrize("node", [c.InversePower((0,), 0.5), c.InversePower((0,), 1.0), c.SquareRoot((0,))], ids=repr)
def test_powers_of_what_may_lie_outside_their_domain_are_rejected(node: c.Node):
    curve = layer(node, (1, 1, 1))
    for least in (-1e-300, -2.0, *([] if isinstance(node, c.SquareRoot) else [0.0])):
        box = np.array([[[least]]]), np.array([[[1.0]]])
        for ask in (curve.interval, curve.derivative_range, lambda *ends: curve.relaxation(*ends, None)):
            with pytest.raises(c.RejectedError, match="outside its domain"), np.errstate(all="ignore"):
                ask(*box)


def test_every_cell_of_a_power_lies_in_its_domain():
    two = layer(c.InversePower((0,), 1.0), (2, 1, 1))
    ends = np.array([1.0, -1.0]).reshape(2, 1, 1), np.full((2, 1, 1), 2.0)
    with pytest.raises(c.RejectedError, match="outside its domain"):
        two.derivative_range(*ends)


def test_a_root_from_zero_on_is_bounded():
    root = layer(c.SquareRoot((0,)), (1, 1, 1))
    lower, upper = np.zeros((1, 1, 1)), np.full((1, 1, 1), 4.0)
    assert root.interval(lower, upper)[0].item() <= 0 < 2 <= root.interval(lower, upper)[1].item() < 2 + 1e-9
    lines = root.relaxation(lower, upper, None)
    for y in (0.0, 1e-9, 0.3, 4.0):
        point = en.exact(np.full((1, 1, 1), y))
        assert all(line_errors(lines, point, en.each(en.of_elements(c.SquareRoot((0,))), point)))


# ---------------------------------------------------------------- products


def factors(rng: Rng, count: int) -> tuple[Array, Array]:
    """(2 count, 1, 1): boxes of two factors, of every sort."""
    lower, upper = intervals(rng, 2 * count)
    return lower, upper


def corners_and_more(rng: Rng, lower: Array, upper: Array) -> Iterator[Array]:
    """Points of the box: all pairs of ends, and others."""
    count = len(lower) // 2
    for first, second in itertools.product((lower, upper), repeat=2):
        yield np.concatenate([first[:count], second[count:]])
    for _ in range(4):
        yield np.clip(lower + rng.uniform(size=lower.shape) * (upper - lower), lower, upper)


@pytest.mark.parametrize("seed", range(4))
def test_planes_and_bounds_of_a_product_enclose_it(seed: int):
    """They touch it at corners: what rounds there shows."""
    rng = np.random.default_rng(seed)
    lower, upper = factors(rng, 150)
    product = layer(c.Product((0,)), lower.shape)
    lines, (low, high) = product.relaxation(lower, upper, None), product.interval(lower, upper)
    slopes = [[en.exact(part) for part in np.split(s, 2)] for s in (lines.upper_slope, lines.lower_slope)]
    for point in corners_and_more(rng, lower, upper):
        x, y = np.split(en.exact(point), 2)
        assert at_least(x * y, low)
        assert at_most(x * y, high)
        above, below = (q * x + p * y for q, p in slopes)
        assert all((x * y <= above + en.exact(lines.upper_intercept)).ravel())
        assert all((x * y >= below + en.exact(lines.lower_intercept)).ravel())


@pytest.mark.parametrize("sign", [1, -1])
def test_the_intercept_of_a_product_is_right_for_any_point_and_tight(sign: int):
    rng = np.random.default_rng(9)
    lower, upper = factors(rng, 150)
    x, y = (tuple(parts) for parts in zip(*(np.split(v, 2) for v in (lower, upper)), strict=True))
    p, q = en.wild(rng, 150, 1, 1), en.wild(rng, 150, 1, 1)
    t = en.exact(product_module._intercept(sign, x, y, p, q))
    reached = np.full(t.shape, -(fmpq(10) ** 400))
    for point in corners_and_more(rng, lower, upper):
        a, b = np.split(en.exact(point), 2)
        needed = sign * (a * b - en.exact(q) * a - en.exact(p) * b)
        assert all((needed <= t).ravel())
        reached = np.maximum(reached, needed)
    size = [np.abs(v).max(axis=0) for v in (np.stack([*x, p]), np.stack([*y, q]))]
    assert all((t - reached <= en.exact(16 * 2.0**-51 * size[0] * size[1] + 2.0**-400)).ravel())


def test_planes_of_a_product_are_alike_in_the_middle_and_reach_least_far():
    rng = np.random.default_rng(5)
    lower = rng.normal(size=(400, 1, 1))
    upper = lower + rng.uniform(0.01, 3, lower.shape)
    lines = layer(c.Product((0,)), lower.shape).relaxation(lower, upper, None)
    (x, y), (w, v) = np.split((lower + upper) / 2, 2), np.split((upper - lower) / 2, 2)
    for slope, intercept, sign in ((lines.upper_slope, lines.upper_intercept, 1),
                                   (lines.lower_slope, lines.lower_intercept, -1)):  # fmt: skip
        q, p = np.split(slope, 2)
        middle, reach = q * x + p * y + intercept, np.abs(q) * w + np.abs(p) * v
        assert np.allclose(middle, x * y + sign * w * v)
        corners = np.stack([a * b for a in (x - w, x + w) for b in (y - v, y + v)])
        best = corners.max(axis=0) if sign > 0 else corners.min(axis=0)
        same_sign = (np.abs(x) >= w) & (np.abs(y) >= v)
        assert np.allclose((middle + sign * reach)[same_sign], best[same_sign]), "exact where no factor changes sign"


@pytest.mark.parametrize("seed", range(4))
def test_one_backward_step_through_a_product_loses_nothing(seed: int):
    rng = np.random.default_rng(seed)
    for size in (0.0, 0.1, 2.0):
        first = c.Conv2d((0,), cancelling(rng, 4, 2, 1, 4), cancelling(rng, 4), (1, 1), (0, 1, 0, 2), (1, 1), 1)
        net = build([c.Input((2, 4, 4)), first, c.Product((1,)), c.Flatten((2,))])
        ball, prepared = small_ball(rng, (2, 4, 4), size), bounds.prepare(net)
        values = bounds.value_bounds(prepared, ball, None)
        for point in en.points(rng, ball, [rng.normal(size=(2, 4, 4))]):
            images = exact_images(en.exact_values(net, point), prepared)
            holds(values, 2, windows(rng, prepared.shapes[2], 3), images, fmpq(0))


def test_both_factors_of_a_product_are_charged():
    net = build([c.Input((2,)), c.Product((0,)), c.Concat((1, 1))])
    center = np.array([3.0, 1024.0], F32)
    values = bounds.value_bounds(bounds.prepare(net), bounds.Ball(center, 0.5, "Linf", None), None)
    plain = layer(c.Product((0,)), (2, 1, 1)).relaxation(values.lower[0], values.upper[0], None)
    charged, error = values.relaxations[1], en.rational((2 + 8) * 2.0**-52)
    assert charged is not None
    size = en.exact(np.maximum(np.abs(values.lower[0]), np.abs(values.upper[0])))
    above = 1, plain.upper_intercept, plain.upper_slope, charged.upper_intercept
    below = -1, plain.lower_intercept, plain.lower_slope, charged.lower_intercept
    for sign, before, slope, after in (above, below):
        whole = (abs(en.exact(slope)) * size).sum() + abs(en.exact(before)).sum()
        assert sign * (en.exact(after) - en.exact(before)).sum() >= error * whole


# ---------------------------------------------------------------- pools


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

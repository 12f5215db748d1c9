"""What a linear form reaches over boxes and balls, in exact arithmetic, and what is charged where forms meet."""

from __future__ import annotations

import math

import exact_network as en
import numpy as np
import pytest
from exact_steps import (
    affine_nets,
    at_least,
    at_most,
    cancelling,
    exact_forms,
    exact_images,
    image_net,
    small_ball,
    windows,
)
from numpy.typing import NDArray
from small_networks import NORMS

from proofs_check import certificate as c
from proofs_check.kernel import bounds, linear_forms
from verifiers.network.module import build

F32 = np.float32


Array = NDArray[np.float64]


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


def reached(ball: bounds.Ball, rows: linear_forms.LinearForms, shape: tuple[int, ...]) -> tuple[Array, bounds.Values]:
    values = bounds.value_bounds(bounds.prepare(image_net()), ball, None)
    assert values.prepared.shapes[0] == shape
    return bounds._concretize(values, 0, rows), values


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
        whole = linear_forms.to_dense(rows, (2, 4, 4)).values
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
        rows = linear_forms.LinearForms(rng.normal(size=(6, 4, 4, 2)), None)
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
    rows = linear_forms.LinearForms(np.full((1, 4, 4, 2), 3.0), None)
    found, _ = reached(bounds.Ball(np.ones((2, 4, 4), dtype=F32), 0.5, norm, (0.0, 1.0)), rows, (2, 4, 4))
    assert 96.0 <= found[0] <= 96.0 * (1 + 1e-12)


def test_a_centre_outside_its_domain_is_bounded_all_the_same():
    """The judge rejects such a claim; the bound itself must not rest on that."""
    rows = linear_forms.LinearForms(np.array([1.0, -1.0])[:, None, None, None] * np.ones((2, 4, 4, 2)), None)
    for norm in ("L2", "L1"):
        found, _ = reached(bounds.Ball(np.full((2, 4, 4), 1.125, F32), 6.0, norm, (0.0, 1.0)), rows, (2, 4, 4))
        assert found[0] >= 32 * 1.0
        assert found[1] >= -32.0


def test_the_length_of_a_tiny_form_does_not_underflow():
    rows = linear_forms.LinearForms(np.full((1, 4, 4, 2), 2.0**-540), None)
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
            found = bounds._concretize(values, k, rows)
            ends = [en.exact(v) for v in (values.lower[k], values.upper[k])]
            middle, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
            wide = linear_forms.LinearForms(np.abs(rows.values), rows.corner)
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


def test_rows_that_meet_on_cells_of_very_different_size_are_charged_for_the_largest():
    """Any order of rounding: half a unit of each summed coefficient times the cell's magnitude."""
    rng = np.random.default_rng(0)
    scale = c.Scale((0,), (2.0 ** np.arange(0, 64, 2).reshape(2, 4, 4)).astype(F32))
    net = image_net(scale, c.Scale((1,), np.full((1, 1, 1), -1, dtype=F32)), c.Add((2, 1)))
    values = bounds.value_bounds(bounds.prepare(net), small_ball(rng, (2, 4, 4), 0.0), None)
    rows, other = (linear_forms.LinearForms(rng.normal(size=(3, 4, 4, 2)), None) for _ in range(2))
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
    return float(bounds._concretize_ball(values, linear_forms.LinearForms(row[None, None, None], None))[0])


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


def test_the_length_of_a_form_covers_every_order_of_summation():
    """sqrt of a sum of 32 squares: 17 half units."""
    rng = np.random.default_rng(0)
    rows = linear_forms.LinearForms(rng.uniform(1, 2, (20, 4, 4, 2)), None)
    found, _ = reached(bounds.Ball(np.zeros((2, 4, 4), dtype=F32), 1.0, "L2", None), rows, (2, 4, 4))
    for cells, bound in zip(rows.values.reshape(20, -1), found, strict=True):
        length = np.sqrt(np.einsum("x,x->", cells, cells))
        assert en.rational(length) * (1 + 17 * en.rational(2.0**-53)) <= en.rational(bound)


@pytest.mark.parametrize("norm", NORMS)
def test_a_form_that_cancels_on_cells_of_different_size_is_charged_for_the_largest(norm: c.Norm):
    """Any order of summation may lose n half units of the sum of absolute values."""
    rng = np.random.default_rng(0)
    center = -(2.0 ** np.arange(0, 32).reshape(2, 4, 4)).astype(F32)
    rows = linear_forms.LinearForms(rng.normal(size=(5, 4, 4, 2)), None)
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


# ---------------------------------------------------------------- the witness and what interval arithmetic gets exactly


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

"""Theorem 3.5 and (4a) in floats: order of the radii, kinds of constants, from logits to probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from certmix.theorems.lipschitz import (
    AnchoredConstants,
    EstimatedConstants,
    EstimatedRadius,
    GlobalConstants,
    LogitsAtInputs,
    RelaxedConstants,
    bisected_radius,
    certified_radius,
    closed_form_radius,
    difference_radius,
    estimated_radius,
    largest_variance,
    least_margin,
    margin_constants,
    paper_radius,
    probability_bounds,
    probability_constants,
    reaches,
    relaxed_constants,
    relaxed_holds,
    spacious_constants,
)


def sure_point(seed: int, alpha: float, temperature: float = 1.0, classes: int = 5) -> LogitsAtInputs:
    """Logits whose winner leads by a random distance."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn((4, classes), generator=generator, dtype=torch.float64)
    predicted = logits.argmax(dim=1)
    logits[torch.arange(4), predicted] += 6 * torch.rand(4, generator=generator, dtype=torch.float64)
    return LogitsAtInputs(logits, predicted, alpha, temperature)


def pair_table(seed: int, classes: int) -> torch.Tensor:
    """Constants of z_i - z_k: dual norms of differences of random gradients, so that they are consistent."""
    w = torch.randn((classes, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cdist(w, w)[None].expand(4, -1, -1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.51, 1.0), st.floats(0.1, 5.0), st.integers(2, 8))
def test_the_stronger_forms_never_give_a_smaller_radius(
    seed: int, alpha: float, temperature: float, classes: int
) -> None:
    point = sure_point(seed, alpha, temperature, classes)
    pairs = pair_table(seed, classes)
    differences = pairs[torch.arange(4), point.predicted]
    by_difference = difference_radius(point, margin_constants(point, differences, None, None))
    closed = closed_form_radius(point, differences)
    bisected = bisected_radius(point, differences, 1e-6)
    assert bool((by_difference <= closed * (1 + 1e-9)).all())
    assert bool((closed <= bisected * (1 + 2e-6)).all())


def test_the_paper_formula_term_by_term() -> None:
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64))
    point = LogitsAtInputs(logits, torch.tensor([0]), 0.8)
    values = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    expected = min((0.8 * 0.5 - 0.2) / (0.8 * 3), (0.8 * 0.6 - 0.2) / (0.8 * 5))
    assert float(paper_radius(point, values)[0]) == pytest.approx(expected, rel=1e-12)
    assert float(paper_radius(LogitsAtInputs(logits, torch.tensor([0]), 0.6), values)[0]) == 0.0  # 0.6 * 0.5 < 0.4
    assert float(paper_radius(point, torch.zeros(1, 3))[0]) == math.inf
    assert float(paper_radius(LogitsAtInputs(logits, torch.tensor([0]), 0.5), torch.zeros(1, 3))[0]) == 0.0


@pytest.mark.parametrize("gap", [4.0, 30.0, 200.0])
@pytest.mark.parametrize("alpha", [0.55, 0.75, 0.99])
def test_the_closed_form_is_exact_for_two_linear_classes(alpha: float, gap: float) -> None:
    logits = torch.tensor([[gap, 0.0]], dtype=torch.float64)
    point = LogitsAtInputs(logits, torch.tensor([0]), alpha)
    exact = (gap + math.log(2 * alpha - 1)) / 2.5
    values = torch.tensor([[0.0, 2.5]], dtype=torch.float64)
    assert float(closed_form_radius(point, values)[0]) == pytest.approx(exact, rel=1e-12)
    assert float(bisected_radius(point, values, 1e-9)[0]) == pytest.approx(exact, rel=1e-7)


def margin_radius(point: LogitsAtInputs, values: torch.Tensor) -> torch.Tensor:
    return difference_radius(point, margin_constants(point, values, None, None))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.51, 1.0), st.floats(0.2, 3.0))
def test_no_logits_within_the_constants_break_the_margin(seed: int, alpha: float, temperature: float) -> None:
    point = sure_point(seed, alpha, temperature)
    differences = pair_table(seed, 5)[torch.arange(4), point.predicted]
    generator = torch.Generator().manual_seed(seed + 1)
    for radius_of in (margin_radius, closed_form_radius, lambda p, v: bisected_radius(p, v, 1e-6)):
        radius = radius_of(point, differences)
        for _ in range(20):
            share = 2 * torch.rand((4, 5), generator=generator, dtype=torch.float64).round(decimals=1) - 1
            move = share * differences * radius[:, None] * (1 - 1e-9)
            moved = point.logits.gather(1, point.predicted[:, None]) + point.differences + move
            moved = LogitsAtInputs(moved, point.predicted, alpha, temperature)
            margin = least_margin(moved)
            assert bool((alpha * margin >= (1 - alpha) - 1e-12)[radius > 0].all())


# ---------------------------------------------------------------- kinds of constants


def test_anchored_constants_never_certify_beyond_their_own_ball() -> None:
    point = sure_point(1, 0.9)
    small = torch.full((4,), 1e-3, dtype=torch.float64)
    values = pair_table(1, 5)[torch.arange(4), point.predicted]
    everywhere = certified_radius(point, GlobalConstants(values, "differences"), 1e6)
    anchored = certified_radius(point, AnchoredConstants(values, "differences", small), 1e6)
    assert bool((everywhere > small).any())
    assert torch.equal(anchored, torch.minimum(everywhere, small))


def test_relaxed_constants_pass_or_fail_and_give_no_radius() -> None:
    point = sure_point(2, 0.9)
    radius = torch.full((4,), 0.1, dtype=torch.float64)
    relaxed = RelaxedConstants(torch.full((4, 5), 1e-3, dtype=torch.float64), "probabilities", radius)
    assert relaxed_holds(point, relaxed).dtype == torch.bool
    with pytest.raises(TypeError, match="RelaxedConstants certify no radius"):
        certified_radius(point, relaxed, 1.0)  # type: ignore[arg-type]


def test_estimates_give_estimates_and_nothing_else() -> None:
    point = sure_point(3, 0.9)
    radius = torch.full((4,), 0.1, dtype=torch.float64)
    estimate = EstimatedConstants(torch.ones((4, 5), dtype=torch.float64), "probabilities", radius)
    with pytest.raises(TypeError, match="EstimatedConstants certify no radius"):
        certified_radius(point, estimate, 1.0)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="relaxed constants"):
        relaxed_holds(point, estimate)  # type: ignore[arg-type]
    assert isinstance(estimated_radius(point, estimate, 1.0), EstimatedRadius)
    with pytest.raises(TypeError, match="are no estimates"):
        estimated_radius(point, GlobalConstants(estimate.values, "probabilities"), 1.0)  # type: ignore[arg-type]


def test_negative_constants_are_refused() -> None:
    with pytest.raises(ValueError, match=">= 0"):
        GlobalConstants(torch.tensor([[-1.0]]), "differences")


# ---------------------------------------------------------------- from logits to probabilities


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 5.0))
def test_probability_bounds_hold_on_the_box_and_are_attained(seed: int, temperature: float) -> None:
    point = sure_point(seed, 0.9, temperature)
    generator = torch.Generator().manual_seed(seed)
    width = torch.rand((4, 5), generator=generator, dtype=torch.float64).masked_fill(point.own, 0.0)
    lower, upper = point.differences - width, point.differences + width
    least, most = probability_bounds(lower, upper, point.predicted, temperature)
    for _ in range(50):
        inside = lower + (upper - lower) * torch.rand((4, 5), generator=generator, dtype=torch.float64).round()
        h = torch.softmax(temperature * inside, dim=1)
        assert bool(((h >= least - 1e-12) & (h <= most + 1e-12)).all())
    at_top = torch.softmax(temperature * upper, dim=1).gather(1, point.predicted[:, None])
    assert torch.allclose(least.gather(1, point.predicted[:, None]), at_top, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.51, 1.0), st.floats(0.0, 2.0))
def test_the_relaxed_test_is_the_fixed_point_form(seed: int, alpha: float, size: float) -> None:
    point = sure_point(seed, alpha)
    width = torch.full((4, 5), size, dtype=torch.float64).masked_fill(point.own, 0.0)
    radius = torch.full((4,), 0.25, dtype=torch.float64)
    lower, upper = point.differences - width, point.differences + width
    holds = relaxed_holds(point, relaxed_constants(point, lower, upper, radius))
    least, most = probability_bounds(lower, upper, point.predicted, 1.0)
    gap = least.gather(1, point.predicted[:, None])[:, 0] - most.masked_fill(point.own, -1.0).amax(dim=1)
    required = (1 - alpha) / alpha
    clear = (gap - required).abs() > 1e-9
    assert torch.equal(holds[clear], (gap > required)[clear])


def test_the_largest_variance_is_taken_inside_the_interval() -> None:
    lower, upper = torch.tensor([0.0, 0.2, 0.8, 0.5]), torch.tensor([0.1, 0.9, 1.0, 0.5])
    exact = torch.tensor([0.09, 0.25, 0.16, 0.25])
    assert torch.allclose(largest_variance(lower, upper), exact)
    assert float(largest_variance(torch.ones(1).double(), torch.ones(1).double())) > 0  # 1 may stand for 1 - 2^-60


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 4.0))
def test_probability_constants_bound_the_softmax_of_a_linear_map(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn((5, 6), generator=generator, dtype=torch.float64)
    x = torch.randn((50, 6), generator=generator, dtype=torch.float64).requires_grad_()
    h = torch.softmax(temperature * x @ w.T, dim=1)
    constants = probability_constants(torch.cdist(w, w)[None], None, temperature)[0]
    tight = probability_constants(torch.cdist(w, w)[None], largest_variance(h, h), temperature)
    for i in range(5):
        (gradient,) = torch.autograd.grad(h[:, i].sum(), x, retain_graph=True)
        assert bool((gradient.norm(dim=1) <= tight[:, i] * (1 + 1e-9)).all())
        assert float(gradient.norm(dim=1).max()) <= float(constants[i]) * (1 + 1e-9)


def test_the_paper_formula_holds_on_a_linear_map_where_it_certifies() -> None:
    generator = torch.Generator().manual_seed(4)
    w = torch.randn((4, 3), generator=generator, dtype=torch.float64)
    x = 3 * torch.randn((200, 3), generator=generator, dtype=torch.float64)
    logits = x @ w.T
    point = LogitsAtInputs(logits, logits.argmax(dim=1), 0.9)
    pairs = torch.cdist(w, w)[None].expand(200, -1, -1)
    radius = paper_radius(point, probability_constants(pairs, None, 1.0))
    assert bool((radius > 0).any())
    for _ in range(50):
        move = torch.randn((200, 3), generator=generator, dtype=torch.float64)
        move = move * (radius / move.norm(dim=1))[:, None]
        near = LogitsAtInputs((x + move) @ w.T, point.predicted, 0.9)
        assert bool((0.9 * least_margin(near)[radius > 0] > 0.1 - 1e-12).all())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 4.0))
def test_margin_constants_bound_the_gradient_of_the_margin(seed: int, temperature: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn((5, 6), generator=generator, dtype=torch.float64)
    x = torch.randn((50, 6), generator=generator, dtype=torch.float64).requires_grad_()
    logits = x @ w.T
    h = torch.softmax(temperature * logits, dim=1)
    for y in range(5):
        point = LogitsAtInputs(logits.detach(), torch.full((50,), y), 0.9, temperature)
        values = torch.cdist(w, w)[y].expand(50, -1)
        pointwise = margin_constants(point, values, h.detach(), h.detach())
        everywhere = margin_constants(point, values, None, None)
        for i in range(5):
            (gradient,) = torch.autograd.grad((h[:, y] - h[:, i]).sum(), x, retain_graph=True)
            assert bool((gradient.norm(dim=1) <= pointwise[:, i] * (1 + 1e-9)).all())
            assert bool((gradient.norm(dim=1) <= everywhere[:, i] * (1 + 1e-9)).all())


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.51, 1.0), st.sampled_from([1e-6, 0.3, 0.9, 0.999, 1.0]), st.booleans())
def test_stated_constants_leave_room_for_the_judges_and_still_prove_the_radius(
    seed: int, alpha: float, share: float, zeros: bool
) -> None:
    point = sure_point(seed, alpha)
    values = pair_table(seed, 5)[torch.arange(4), point.predicted]
    if zeros:
        values = torch.zeros_like(values)
    largest = bisected_radius(point, values.clamp(min=2.0**-400).masked_fill(point.own, 0.0), 1e-9)
    radius = share * largest
    stated = spacious_constants(point, values, radius)
    known = radius > 0
    assert bool((stated >= values).all())
    assert bool(((stated > 0) == ~point.own).all())
    assert bool(reaches(point, stated, radius)[known & torch.tensor(share < 1)].all())
    if 0.5 < share < 1 and not zeros:
        room = (stated / values)[known][~point.own[known]]
        assert bool((room >= 1 + 0.9 * (1 / share - 1) - 1e-6).all())

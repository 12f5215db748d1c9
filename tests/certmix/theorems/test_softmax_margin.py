"""Laws of certmix/theorems/softmax_margin.py: bounds over boxes, chords, knapsack, temperature."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from certmix.theorems.softmax_margin import (
    PassBound,
    box_margin,
    chords,
    knapsack,
    margin_with_pass,
    own_class,
    proves,
)

seeds = st.integers(0, 2**32 - 1)
temperatures = st.sampled_from([0.25, 1.0, 3.0, 8.0])


def boxes(seed: int, rows: int = 6, classes: int = 5, center: float = -1.5) -> tuple[torch.Tensor, ...]:
    """(lower, upper, predicted) of random logit-difference boxes, column y zero."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(center, 2.0, (rows, classes))
    reach = rng.exponential(1.0, (rows, classes)) * rng.choice([0.0, 0.1, 1.0, 3.0], (rows, 1))
    predicted = torch.from_numpy(rng.integers(0, classes, rows))
    own = own_class(predicted, classes)
    lower, upper = (torch.from_numpy(v).masked_fill(own, 0.0) for v in (middle - reach, middle + reach))
    return lower, upper, predicted


def margins_at(d: torch.Tensor, predicted: torch.Tensor, temperature: float) -> torch.Tensor:
    """h_y - h_i at logit differences d (..., N, K)."""
    p = torch.softmax(temperature * d, -1)
    return p.gather(-1, predicted.expand(d.shape[:-1])[..., None]) - p


def corners(lower: torch.Tensor, upper: torch.Tensor) -> torch.Tensor:
    """(2^K, N, K): all corners of the boxes."""
    classes = lower.shape[1]
    choice = torch.tensor([[n >> k & 1 for k in range(classes)] for n in range(2**classes)], dtype=torch.bool)
    return torch.where(choice[:, None, :], upper, lower)


@given(seeds, temperatures)
@settings(max_examples=60, deadline=None)
def test_the_box_margin_is_the_least_margin_over_all_corners(seed: int, temperature: float) -> None:
    lower, upper, predicted = boxes(seed)
    found = box_margin(lower, upper, predicted, temperature)
    # the margin is monotone in each coordinate while the others are fixed, so its minimum is at a corner
    least = margins_at(corners(lower, upper), predicted, temperature).amin(0)
    assert torch.allclose(found, least, rtol=1e-9, atol=1e-12)


@given(seeds, temperatures)
@settings(max_examples=60, deadline=None)
def test_no_point_of_the_box_has_a_smaller_margin(seed: int, temperature: float) -> None:
    lower, upper, predicted = boxes(seed)
    share = torch.rand((200, *lower.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed % 2**31))
    found = box_margin(lower, upper, predicted, temperature)
    assert (margins_at(lower + share * (upper - lower), predicted, temperature) >= found - 1e-12).all()


@given(seeds, temperatures, st.floats(1.0, 4.0))
@settings(max_examples=60, deadline=None)
def test_a_larger_temperature_never_lowers_the_margin_where_the_class_leads(
    seed: int, low: float, factor: float
) -> None:
    lower, upper, predicted = boxes(seed, center=-4.0)
    leads = ((upper < 0) | own_class(predicted, 5)).all(1)
    before, after = (box_margin(lower, upper, predicted, t)[leads] for t in (low, low * factor))
    assert (after >= before * (1 - 1e-12)).all()


def test_huge_logit_differences_give_no_nan() -> None:
    lower, upper = (
        torch.tensor([[0.0, -1e6, -5e5], [0.0, -10.0, 0.0]]).double(),
        torch.tensor([[0.0, 1e6, -4e5], [0.0, 2e5, 0.0]]).double(),
    )
    predicted = torch.tensor([0, 0])
    found = box_margin(lower, upper, predicted, 3.0)
    assert torch.isfinite(found).all()
    assert found[0, 1] == -1.0
    assert found[0, 2] == 0.0
    assert not proves(lower, upper, predicted, torch.tensor([1, 1]), torch.tensor([0.1, 0.1]).double(), 3.0, None).any()


@given(seeds, temperatures, st.floats(-0.95, 1.0))
@example(1_000_000_000, 3.0, 0.0)  # exponentials of 1e16, whose sums cancel
@settings(max_examples=100, deadline=None)
def test_no_violating_point_of_the_box_lies_above_its_chord(seed: int, temperature: float, required: float) -> None:
    """Soundness of (3b): every d of the box with margin < mu has F(d) <= intercept + c . d."""
    lower, upper, predicted = boxes(seed)
    rival = (predicted + 1) % 5
    mu = torch.full((len(predicted),), required, dtype=torch.float64)
    found = chords(lower, upper, predicted, rival, mu, temperature)
    share = torch.rand((400, *lower.shape), dtype=torch.float64, generator=torch.Generator().manual_seed(seed % 2**31))
    points = torch.cat([lower + share * (upper - lower), corners(lower, upper)])
    e = torch.exp(temperature * points).masked_fill(own_class(predicted, 5), 0.0)
    f = e.gather(2, rival.expand(len(points), -1)[..., None])[..., 0] + required * e.sum(2)
    violates = f > (1 - required)
    line = found.intercept + (found.coefficients * points).sum(2)
    scale = 1 + f.abs() + (found.coefficients * points).abs().sum(2)
    assert (line - f >= -1e-11 * scale)[violates].all()


@given(seeds, temperatures, st.floats(0.0, 1.0))
@settings(max_examples=100, deadline=None)
def test_the_exponential_form_proves_all_that_the_box_proves(seed: int, temperature: float, required: float) -> None:
    lower, upper, predicted = boxes(seed, center=-3.0)
    rival = (predicted + 1) % 5
    mu = torch.full((len(predicted),), required, dtype=torch.float64)
    box = box_margin(lower, upper, predicted, temperature).gather(1, rival[:, None])[:, 0]
    by_chord = proves(lower, upper, predicted, rival, mu, temperature, None)
    assert by_chord[box > mu + 1e-9].all()
    assert not by_chord[(box < mu - 1e-9)].any()  # over a box alone the two agree


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_the_knapsack_solves_its_linear_program(seed: int) -> None:
    rng = np.random.default_rng(seed)
    k = 6
    values, costs = rng.exponential(1, k) * (rng.random(k) < 0.9), rng.exponential(1, k) * (rng.random(k) < 0.9)
    lower = rng.normal(-2, 1, k)
    upper = lower + rng.exponential(1, k) * (rng.random(k) < 0.9)
    budget = costs @ lower + rng.uniform(-0.2, 1.2) * (costs @ (upper - lower))
    found = knapsack(
        *(torch.from_numpy(v)[None] for v in (values, costs)),
        torch.tensor([budget]),
        torch.from_numpy(lower)[None],
        torch.from_numpy(upper)[None],
    )
    exact = linprog(-values, costs[None], [budget], bounds=list(zip(lower, upper, strict=True)))
    if exact.status == 2:
        assert budget - costs @ lower < 1e-7  # empty up to the solver's tolerance
    else:
        assert found.item() == pytest.approx(-exact.fun, abs=1e-6) or abs(budget - costs @ lower) < 1e-7


@given(seeds, temperatures)
@settings(max_examples=40, deadline=None)
def test_a_stored_pass_never_weakens_and_never_exceeds_the_truth(seed: int, temperature: float) -> None:
    """Linear logit sets d = center + A v, |v| <= 1: the pass is exact, the true margin is sampled."""
    rng = np.random.default_rng(seed)
    rows, classes, directions = 4, 4, 3
    predicted = torch.zeros(rows, dtype=torch.int64)
    center = torch.from_numpy(rng.normal(-3, 1, (rows, classes)))
    matrix = torch.from_numpy(rng.normal(0, 1.0, (rows, classes, directions)))
    center[:, 0], matrix[:, 0] = 0.0, 0.0
    reach = matrix.abs().sum(2)
    lower, upper = center - reach, center + reach
    rival = torch.ones(rows, dtype=torch.int64)
    c = chords(lower, upper, predicted, rival, torch.full((rows,), 0.5).double(), 1.0).coefficients
    stored = PassBound(c, (c * center).sum(1) + (c[:, :, None] * matrix).sum(1).abs().sum(1))
    box = box_margin(lower, upper, predicted, temperature)[:, 1]
    found = margin_with_pass(lower, upper, predicted, rival, temperature, stored)
    v = torch.from_numpy(rng.choice([-1.0, 1.0], (3000, directions)) * rng.random((3000, 1)) ** 0.2)
    v = torch.cat([v, torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * directions)])
    truth = margins_at(center + torch.einsum("rkd,sd->srk", matrix, v), predicted, temperature)[:, :, 1].amin(0)
    assert (found >= box - 1e-12).all()
    assert (found <= truth + 1e-9).all()

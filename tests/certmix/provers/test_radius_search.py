"""The batched radius search finds the threshold of a monotone test."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from certmix.theorems.radius_search import largest_passing, largest_positive

RADII = st.floats(1e-6, 2.0, allow_nan=False)
THRESHOLDS = st.lists(RADII, min_size=1, max_size=5)
TOLERANCES = st.sampled_from([1e-2, 1e-3, 1e-6])
# decreasing slacks of radius / threshold, 0 where that is 1: straight, bent both ways, saturated, one with a jump
SLACKS = {
    "line": lambda q: 1 - q,
    "late": lambda q: 1 - q**6,
    "early": lambda q: 1 / (q + 0.05) - 1 / 1.05,
    "saturated": lambda q: torch.tanh(40 * (1 - q)),
    "jump": lambda q: torch.where(q <= 1, 1e-6 * (2 - q), -1.0),
    "infinite": lambda q: torch.where(q <= 1, torch.inf, -torch.inf),
}


@given(THRESHOLDS, TOLERANCES)
def test_the_result_passes_and_is_within_tolerance_of_the_threshold(thresholds: list[float], tolerance: float):
    truth = torch.tensor(thresholds, dtype=torch.float64)
    found = largest_passing(lambda i, r: r <= truth[i], len(truth), 1.0, tolerance)
    reachable = torch.clamp(truth, max=1.0)
    assert (found <= reachable).all()
    assert (found >= reachable * (1 - tolerance)).all()


@given(THRESHOLDS, TOLERANCES, st.sampled_from(list(SLACKS)))
def test_whatever_the_slack_looks_like_the_result_is_within_tolerance(
    thresholds: list[float], tolerance: float, shape: str
):
    truth = torch.tensor(thresholds, dtype=torch.float64)
    passed: set[tuple[int, float]] = set()

    def slack(indices: Tensor, radii: Tensor) -> Tensor:
        found = SLACKS[shape](radii / truth[indices])
        passed.update((int(i), float(r)) for i, r, s in zip(indices, radii, found, strict=True) if s > 0)
        return found

    found = largest_positive(slack, len(truth), 1.0, tolerance)
    reachable = torch.clamp(truth, max=1.0)
    assert (found <= reachable).all()
    assert (found >= reachable * (1 - tolerance) - 1e-15).all()
    assert all((k, radius) in passed for k, radius in enumerate(found.tolist()))


@given(THRESHOLDS, st.sampled_from(["line", "late", "early"]))
def test_slacks_save_trials(thresholds: list[float], shape: str):
    """A quarter of what bisection needs at least, where that is many."""
    truth = torch.tensor(thresholds, dtype=torch.float64).clamp(max=0.9)
    trials = [0, 0]

    def slack(indices: Tensor, radii: Tensor) -> Tensor:
        trials[0] += len(indices)
        return SLACKS[shape](radii / truth[indices])

    def passes(indices: Tensor, radii: Tensor) -> Tensor:
        trials[1] += len(indices)
        return radii <= truth[indices]

    largest_positive(slack, len(truth), 1.0, 1e-6)
    largest_passing(passes, len(truth), 1.0, 1e-6)
    assert trials[0] <= 0.75 * trials[1]


@given(THRESHOLDS)
def test_where_the_test_is_not_monotone_the_result_still_passed(thresholds: list[float]):
    truth = torch.tensor(thresholds, dtype=torch.float64)
    passed: set[tuple[int, float]] = set()

    def passes(indices: Tensor, radii: Tensor) -> Tensor:
        good = (radii * 37 % 1 < 0.5) & (radii <= truth[indices])
        passed.update((int(i), float(r)) for i, r in zip(indices[good], radii[good], strict=True))
        return good

    for k, radius in enumerate(largest_passing(passes, len(truth), 1.0, 1e-3).tolist()):
        assert radius == 0 or (k, radius) in passed


@given(THRESHOLDS, st.lists(st.floats(0.0, 10.0) | st.just(float("nan")), min_size=5, max_size=5))
def test_where_a_search_begins_does_not_say_where_it_ends(thresholds: list[float], guessed: list[float]):
    truth = torch.tensor(thresholds, dtype=torch.float64)
    guesses = torch.tensor(guessed[: len(truth)], dtype=torch.float64)

    def slack(indices: Tensor, radii: Tensor) -> Tensor:
        return 1 - radii / truth[indices]

    found, other = (largest_positive(slack, len(truth), 1.0, 1e-3, g) for g in (None, guesses))
    assert torch.equal(found, other)


def test_a_guess_saves_what_is_dear_trials_at_large_radii():
    tried: list[float] = []

    def slack(indices: Tensor, radii: Tensor) -> Tensor:
        tried.extend(radii.tolist())
        return 1 - radii / 2e-4

    largest_positive(slack, 1, 1.0, 1e-3, torch.tensor([3e-4]))
    assert max(tried) < 1e-3


def test_nothing_that_passes_gives_zero():
    found = largest_passing(lambda i, r: torch.zeros(len(i), dtype=torch.bool), 3, 1.0, 1e-3)
    assert (found == 0).all()


@pytest.mark.parametrize(("tolerance", "share", "cells"), [(1e-2, 100, 128), (1e-3, 1000, 1024)])
def test_a_search_ends_where_rounding_makes_a_bracket_of_one_grid_step_wider_than_the_tolerance(
    tolerance: float, share: int, cells: int
) -> None:
    """tolerance · high / limit is a power of two at high = 100/128 and 1000/1024 of the limit: the grid's step is the
    tolerance itself, up to rounding."""
    for limit in [0.2, 0.1, 0.3, 0.7, *(k / 997 for k in range(1, 60))]:
        edge, asked = limit * (share - 0.5) / cells, 0

        def passes(index: torch.Tensor, radii: torch.Tensor, edge: float = edge) -> torch.Tensor:
            nonlocal asked
            asked += 1
            assert asked < 100, "the search goes round in circles"
            return radii <= edge

        (found,) = largest_passing(passes, 1, limit, tolerance).tolist()
        assert edge * (1 - 2 * tolerance) <= found <= edge

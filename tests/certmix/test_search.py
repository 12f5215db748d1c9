"""The batched radius search finds the threshold of a monotone test."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from certmix.search import largest_passing

RADII = st.floats(1e-6, 2.0, allow_nan=False)


@given(st.lists(RADII, min_size=1, max_size=5), st.sampled_from([1e-2, 1e-3, 1e-6]))
def test_the_result_passes_and_is_within_tolerance_of_the_threshold(thresholds: list[float], tolerance: float):
    truth = torch.tensor(thresholds, dtype=torch.float64)
    found = largest_passing(lambda i, r: r <= truth[i], len(truth), 1.0, tolerance)
    reachable = torch.clamp(truth, max=1.0)
    assert (found <= reachable).all()
    assert (found >= reachable * (1 - tolerance)).all()


@given(st.lists(RADII, min_size=1, max_size=5))
def test_where_the_test_is_not_monotone_the_result_still_passed(thresholds: list[float]):
    truth = torch.tensor(thresholds, dtype=torch.float64)
    passed: set[tuple[int, float]] = set()

    def passes(indices: Tensor, radii: Tensor) -> Tensor:
        good = (radii * 37 % 1 < 0.5) & (radii <= truth[indices])
        passed.update((int(i), float(r)) for i, r in zip(indices[good], radii[good], strict=True))
        return good

    for k, radius in enumerate(largest_passing(passes, len(truth), 1.0, 1e-3).tolist()):
        assert radius == 0 or (k, radius) in passed


def test_nothing_that_passes_gives_zero():
    found = largest_passing(lambda i, r: torch.zeros(len(i), dtype=torch.bool), 3, 1.0, 1e-3)
    assert (found == 0).all()

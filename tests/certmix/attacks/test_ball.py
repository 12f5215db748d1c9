"""Every float32 iterate lies in ball and box, checked in rational arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from certmix.attacks.ball import Ball, make_ball
from certmix.errors import UsageError
from proofs_check.certificate import Norm

NORMS: list[Norm] = ["Linf", "L2", "L1"]
RADII = st.one_of(
    st.just(0.0),
    st.floats(1e-12, 2.0),
    st.sampled_from([2 / 255, 8 / 255, 0.1, 0.5, 1e-200, 1e-42, 2.0**-24, 2.0**-149, 3e5]),
)


def exact_size(points: torch.Tensor, center: torch.Tensor, norm: Norm) -> list[Fraction]:
    """The norm of each row (its square for L2), exactly."""
    sizes: list[Fraction] = []
    for p, c in zip(points.flatten(1).tolist(), center.flatten(1).tolist(), strict=True):
        offsets = [abs(Fraction(a) - Fraction(b)) for a, b in zip(p, c, strict=True)]
        sizes.append({"Linf": max(offsets), "L1": sum(offsets), "L2": sum(o * o for o in offsets)}[norm])
    return sizes


def check_inside(ball: Ball, points: torch.Tensor, domain: tuple[float, float] | None) -> None:
    assert points.dtype == torch.float32
    assert bool(torch.isfinite(points).all())
    for size, radius in zip(exact_size(points, ball.center, ball.norm), ball.radius.tolist(), strict=True):
        assert size <= Fraction(radius) ** (2 if ball.norm == "L2" else 1)
    if domain is not None:
        assert all(Fraction(domain[0]) <= Fraction(v) <= Fraction(domain[1]) for v in points.flatten().tolist())


def unit_arrays(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    elements = st.one_of(
        st.floats(0, 1, width=32), st.sampled_from([0.0, 1.0, 1e-40, 1.17549435e-38, 0.5, float(np.float32(0.1))])
    )
    return hnp.arrays(np.float32, shape, elements=elements)


@settings(max_examples=150, deadline=None)
@given(
    x=unit_arrays((3, 2, 4)),
    y=hnp.arrays(np.float32, (3, 2, 4), elements=st.floats(-4, 4, width=32)),
    radii=st.lists(RADII, min_size=3, max_size=3),
    norm=st.sampled_from(NORMS),
    domain=st.sampled_from([None, (0.0, 1.0), (-0.1, 1.1)]),
)
def test_projections_lie_in_ball_and_box_exactly(
    x: np.ndarray, y: np.ndarray, radii: list[float], norm: Norm, domain: tuple[float, float] | None
) -> None:
    ball = make_ball(torch.from_numpy(x), torch.tensor(radii, dtype=torch.float64), norm, domain)
    once = ball.project(torch.from_numpy(y))
    check_inside(ball, once, domain)
    near = ball.project(torch.nextafter(once, torch.full_like(once, 9.0)))
    check_inside(ball, near, domain)
    check_inside(ball, ball.step(once, torch.from_numpy(y), ball.radius), domain)


@settings(max_examples=60, deadline=None)
@given(
    x=unit_arrays((2, 5)),
    radius=RADII,
    norm=st.sampled_from(NORMS),
    domain=st.sampled_from([None, (0.0, 1.0)]),
    seed=st.integers(0, 10**6),
)
def test_random_starts_lie_in_ball_and_box_exactly(
    x: np.ndarray, radius: float, norm: Norm, domain: tuple[float, float] | None, seed: int
) -> None:
    ball = make_ball(torch.from_numpy(x), radius, norm, domain)
    check_inside(ball, ball.random(torch.Generator().manual_seed(seed)), domain)


@settings(max_examples=80, deadline=None)
@given(x=unit_arrays((1, 6)), radius=st.floats(1e-9, 2.0), domain=st.sampled_from([None, (0.0, 1.0)]))
def test_the_linf_box_is_the_largest_one_of_float32_numbers(
    x: np.ndarray, radius: float, domain: tuple[float, float] | None
) -> None:
    ball = make_ball(torch.from_numpy(x), radius, "Linf", domain)
    low, high = (None, None) if domain is None else map(Fraction, domain)
    beyond = np.nextafter(ball.upper.numpy(), np.float32(np.inf)).ravel().tolist()
    below = np.nextafter(ball.lower.numpy(), np.float32(-np.inf)).ravel().tolist()
    for v, over, under in zip(x.ravel().tolist(), beyond, below, strict=True):
        assert Fraction(over) - Fraction(v) > Fraction(radius) or (high is not None and Fraction(over) > high)
        assert Fraction(v) - Fraction(under) > Fraction(radius) or (low is not None and Fraction(under) < low)


@settings(max_examples=60, deadline=None)
@given(
    x=unit_arrays((1, 5)),
    y=hnp.arrays(np.float32, (1, 5), elements=st.floats(-2, 2, width=32)),
    radius=st.floats(0.01, 2.0),
    norm=st.sampled_from(NORMS),
    seed=st.integers(0, 1000),
)
def test_no_point_of_the_set_is_nearer_than_the_projection(
    x: np.ndarray, y: np.ndarray, radius: float, norm: Norm, seed: int
) -> None:
    """Variational inequality of the Euclidean projection: (y − p)·(z − p) ≤ 0 for every z in the set."""
    ball = make_ball(torch.from_numpy(x), radius, norm, (0.0, 1.0))
    target = torch.from_numpy(y)
    nearest = ball.project(target).double()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(5):
        other = ball.random(generator).double()
        assert float(((target.double() - nearest) * (other - nearest)).sum()) <= 1e-5


def test_bad_balls_are_refused_with_the_value_that_caused_it() -> None:
    x = torch.rand(2, 3)
    with pytest.raises(UsageError, match="float32"):
        make_ball(x.double(), 0.1, "Linf", None)
    with pytest.raises(UsageError, match=r"-0\.1"):
        make_ball(x, -0.1, "Linf", None)
    with pytest.raises(UsageError, match="not finite"):
        make_ball(torch.full((1, 2), torch.nan), 0.1, "L2", None)
    with pytest.raises(UsageError, match="domain"):
        make_ball(x + 2, 0.1, "L1", (0.0, 1.0))

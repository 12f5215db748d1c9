"""Noise on the grid: exact law, reproducible, and independent of how it is batched."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, norm
from torch import Tensor, nn

from verifiers.smoothing import sampling
from verifiers.smoothing.sampling import Base, GridNoise, Job, SamplingError


class FirstCoordinate(nn.Module):
    """Logits ±x_0: a half-space, with exact float arithmetic in any batch. Keeps the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        return torch.stack([x[:, 0], -x[:, 0]], dim=1)


class Constant(nn.Module):
    """The same row for every input."""

    def __init__(self, row: list[float]) -> None:
        super().__init__()
        self.row = torch.tensor(row)

    def forward(self, x: Tensor) -> Tensor:
        return self.row.expand(len(x), -1)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 40), max_size=4), size=st.integers(1, 23), start=st.integers(0, 10**9))
def test_a_draw_depends_on_seed_input_stage_and_number_only(cuts: list[int], size: int, start: int) -> None:
    noise = GridNoise(0.4, 255)
    whole = noise.draw(7, 3, 1, start, 41, size)
    ends = sorted({0, 41, *cuts})
    pieces = [noise.draw(7, 3, 1, start + a, b - a, size) for a, b in pairwise(ends)]
    assert np.array_equal(whole, np.concatenate(pieces))


def test_streams_of_other_seeds_inputs_and_stages_differ() -> None:
    noise = GridNoise(0.4, 255)
    streams = [noise.draw(*key, 0, 50, 8) for key in ((1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))]
    for i, a in enumerate(streams):
        for b in streams[:i]:
            assert np.mean(a == b) < 0.1


@pytest.mark.parametrize(("noise_std", "grid"), [(0.12, 255), (0.5, 255), (0.02, 64), (2.0, 16)])
def test_noise_has_the_law_of_a_rounded_gaussian(noise_std: float, grid: int) -> None:
    drawn = GridNoise(noise_std, grid).draw(0, 0, 1, 0, 4000, 50).ravel()
    scale = noise_std * grid
    edges = np.unique(np.floor(norm.ppf(np.linspace(0.001, 0.999, 60)) * scale))
    masses = np.diff(np.concatenate([[0.0], norm.cdf((edges + 0.5) / scale), [1.0]]))
    cells = np.bincount(np.searchsorted(edges, drawn, side="left"), minlength=len(edges) + 1)
    assert chisquare(cells, masses * len(drawn)).pvalue > 1e-6


def test_every_word_is_inverted_as_the_quantile_function_says() -> None:
    noise = GridNoise(0.5, 255)
    words = np.random.default_rng(1).integers(0, 2**64, 50_000, dtype=np.uint64)
    exact = norm.ppf(words / 2.0**64) * 0.5 * 255
    found = noise._invert(words)
    settled = np.abs(exact - np.rint(exact)) < 0.4999  # scipy's own error must not decide
    assert settled.mean() > 0.99
    assert np.array_equal(found[settled], np.rint(exact[settled]).astype(np.int32))


def test_the_ends_of_the_word_range_are_the_far_tails() -> None:
    noise = GridNoise(0.5, 255)
    low, middle, high = noise._invert(np.array([0, 2**63, 2**64 - 1], dtype=np.uint64))
    assert middle == 0
    assert high == -low
    assert 8.9 < high / (0.5 * 255) <= 9.1


@settings(max_examples=20, deadline=None)
@given(batch_size=st.integers(1, 70))
def test_outputs_do_not_depend_on_the_batch_size_and_memory_is_one_batch(batch_size: int) -> None:
    noise = GridNoise(0.3, 255)
    centres = sampling.grid_points(np.array([[0.1, 0.2], [0.5, 0.0], [0.9, 0.9]], np.float32), 255)
    jobs = [Job(0, 10, 0, 25), Job(1, 11, 0, 25), Job(2, 12, 5, 9)]

    def collect(size: int) -> tuple[list[np.ndarray], int]:
        module = FirstCoordinate()
        rows: list[list[np.ndarray]] = [[], [], []]
        for part, outputs in sampling.sample(Base(module), noise, centres, jobs, 1, 1, size):
            rows[part.row].append(outputs)
        return [np.concatenate(r) for r in rows], max(module.batches)

    expected, _ = collect(1000)
    found, largest = collect(batch_size)
    assert largest <= batch_size
    for a, b in zip(expected, found, strict=True):
        assert np.array_equal(a, b)


def test_noisy_points_are_the_float32_numbers_nearest_to_the_grid() -> None:
    noise = GridNoise(0.5, 255)
    centre = sampling.grid_points(np.array([0.2, 1.0, 0.0], np.float32), 255)
    points = sampling._points(noise, centre, Job(0, 4, 0, 30), 2, 1)
    drawn = noise.draw(2, 4, 1, 0, 30, 3) + centre
    assert points.dtype == np.float32
    assert np.array_equal(points, (drawn.astype(np.longdouble) / 255).astype(np.float32))


def test_hard_votes_go_to_the_lowest_of_tied_classes() -> None:
    base = Base(Constant([0.0, 2.0, 2.0]), kind="hard")
    assert np.array_equal(base.outputs(torch.zeros(2, 3)), [[0, 1, 0], [0, 1, 0]])


def test_temperature_and_the_mix_of_both_networks_enter_the_base_output() -> None:
    x = torch.zeros(1, 3)
    alone = Base(Constant([0.0, 1.0]), temperature=3.0).outputs(x)[0]
    assert alone == pytest.approx([1 / (1 + np.exp(3)), 1 / (1 + np.exp(-3))])
    both = Base(Constant([0.0, 1.0]), temperature=3.0, standard=Constant([0.0, 0.0]), alpha=0.25).outputs(x)[0]
    assert both == pytest.approx(0.75 * 0.5 + 0.25 * alone)


@pytest.mark.parametrize("row", [[float("nan"), 0.0], [float("inf"), 0.0]])
def test_outputs_that_are_not_finite_are_refused(row: list[float]) -> None:
    with pytest.raises(SamplingError, match="not finite"):
        Base(Constant(row)).outputs(torch.zeros(1, 2))


@pytest.mark.parametrize("row", [[1.4, -0.4], [0.4, 0.4]])
def test_probabilities_that_are_none_are_refused(row: list[float]) -> None:
    with pytest.raises(SamplingError, match="add up to 1"):
        Base(Constant(row), returns="probabilities").outputs(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("noise_std", "grid"), [(0.0, 255), (-1.0, 255), (float("nan"), 255), (0.001, 255), (99.0, 255)]
)
def test_noise_that_the_grid_cannot_carry_is_refused(noise_std: float, grid: int) -> None:
    with pytest.raises(SamplingError, match="noise_std"):
        GridNoise(noise_std, grid)


def test_stored_images_lie_on_the_grid_of_their_pixels() -> None:
    images = np.arange(256, dtype=np.uint8).astype(np.float32) / np.float32(255)
    assert np.array_equal(sampling.grid_points(images, 255), np.arange(256))
    assert sampling.grid_distance(images, 255) < 1e-6


def test_the_sampler_share_is_far_below_any_failure_probability() -> None:
    assert 0 < GridNoise(0.5, 255).sampler_share(100_000, 3072) < 1e-6


def test_inputs_that_float32_cannot_place_on_the_grid_are_refused() -> None:
    centres = sampling.grid_points(np.array([[7e4]], np.float32), 255)
    with pytest.raises(SamplingError, match="too large for the grid"):
        next(sampling.sample(Base(FirstCoordinate()), GridNoise(0.5, 255), centres, [Job(0, 0, 0, 1)], 0, 1, 8))


def test_mixed_precision_is_used_where_asked_for() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 3)
    x = torch.rand(50, 64)
    exact, mixed = Base(linear).outputs(x), Base(linear, precision="bfloat16").outputs(x)
    assert not np.array_equal(exact, mixed)
    assert np.abs(exact - mixed).max() < 0.05

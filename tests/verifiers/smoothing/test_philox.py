"""Noise drawn on a device has the bits of numpy's generator. CERTMIX_DEVICE names the device (`make test-gpu`)."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from verifiers.smoothing import philox, sampling
from verifiers.smoothing.sampling import Base, GridNoise, Job

DEVICE = torch.device(os.environ.get("CERTMIX_DEVICE", "cpu"))
whole = st.integers(0, 2**64 - 1)


@given(whole, whole, st.integers(0, 2), st.integers(0, 2**40), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_words_are_numpys(seed: int, index: int, stage: int, first: int, blocks: int) -> None:
    key, counter = (np.array(v, dtype=np.uint64) for v in ([seed, index], [first, 0, 0, stage]))
    wanted = np.random.Philox(key=key, counter=counter).random_raw(4 * blocks)
    found = philox.words(seed, index, stage, first, blocks, DEVICE).cpu().numpy().view(np.uint64)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(("noise_std", "grid"), [(0.5, 255), (0.01, 255), (1.0, 16384), (12.0, 1)])
def test_draws_are_the_same_numbers(noise_std: float, grid: int) -> None:
    noise = GridNoise(noise_std, grid)
    for size in (1, 7, 64):
        given = (3, 11, 1, 1000, 700, size)
        assert np.array_equal(noise.draw_on(DEVICE, *given).cpu().numpy(), noise.draw(*given))


def test_points_have_the_same_bits() -> None:
    noise, rng = GridNoise(0.25, 255), np.random.default_rng(0)
    centre, part = rng.integers(0, 256, (3, 8, 8)), Job(0, 5, 17, 217)
    found = sampling.points_on(DEVICE, noise, centre, part, 1, 0).cpu().numpy()
    wanted = sampling._points(noise, centre, part, 1, 0)
    assert found.dtype == wanted.dtype == np.float32
    assert found.tobytes() == wanted.tobytes()


def test_samples_are_drawn_in_order_whatever_the_batches() -> None:
    """A batch is drawn ahead while another is run; on a device a linear model's classes are those of the processor."""
    noise, rng = GridNoise(0.25, 255), np.random.default_rng(0)
    centres = rng.integers(0, 256, (3, 4))
    jobs = [Job(row, row, 0, 40) for row in range(3)]

    def classes(device: str, batch: int) -> list[tuple[int, int, list[int]]]:
        torch.manual_seed(0)
        base = Base(torch.nn.Linear(4, 3).to(device), kind="hard", device=device)
        return [
            (part.row, start, outputs[start - part.start].astype(int).tolist())
            for part, outputs in sampling.sample(base, noise, centres, jobs, 2, 1, batch)
            for start in range(part.start, part.stop)
        ]

    wanted = classes("cpu", 120)
    assert [(row, start) for row, start, _ in wanted] == [(row, k) for row in range(3) for k in range(40)]
    for batch in (1, 7, 40, 64):
        assert classes(str(DEVICE), batch) == wanted

"""Noise, softmax and counts that stay on a device against the processor's. CERTMIX_DEVICE names it (`make test-gpu`);
without, the same code runs on the processor."""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from certmix.provers.smoothing.plan import Statistic
from certmix.provers.smoothing.tally import Tally
from verifiers.smoothing import sampling
from verifiers.smoothing.sampling import Base, GridNoise, Job, SamplingError

DEVICE = os.environ.get("CERTMIX_DEVICE", "cpu")
STATISTICS = (
    Statistic("difference", (1, 2), (-0.5, 0.0, 0.25, 0.9)),
    Statistic("predicted", (), (0.1, 0.5, 1.0)),
    Statistic("complement", (1,), (0.3, 0.30001, 0.999)),
)


@given(st.integers(0, 2**32 - 1), st.booleans(), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_counts_on_a_device_are_numpys(seed: int, votes: bool, count: int) -> None:
    """The same numbers, ties with thresholds among them, are counted alike."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 11, (count, 3)) / 10.0
    outputs = np.eye(3)[values.argmax(axis=1)] if votes else values
    for statistic in STATISTICS:
        for predicted in (0, 2):
            found = statistic.counts(torch.from_numpy(outputs).to(DEVICE), predicted)
            assert found.dtype == np.int64
            assert np.array_equal(found, statistic.counts(outputs, predicted))


class Rows(nn.Module):
    """A fixed linear model of float64, so that devices differ in softmax alone."""

    def __init__(self, classes: int, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(scale * torch.randn(12, classes, dtype=torch.float64), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).double() @ self.weight


def bases(kind: str, both: bool, returns: str = "logits") -> tuple[Base, Base]:
    """On the processor, and on the device."""
    found = []
    for device, resident in (("cpu", False), (DEVICE, True)):
        h, g = (Rows(4, scale).to(device).eval() for scale in (3.0, 20.0))
        if returns == "probabilities":
            h, g = (nn.Sequential(m, nn.Softmax(dim=1)) for m in (h, g))
        found.append(
            Base(h, kind, 1.5, g if both else None, 0.7, returns, device=device, resident=resident)  # type: ignore[arg-type]
        )
    return found[0], found[1]


@pytest.mark.parametrize("returns", ["logits", "probabilities"])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_outputs_that_stay_are_the_processors(kind: str, both: bool, returns: str) -> None:
    here, there = bases(kind, both, returns)
    noise, rng = GridNoise(0.5, 255), np.random.default_rng(0)
    centres = rng.integers(0, 256, (2, 3, 2, 2))
    jobs = [Job(0, 5, 0, 130), Job(1, 9, 7, 100)]
    found = [list(sampling.sample(base, noise, centres, jobs, 3, 1, 64)) for base in (here, there)]
    assert [part for part, _ in found[0]] == [part for part, _ in found[1]]
    for (_, wanted), (_, stays) in zip(*found, strict=True):
        assert isinstance(wanted, np.ndarray)
        assert isinstance(stays, Tensor)
        assert stays.device.type == torch.device(DEVICE).type
        assert stays.dtype == torch.float64
        if kind == "hard":
            assert np.array_equal(sampling.on_processor(stays), wanted)
        else:
            assert np.allclose(sampling.on_processor(stays), wanted, rtol=1e-13, atol=1e-300)


def test_a_tally_adds_up_the_same_from_either() -> None:
    here, there = bases("soft", both=False)
    noise, centres = GridNoise(0.5, 255), np.random.default_rng(1).integers(0, 256, (1, 3, 2, 2))
    from certmix.provers.smoothing.plan import choose

    first = np.concatenate([o for _, o in sampling.sample(here, noise, centres, [Job(0, 0, 0, 200)], 3, 0, 64)])
    plan = choose(first, "distributional", 1000, 0.001, 0.9, 0.1)
    totals = []
    for base in (here, there):
        tally = Tally.start(0, first.mean(axis=0), [plan])
        for part, outputs in sampling.sample(base, noise, centres, [Job(0, 0, 0, 1000)], 3, 1, 96):
            tally.add(part.start, outputs, 250)
        totals.append(tally)
    assert sum(int(c.sum()) for c in totals[0].totals(0)) > 0
    for a, b in zip(totals[0].counts[0], totals[1].counts[0], strict=True):
        assert np.array_equal(a, b)


def test_the_lowest_of_tied_classes_wins_there_too() -> None:
    class Tied(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([[0.0, 2.0, 2.0, 2.0]], device=x.device).expand(len(x), -1)

    found = Base(Tied(), kind="hard", device=DEVICE, resident=True).outputs(torch.zeros(70, 3, device=DEVICE))
    assert sampling.on_processor(found).argmax(axis=1).tolist() == [1] * 70


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_on_the_device(value: float) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 2), value, device=x.device)

    with pytest.raises(SamplingError, match="not finite"):
        Base(Broken(), device=DEVICE, resident=True).outputs(torch.zeros(2, 3, device=DEVICE))


def test_cuda_keeps_its_outputs_and_a_processor_does_not() -> None:
    base = Base(Rows(2, 1.0))
    assert not base.stays
    assert dataclasses.replace(base, device="cuda:1").stays
    assert not dataclasses.replace(base, device="cuda", resident=False).stays

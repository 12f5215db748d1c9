"""LipSDP's descent by torch against that by numpy. CERTMIX_DEVICE names the device (`make test-gpu`); without, the
same code runs on the processor."""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np
import pytest
import torch
from small_networks import mlp

from verifiers.lipschitz.jacobian import unrestricted_slopes
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.lipschitz.lipsdp import LipSDP, Rho, increments, scaled
from verifiers.lipschitz.lipsdp_on_device import RhoOnDevice

DEVICE = torch.device(os.environ.get("CERTMIX_DEVICE", "cpu"))
ROWS = np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])


def problems(widths: tuple[int, ...]) -> tuple[Rho, RhoOnDevice, np.ndarray]:
    """On the processor, on the device, and multipliers that are feasible."""
    maps = LinearMaps(mlp(2, widths))
    slopes = unrestricted_slopes(maps)
    here = Rho.of(increments(maps, slopes, 512), ROWS[0])
    found = LipSDP(max_steps=20, max_cone_neurons=0).bounds(maps, ROWS[:1], slopes)[0].multipliers.astype(np.float64)
    return here, RhoOnDevice.of(here.a, here.b, here.ell0, here.ellw, DEVICE), found


@pytest.mark.parametrize("widths", [(5, 8, 7, 3), (30, 6, 3)])
@pytest.mark.parametrize("power", [64.0, 4096.0])
def test_rho_and_its_slope_are_those_of_numpy(widths: tuple[int, ...], power: float) -> None:
    here, there, near = problems(widths)
    rng = np.random.default_rng(0)
    feasible = 0
    start, again = scaled(here, near), scaled(there, near)
    assert start is not None
    assert again is not None
    assert np.allclose(start, again, rtol=1e-9)
    for k in range(10):
        t = start * rng.uniform(1 - 0.08 * k, 1 + 0.08 * k, len(here.b))
        assert there.value(t) == pytest.approx(here.value(t), rel=1e-9)
        wanted, found = here.smoothed(t, power), there.smoothed(t, power)
        assert (wanted is None) == (found is None) == (here.value(t) == math.inf)
        if wanted is not None and found is not None:
            feasible += 1
            assert found[0] == pytest.approx(wanted[0], rel=1e-9)
            assert np.allclose(found[1], wanted[1], rtol=1e-6, atol=1e-9 * np.abs(wanted[1]).max())
        first, second = here.energy(t), there.energy(t)
        assert (first is None) == (second is None)
        assert first is None or second == pytest.approx(first, rel=1e-9)
    assert feasible > 2


def test_what_is_infeasible_is_so_there_too() -> None:
    here, there, _ = problems((5, 8, 7, 3))
    t = np.full(len(here.b), 1e-9)
    assert here.smoothed(t, 64.0) is there.smoothed(t, 64.0) is None
    assert here.value(t) == there.value(t) == math.inf


def test_bounds_by_a_descent_there_are_as_good_and_proven_here() -> None:
    maps = LinearMaps(mlp(2, (5, 8, 7, 3)), DEVICE)
    slopes = unrestricted_slopes(maps)
    solver = LipSDP(max_steps=100, max_cone_neurons=0, on_device=False)
    wanted = solver.bounds(maps, ROWS, slopes)
    found = dataclasses.replace(solver, on_device=True).bounds(maps, ROWS, slopes)
    for one, other in zip(wanted, found, strict=True):
        assert other.constant == pytest.approx(one.constant, rel=1e-3)
        assert len(other.multipliers) == 15


def test_the_descent_is_where_the_network_is_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = LinearMaps(mlp(2, (5, 8, 3)))
    system = increments(maps, unrestricted_slopes(maps), 512)
    made: list[torch.device] = []
    monkeypatch.setattr(RhoOnDevice, "of", lambda *a: made.append(a[-1]))
    assert isinstance(LipSDP().problem(system, ROWS[0], torch.device("cpu")), Rho)
    LipSDP().problem(system, ROWS[0], torch.device("cuda"))
    LipSDP(on_device=True).problem(system, ROWS[0], torch.device("cpu"))
    assert made == [torch.device("cuda"), torch.device("cpu")]

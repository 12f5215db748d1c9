"""Estimates stay below the truth, and reach it where it is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_networks import DUAL, NORMS, ORDER, array

from proofs_check import certificate as c
from verifiers.lipschitz.constants import difference_forms, local_bounds, local_constants
from verifiers.lipschitz.estimate import Search, estimate, sampled
from verifiers.lipschitz.linear_maps import LinearMaps
from verifiers.network.module import PlainModule, build
from verifiers.perturbation import Balls


def network(seed: int, pool: bool = False) -> c.PlainNetwork:
    g = np.random.default_rng(seed)

    head: list[c.Node] = [
        c.Input((1, 4, 4)),
        c.Conv2d((0,), array(g, 3, 1, 3, 3), array(g, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
        c.Relu((1,)),
    ]
    if pool:
        head.append(c.MaxPool2d((2,), (2, 2), (2, 2), (0, 0, 0, 0)))
    size = 12 if pool else 48
    tail: list[c.Node] = [
        c.Flatten((len(head) - 1,)),
        c.Linear((len(head),), array(g, 6, size), array(g, 6)),
        c.Tanh((len(head) + 1,)),
        c.Linear((len(head) + 2,), array(g, 3, 6), array(g, 3)),
    ]
    return build([*head, *tail])


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("domain", [None, (0.0, 1.0)])
def test_sampled_stays_below_certified_and_estimate_stays_below_certified(
    norm: c.Norm, domain: tuple[float, float] | None
) -> None:
    for seed in range(4):
        net = network(seed, pool=seed % 2 == 0)
        maps = LinearMaps(net)
        x = torch.rand((3, 1, 4, 4), generator=torch.Generator().manual_seed(seed)).float()
        radius = torch.tensor([1e-4, 0.05, 0.8], dtype=torch.float64)
        predicted = PlainModule(net)(x).argmax(1)
        known = local_bounds(maps, x, radius, norm, domain)
        rows = difference_forms(3, predicted)
        samples = torch.randn((20, 3, 1, 4, 4), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        samples = known.balls.center + samples * radius.reshape(3, 1, 1, 1)  # moved into the balls where outside
        found = estimate(maps, known.balls, rows, Search(8, 3, seed), samples)
        certified = local_constants(known, predicted)
        assert bool((sampled(maps, known.balls, rows, samples) <= found.quotient).all())
        assert bool((found.best <= certified).all())
        assert bool((found.best[torch.arange(3), predicted] == 0).all())
        move = (found.points - known.balls.center[:, None]).flatten(2)
        size = torch.linalg.vector_norm(move, ord=ORDER[norm], dim=2)
        assert bool((size <= radius[:, None]).all())
        if domain is not None:
            assert bool(((found.points >= 0) & (found.points <= 1)).all())


@pytest.mark.parametrize("norm", NORMS)
def test_on_a_linear_network_the_estimate_is_the_constant_and_not_a_hair_above(norm: c.Norm) -> None:
    g = np.random.default_rng(2)
    weight = g.normal(size=(4, 9)).astype(np.float32)
    net = build([c.Input((9,)), c.Linear((0,), weight, np.zeros(4, np.float32))])
    maps = LinearMaps(net)
    balls = Balls(torch.rand(2, 9).double(), torch.tensor([0.1, 2.0], dtype=torch.float64), norm, None)
    found = estimate(maps, balls, difference_forms(4, torch.tensor([1, 3])), Search(40, 4, dtype=torch.float64))
    for n, y in enumerate((1, 3)):
        rows = weight.astype(np.float64) - weight[y].astype(np.float64)
        exact = np.linalg.norm(rows, ord=DUAL[norm], axis=1)
        assert (found.best[n].numpy() <= exact * (1 + 1e-15)).all()
        assert (found.gradient[n].numpy() >= exact * (1 - 1e-12)).all()
        assert (found.quotient[n].numpy() >= exact * 0.9).all()


def test_given_samples_an_estimate_is_never_below_them_however_short_the_search() -> None:
    maps = LinearMaps(network(3))
    balls = Balls(torch.rand(2, 1, 4, 4).double(), torch.tensor([0.3, 1.0], dtype=torch.float64), "Linf", None)
    rows = difference_forms(3, torch.tensor([0, 2]))
    samples = balls.center + 2 * torch.rand((200, 2, 1, 4, 4), dtype=torch.float64) - 1
    alone = estimate(maps, balls, rows, Search(1, 1))
    found = estimate(maps, balls, rows, Search(1, 1), samples)
    quotients = sampled(maps, balls, rows, samples)
    assert bool((quotients <= found.quotient).all())
    assert bool((quotients > alone.quotient).any()), "200 samples beat one step"
    assert bool((alone.best <= found.best).all())


def test_the_attack_beats_random_sampling_of_difference_quotients() -> None:
    net = network(7)
    maps = LinearMaps(net)
    x = torch.rand((1, 1, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    balls = Balls(x.double(), torch.tensor([0.3], dtype=torch.float64), "L2", None)
    rows = difference_forms(3, torch.tensor([0]))
    found = estimate(maps, balls, rows, Search(30, 10))
    model = PlainModule(net).double()
    move = torch.randn((300, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    move = move * 0.3 / torch.linalg.vector_norm(move.flatten(1), dim=1).reshape(-1, 1, 1, 1)
    gap = (model(x.double() + move) - model(x.double())) @ rows[0].T
    assert bool((found.quotient[0, 1:] > (gap.abs() / 0.3).amax(0)[1:]).all())


def test_a_radius_of_zero_and_an_empty_search_are_refused_with_their_value() -> None:
    maps = LinearMaps(network(0))
    balls = Balls(torch.zeros(1, 1, 4, 4).double(), torch.zeros(1).double(), "L2", None)
    with pytest.raises(ValueError, match="radius must be > 0, got 0"):
        estimate(maps, balls, difference_forms(3, torch.tensor([0])), Search())
    with pytest.raises(ValueError, match="restarts must be >= 1"):
        Search(restarts=0)

"""The network of unstable neurons against the network itself: the same values, and the same bounds."""

from __future__ import annotations

import pytest
import torch
from small_networks import NORMS, every_layer, mlp
from torch import Tensor

from proofs_check import certificate as c
from verifiers.branching.compact import Compact, compact
from verifiers.crown.backward import IntermediateBounds, concretizations
from verifiers.crown.intermediate import value_bounds
from verifiers.crown.network import prepare
from verifiers.linear_forms.forms import DenseForms, consecutive_forms
from verifiers.network.module import PlainModule
from verifiers.perturbation import Balls

NETWORKS = {
    "relu": mlp(1, (5, 9, 8, 4)),
    "leaky": mlp(2, (5, 9, 8, 4), "leaky"),
    "tanh": mlp(3, (4, 6, 5, 3), "tanh"),
    "every layer": every_layer(4),
}


ROUGHLY = {"Linf": 1e-4, "L2": 1e-2, "L1": 1e-4}  # how a form is split between ball and box is not followed in L2


def made(network: c.PlainNetwork, norm: c.Norm) -> tuple[IntermediateBounds, Compact]:
    x = torch.rand(1, *network.input_shape, generator=torch.Generator().manual_seed(0))
    balls = Balls(x, torch.tensor([0.2], dtype=torch.float64), norm, (0.0, 1.0))
    net = prepare(network, torch.float64, torch.device("cpu"))
    bounds = value_bounds(net, balls.boxed(torch.float64), None)
    return bounds, compact(bounds)


def forms(classes: int) -> Tensor:
    return torch.randn(6, classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_are_those_of_the_whole_network(name: str, norm: c.Norm):
    bounds, small = made(NETWORKS[name], norm)
    asked, slopes = forms(NETWORKS[name].classes), bounds.slopes
    own = small.by_neuron(slopes).expand(6, -1)
    lines = small.lines(small.lower.expand(6, -1), small.upper.expand(6, -1)).choose(torch.maximum(own, small.leak))
    found = small.backward(asked, lines, torch.zeros_like(own))
    last = {len(bounds.net.layers) - 1: DenseForms(asked)}
    each = consecutive_forms(1, 6, asked.device)
    whole = concretizations(bounds, last, each, bounds.relaxations(slopes), False, None)[-1]
    torch.testing.assert_close(found.value, whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["relu", "leaky"])
def test_values_are_those_of_the_whole_network(name: str):
    bounds, small = made(NETWORKS[name], "Linf")
    spread = torch.rand(50, bounds.ball.center.shape[1], generator=torch.Generator().manual_seed(2)).double()
    points = bounds.ball.lower + spread * (bounds.ball.upper - bounds.ball.lower)
    read, logits = small.values(points)
    torch.testing.assert_close(logits, PlainModule(NETWORKS[name]).double()(points), rtol=1e-9, atol=1e-9)
    assert ((read >= small.lower - 1e-9) & (read <= small.upper + 1e-9)).all()
    assert 0 < small.neurons < bounds.slopes.shape[1]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_the_bound(name: str, norm: c.Norm):
    """Against differences, in slopes, multipliers and forms."""
    _bounds, small = made(NETWORKS[name], norm)
    asked = forms(NETWORKS[name].classes)
    base = small.lines(small.lower.expand(6, -1), small.upper.expand(6, -1))
    shape = base.above.shape
    slopes = small.leak + (1 - small.leak) * torch.rand(shape, generator=torch.Generator().manual_seed(3)).double()
    multipliers = torch.rand(shape, generator=torch.Generator().manual_seed(4)).double() * 0.1

    def value(slopes: Tensor, multipliers: Tensor, asked: Tensor) -> Tensor:
        return small.backward(asked, base.choose(slopes), multipliers).value

    lines = base.choose(slopes)
    found = small.backward(asked, lines, multipliers)
    logits, read = small.forward(found, lines)
    by_slope = torch.where(lines.free, found.coefficients.clamp(max=0) * read, 0.0)
    for k, gradient in enumerate((by_slope, read, logits)):
        way = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(5)).double()
        way = way * (small.columns >= 0) if k < 2 else way
        moved = [
            [v + (s * 1e-6 * way if i == k else 0) for i, v in enumerate((slopes, multipliers, asked))] for s in (1, -1)
        ]
        numeric = (value(*moved[0]) - value(*moved[1])) / 2e-6
        torch.testing.assert_close((gradient * way).sum(1), numeric, rtol=ROUGHLY[norm], atol=1e-4)

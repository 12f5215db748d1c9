"""In L1 a form's largest value over a ball has kinks where the radius is spent: descent needs a subgradient there."""

from __future__ import annotations

import pytest
import torch
from small_networks import mlp

from verifiers.crown.backward import functional_upper
from verifiers.crown.intermediate import value_bounds
from verifiers.crown.network import prepare
from verifiers.perturbation import Balls


@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_bounds_in_l1_lie_below_the_bounds(seed: int):
    """The largest value of a form is convex in its coefficients, so a gradient at one form never overstates the value
    of another."""
    network = prepare(mlp(seed, (6, 4, 3)), torch.float64, torch.device("cpu"))
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1, 6, generator=generator)
    balls = Balls(x, torch.tensor([0.4], dtype=torch.float64), "L1", (0.0, 1.0)).boxed(torch.float64)
    bounds = value_bounds(network, balls, None)
    slopes = bounds.slopes[:, None].expand(-1, 40, -1)
    forms = torch.randn(1, 40, 3, generator=generator, dtype=torch.float64) + 3  # all cross ReLUs by their upper lines
    at = forms.requires_grad_()
    values = functional_upper(bounds, at, slopes)
    (gradient,) = torch.autograd.grad(values.sum(), at)
    f, g, v = forms[0].detach(), gradient[0], values[0].detach()
    below = v[:, None] + ((f[None] - f[:, None]) * g[:, None]).sum(2)
    assert (below <= v[None] + 1e-9).all()

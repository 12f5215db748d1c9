"""The general mixing formulas: limits, special cases, and end-to-end gradients against finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from certmix.attacks import Schedule, make_ball, pgd
from certmix.attacks.objectives import ClassifierObjective
from certmix.errors import UsageError
from certmix.mixing.general import (
    OUTPUTS,
    SCALINGS,
    GeneralMixedClassifier,
    LocallyBiasedSmoothing,
    OneNearestNeighbour,
    Output,
    Scaling,
)
from certmix.mixing.mixed import MixedClassifier
from proofs_check import certificate as c
from proofs_check.certificate import Norm
from verifiers.network.module import PlainModule, build


def smooth_network(seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    module = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return module.to(dtype).requires_grad_(False)


G, H = smooth_network(0), smooth_network(1)
X = torch.rand(4, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
VARIANTS = [(s, o, n) for s in SCALINGS for o in OUTPUTS for n in (True, False)]


def reference(x: Tensor, gamma: float, scaling: Scaling, output: Output, norm: Norm, normalised: bool) -> Tensor:
    """Eq. 1 to 3 written out for one input, with Jacobians."""

    def values(model: nn.Module):
        return lambda v: torch.softmax(model(v[None]), 1)[0] if output == "probabilities" else model(v[None])[0]

    order = {"Linf": 1, "L2": 2, "L1": math.inf}[norm]
    g, h = values(G)(x), values(H)(x)
    of_g, of_h = (
        torch.autograd.functional.jacobian(values(m), x).norm(p=order, dim=1)  # type: ignore[union-attr]
        for m in (G, H)
    )
    scale = {
        "one": torch.ones(3, dtype=x.dtype),
        "gradient": of_g,
        "largest_gradient": of_g[g.argmax()].expand(3),
        "gradient_ratio": of_g / of_h,
    }[scaling]
    mixed = g + gamma * scale * h
    mixed = mixed / (1 + gamma * scale) if normalised else mixed
    return mixed.log() if output == "probabilities" else mixed


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
@pytest.mark.parametrize(("scaling", "output", "normalised"), VARIANTS)
def test_every_variant_is_the_formula_of_the_paper(
    scaling: Scaling, output: Output, normalised: bool, norm: Norm
) -> None:
    mix = GeneralMixedClassifier(G, H, 1.7, scaling, output, norm, normalised)
    expected = torch.stack([reference(x, 1.7, scaling, output, norm, normalised) for x in X])
    assert torch.allclose(mix(X), expected, rtol=1e-10, atol=1e-12)
    with torch.no_grad():
        assert torch.allclose(mix(X), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("scaling", "output", "normalised"), VARIANTS)
@pytest.mark.parametrize("gamma", [0.0, 0.8, math.inf])
def test_gradients_of_every_variant_agree_with_finite_differences(
    scaling: Scaling, output: Output, normalised: bool, gamma: float
) -> None:
    mix = GeneralMixedClassifier(G, H, gamma, scaling, output, "Linf", normalised)
    assert torch.autograd.gradcheck(mix, (X.clone().requires_grad_(),), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(("scaling", "output"), [(s, o) for s in SCALINGS for o in OUTPUTS])
@pytest.mark.parametrize("norm", ["L2", "L1"])
def test_gradients_of_every_curve_agree_with_finite_differences_in_every_dual_norm(
    scaling: Scaling, output: Output, norm: Norm
) -> None:
    mix = GeneralMixedClassifier(G, H, 1.7, scaling, output, norm)
    assert torch.autograd.gradcheck(mix, (X.clone().requires_grad_(),), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(("scaling", "output"), [(s, o) for s in SCALINGS for o in OUTPUTS])
@pytest.mark.parametrize("last", ["linear", "sigmoid"])
def test_gradients_of_plain_networks_agree_with_finite_differences(scaling: Scaling, output: Output, last: str) -> None:
    # piecewise linear networks take a shorter way, which a sigmoid must not
    rng = np.random.default_rng(4)
    nodes = []
    for _ in range(2):
        first, second = (rng.normal(size=shape).astype(np.float32) for shape in ((7, 5), (3, 7)))
        bias = rng.normal(size=7).astype(np.float32)
        hidden = [c.Input((5,)), c.Linear((0,), first, bias), c.Relu((1,)) if last == "linear" else c.Sigmoid((1,))]
        nodes.append([*hidden, c.Linear((2,), second, bias[:3])])
    mix = GeneralMixedClassifier(*(PlainModule(build(n)).double() for n in nodes), 1.7, scaling, output, "L2")
    assert torch.autograd.gradcheck(mix, (X.clone().requires_grad_(),), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize(("scaling", "output"), [(s, o) for s in SCALINGS for o in OUTPUTS])
def test_gamma_zero_gives_g_and_gamma_infinity_gives_h(scaling: Scaling, output: Output) -> None:
    probabilities = output == "probabilities"
    g, h = (torch.log_softmax(m(X), 1) if probabilities else m(X) for m in (G, H))
    assert torch.equal(GeneralMixedClassifier(G, H, 0.0, scaling, output)(X), g)
    assert torch.equal(GeneralMixedClassifier(G, H, math.inf, scaling, output)(X), h)
    assert torch.allclose(GeneralMixedClassifier(G, H, 1e12, scaling, output)(X), h, atol=1e-6)


def test_equation_1_at_infinite_gamma_ranks_by_r_times_h() -> None:
    mix = GeneralMixedClassifier(G, H, math.inf, "gradient", "probabilities", "Linf", normalised=False)
    large = GeneralMixedClassifier(G, H, 1e9, "gradient", "probabilities", "Linf", normalised=False)
    assert torch.allclose(mix(X), large(X) - math.log(1e9), atol=1e-6)


def test_where_r_vanishes_the_infinite_mix_is_g() -> None:
    flat = nn.Linear(5, 3, bias=True).double().requires_grad_(False)
    flat.weight.zero_()
    mix = GeneralMixedClassifier(flat, H, math.inf, "gradient", "logits")
    assert torch.equal(mix(X), flat(X))


@pytest.mark.parametrize("gamma", [0.0, 0.3, 1.0, 9.0])
def test_scaling_one_over_probabilities_is_equation_4(gamma: float) -> None:
    mix = MixedClassifier(G, H, gamma / (1 + gamma))
    assert torch.allclose(GeneralMixedClassifier(G, H, gamma)(X), mix(X), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("scaling", "output"), [(s, o) for s in SCALINGS for o in OUTPUTS])
def test_extreme_logits_give_finite_values_and_gradients(scaling: Scaling, output: Output) -> None:
    class Loud(nn.Module):
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * self.model(x)

    g, h = Loud(smooth_network(0, torch.float32)), Loud(smooth_network(1, torch.float32))
    x = X.float().requires_grad_()
    mixed = GeneralMixedClassifier(g, h, 2.0, scaling, output)(x)
    (gradient,) = torch.autograd.grad(mixed.sum(), x)
    assert bool(torch.isfinite(mixed).all())
    assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_variant_can_be_attacked(scaling: Scaling) -> None:
    g, h = smooth_network(0, torch.float32), smooth_network(1, torch.float32)
    mix = GeneralMixedClassifier(g, h, 1.0, scaling)
    x = X.float()
    labels = mix(x).argmax(1)
    ball = make_ball(x, 0.5, "Linf", (0.0, 1.0))
    result = pgd(ClassifierObjective(mix, "margin"), ball, labels, Schedule(steps=10, keep_going=True))
    start, end = mix(x), mix(result.points)
    lead = [
        v.gather(1, labels[:, None])[:, 0] - v.scatter(1, labels[:, None], -torch.inf).amax(1) for v in (start, end)
    ]
    assert bool((lead[1] < lead[0]).all())


class Score(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Buffer(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_locally_biased_smoothing_of_a_linear_model_shifts_along_the_oracle() -> None:
    weight = torch.tensor([3.0, -4.0])
    points, directions = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([1.0, -1.0])
    oracle = OneNearestNeighbour(points, directions)
    x = torch.tensor([[0.1, 0.2], [0.9, 0.7]])
    for norm, size in (("Linf", 7.0), ("L2", 5.0), ("L1", 4.0)):
        biased = LocallyBiasedSmoothing(Score(weight), oracle, 0.5, norm)(x)  # type: ignore[arg-type]
        assert torch.allclose(biased, x @ weight + 0.5 * torch.tensor([1.0, -1.0]) * size)


def test_misuse_names_the_value() -> None:
    with pytest.raises(UsageError, match="gamma"):
        GeneralMixedClassifier(G, H, -1.0)
    with pytest.raises(UsageError, match="gamma"):
        GeneralMixedClassifier(G, H, math.nan)
    with pytest.raises(UsageError, match="two"):
        GeneralMixedClassifier(G, H, 1.0, "two")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="-1 or 1"):
        OneNearestNeighbour(torch.zeros(1, 2), torch.zeros(1))

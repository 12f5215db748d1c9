"""The map of MixedNUTS as released: what proposes is close to what the judge proves; the map in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from boxes_of_logits import boxes, centered, maps
from flint import arb
from hypothesis import given, settings

from certmix.attacks.adaptive_weight import moved
from certmix.theorems import mixed_nuts
from proofs_check.certificate import MixedNuts
from proofs_check.rules import mixed_nuts as rule


@given(boxes, maps)
@settings(max_examples=60, deadline=None)
def test_what_proposes_finds_the_judges_bounds(box: list[tuple[float, float]], how: MixedNuts) -> None:
    lower, upper = centered(box)
    low, up = (torch.tensor([[float(v) for v in ends]], dtype=torch.float64) for ends in (lower, upper))
    least, most = mixed_nuts.bounds(low, up, how)
    for j in range(len(box)):
        for found, judged in (
            (least[0, j], rule.mapped(rule.lower_end(lower, upper, j, how), how).mid()),
            (most[0, j], rule.mapped(rule.upper_end(lower, upper, j, how), how).mid()),
        ):
            assert float(found) == pytest.approx(float(judged), rel=1e-4, abs=1e-4 * how.scale)


def test_the_map_in_torch_is_the_formula_and_has_gradients() -> None:
    rng = np.random.default_rng(0)
    z = torch.from_numpy(rng.normal(size=(20, 7))).requires_grad_()
    how = MixedNuts(5.0, -1.1, 4.0)
    got = mixed_nuts.mapped(z, how)
    v = (z - z.mean(1, keepdim=True)) / (z.var(1, keepdim=True) + 1e-8).sqrt() - 1.1
    w = torch.nn.functional.gelu(v)
    assert torch.allclose(got, 5 * w.sign() * w.abs() ** 4, atol=1e-12)
    for row, values in zip(z.detach(), got.detach(), strict=True):
        for value, exact in zip(values, moved([arb(float(v)) for v in row], how), strict=True):
            assert float(value) == pytest.approx(float(exact), abs=1e-12)
    (gradient,) = torch.autograd.grad(got.square().sum(), z)
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0

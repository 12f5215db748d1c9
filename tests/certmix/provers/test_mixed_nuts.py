"""The map of MixedNUTS as released: what proposes is close to what the judge proves; the map in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from boxes_of_logits import boxes, centered, exact_differences, maps
from flint import arb
from hypothesis import given, settings
from hypothesis import strategies as st

from certmix.attacks.adaptive_weight import moved
from certmix.errors import UsageError
from certmix.mixing.adaptive import AdaptiveMix, checked
from certmix.theorems import mixed_nuts
from proofs_check.certificate import MixedNuts
from proofs_check.rules import mixed_nuts as rule


@given(boxes, maps, st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_proposes_finds_the_judges_bounds(box: list[tuple[float, float]], how: MixedNuts, known: bool) -> None:
    lower, upper = centered(box)
    differences = exact_differences(box, 0) if known else [arb(0)] + [arb(1e6)] * (len(box) - 1)
    low, up, d = (torch.tensor([[float(v) for v in e]], dtype=torch.float64) for e in (lower, upper, differences))
    found = mixed_nuts.pushed(low, up, d, torch.tensor([0]), how)[0]
    judged = rule.pushed(lower, upper, differences, 0, how)
    size = how.scale * (1 + max(abs(float(v)) for v in judged) / how.scale)
    for j in range(1, len(box)):
        assert float(found[j]) == pytest.approx(float(judged[j].mid()), rel=1e-4, abs=1e-4 * size)


def test_more_classes_than_the_released_norm_looks_at_are_refused() -> None:
    how = MixedNuts(1.0, 0.0, 1.0)
    assert mixed_nuts.mapped(torch.zeros(1, 250), how).shape == (1, 250)
    with pytest.raises(UsageError, match="at most 250 classes, got 251"):
        mixed_nuts.mapped(torch.zeros(1, 251), how)
    with pytest.raises(UsageError, match="at most 250 classes, got 251"):
        checked((4,), 251, AdaptiveMix(0.75, transform=how))


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

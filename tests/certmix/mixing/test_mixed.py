"""The mixed classifier computes Eq. 4 accurately, differentiably, and refuses what it cannot mix."""

from __future__ import annotations

import math
from fractions import Fraction

import flint
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.mixing.mixed import MixedClassifier

ALPHAS = st.one_of(st.just(0.0), st.just(1.0), st.floats(0, 1), st.floats(0, 1e-300), st.floats(1 - 1e-12, 1))
LOGITS = st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3)


def reference(g: list[float], h: list[float], alpha: float, temperature: float) -> list[float]:
    """Eq. 4 as it is written, in 40,000-bit arithmetic."""
    with flint.ctx.workprec(40_000):
        eg = [flint.arb(v).exp() for v in g]
        eh = [(flint.arb(v) * flint.arb(temperature)).exp() for v in h]
        a = flint.arb(flint.fmpq(*Fraction(alpha).as_integer_ratio()))
        mixed = [(1 - a) * p / sum(eg) + a * q / sum(eh) for p, q in zip(eg, eh, strict=True)]
        return [float(m.log().mid()) for m in mixed]


def mix(
    g: list[float], h: list[float], alpha: float, temperature: float = 1.0, dtype: torch.dtype = torch.float64
) -> Tensor:
    model = MixedClassifier(nn.Identity(), nn.Identity(), alpha, temperature)
    return model.mix(torch.tensor([g], dtype=dtype), torch.tensor([h], dtype=dtype))[0]


@given(LOGITS, LOGITS, ALPHAS, st.sampled_from([0.25, 1.0, 4.0]))
def test_the_mix_is_equation_4_for_logits_up_to_ten_thousand(
    g: list[float], h: list[float], alpha: float, temperature: float
) -> None:
    expected = torch.tensor(reference(g, h, alpha, temperature), dtype=torch.float64)
    found = mix(g, h, alpha, temperature)
    scale = max(map(abs, g + h)) * max(1.0, temperature)
    assert (found - expected).abs().max() <= 1e-13 * (1 + scale)


@given(LOGITS, LOGITS, ALPHAS)
def test_the_mix_in_float32_is_as_accurate_as_float32_allows(g: list[float], h: list[float], alpha: float) -> None:
    g, h = (torch.tensor(v, dtype=torch.float32).tolist() for v in (g, h))
    expected = torch.tensor(reference(g, h, alpha, 1.0), dtype=torch.float64)
    found = mix(g, h, alpha, dtype=torch.float32).double()
    assert (found - expected).abs().max() <= 1e-6 * (1 + max(map(abs, g + h)))


@given(LOGITS, LOGITS, ALPHAS)
def test_gradients_are_finite_however_extreme_the_logits(g: list[float], h: list[float], alpha: float) -> None:
    a, b = (torch.tensor([v], dtype=torch.float32, requires_grad=True) for v in (g, h))
    out = MixedClassifier(nn.Identity(), nn.Identity(), alpha).mix(a, b)
    grads = torch.autograd.grad(out.sum() + out[0, 0], (a, b), allow_unused=True)
    assert torch.isfinite(out).all()
    assert all(torch.isfinite(grad).all() for grad in grads if grad is not None)


@given(LOGITS)
def test_alpha_0_is_the_standard_classifier_and_alpha_1_the_robust_one_exactly(g: list[float]) -> None:
    other = [math.nan, math.inf, 0.0]
    log_probabilities = torch.log_softmax(torch.tensor(g, dtype=torch.float64), 0)
    assert torch.equal(mix(g, other, 0.0), log_probabilities)
    assert torch.equal(mix(other, g, 1.0), log_probabilities)


def nets() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    make = [nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4)).double() for _ in range(2)]
    return make[0], make[1]


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.75, 1.0])
def test_first_and_second_derivatives_agree_with_finite_differences(alpha: float) -> None:
    model = MixedClassifier(*nets(), alpha, temperature=2.0)
    x = torch.randn(3, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(model, (x,))
    assert torch.autograd.gradgradcheck(model, (x,))


def test_the_outputs_are_log_probabilities_of_the_mixed_probabilities() -> None:
    g, h = nets()
    x = torch.randn(7, 2, 3, dtype=torch.float64)
    out = MixedClassifier(g, h, 0.6, temperature=3.0)(x)
    expected = 0.4 * g(x).softmax(1) + 0.6 * (3.0 * h(x)).softmax(1)
    torch.testing.assert_close(out.exp(), expected)
    torch.testing.assert_close(out.softmax(1), expected)


def test_the_mix_does_not_depend_on_how_inputs_are_batched() -> None:
    model = MixedClassifier(*nets(), 0.7)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(model(x), torch.cat([model(x[k : k + 1]) for k in range(5)]))


def test_the_mix_follows_its_modules_to_another_dtype_and_device() -> None:
    model = MixedClassifier(*nets(), 0.7)
    assert model.float()(torch.randn(2, 6)).dtype == torch.float32
    assert model.to("meta")(torch.randn(2, 6, device="meta")).device.type == "meta"


@pytest.mark.parametrize("alpha", [1.2, -0.1, math.nan, math.inf])
def test_alpha_outside_0_to_1_is_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match=rf"^alpha must be in \[0, 1\], got {alpha}$"):
        MixedClassifier(nn.Identity(), nn.Identity(), alpha)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_and_finite_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be a finite number > 0"):
        MixedClassifier(nn.Identity(), nn.Identity(), 0.5, temperature)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_classifiers_with_different_classes_are_refused(alpha: float) -> None:
    with pytest.raises(UsageError, match=r"\(2, 3\) and \(2, 4\)"):
        MixedClassifier(nn.Linear(6, 3), nn.Linear(6, 4), alpha)(torch.zeros(2, 6))

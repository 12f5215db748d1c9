"""The mixed classifier: a convex combination of two classifiers' probabilities, returned as logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from certmix.errors import UsageError
from certmix.mixing.parameters import check_alpha, check_temperature
from certmix.theorems.mixed_nuts import mapped
from proofs_check.certificate import MixedNuts, Transform


def log_mixture(log_standard: Tensor, log_robust: Tensor, alpha: float) -> Tensor:
    """log((1 - alpha) exp(log_standard) + alpha exp(log_robust)), elementwise, without under- or overflow.

    alpha = 0 and 1 return the respective argument itself, so that neither log(0) nor a NaN gradient arises.
    """
    if alpha == 0:
        return log_standard
    if alpha == 1:
        return log_robust
    return torch.logaddexp(log_standard + math.log1p(-alpha), log_robust + math.log(alpha))


def log_mixture_of(log_standard: Tensor, log_robust: Tensor, alpha: Tensor) -> Tensor:
    """`log_mixture` with one alpha per input, (N,) in [0, 1]; at 0 and 1 the other summand is below exp(-80)."""
    least = torch.finfo(alpha.dtype).tiny
    of_standard, of_robust = (a.clamp_min(least).log()[:, None] for a in (1 - alpha, alpha))
    return torch.logaddexp(log_standard + of_standard, log_robust + of_robust)


def transformed(logits: Tensor, transform: Transform | MixedNuts | None) -> Tensor:
    """M of the logits (proofs_check.certificate.Transform, MixedNuts); None: as they are. Source: docs/maths.md 8."""
    if transform is None:
        return logits
    if isinstance(transform, MixedNuts):
        return mapped(logits, transform)
    moved = logits + transform.shift
    if transform.clamp:
        return moved.clamp_min(0) ** transform.power
    return moved.sign() * moved.abs() ** transform.power


class MixedClassifier(nn.Module):
    """h^α(x) = log((1 − α) softmax(g(x)) + α softmax(T h(x))), the mix of g = `standard` and h = `robust`.

    Source: Eq. 4 of the paper; T (`temperature`) is docs/maths.md 7. alpha: weight of the robust
    classifier. Both modules map (N, …) to logits (N, K) of any scale. The outputs are logits: their
    softmax is the mixed probability vector, and they are log-probabilities already.

    Shapes: (N, …) -> (N, K). Differentiable (twice, if both modules are); runs on whatever device and
    dtype the modules do. Raises UsageError for alpha outside [0, 1], temperature <= 0, or modules that
    disagree on the number of classes.

    alpha may be a module too, x -> (N,): then alpha_lower must declare a lower bound of it, which the mix enforces
    (values are clamped to [alpha_lower, 1]), and the attribute `alpha` is that bound. transform: replaces h's logits z
    by M(z) before the temperature. Certificates for both: docs/adaptive.md. Source: docs/maths.md 8.
    """

    def __init__(
        self,
        standard: nn.Module,
        robust: nn.Module,
        alpha: float | nn.Module,
        temperature: float = 1.0,
        *,
        alpha_lower: float | None = None,
        transform: Transform | MixedNuts | None = None,
    ) -> None:
        super().__init__()
        self.standard = standard
        self.robust = robust
        self.alpha_network: nn.Module | None = alpha if isinstance(alpha, nn.Module) else None
        self.alpha: float = check_alpha(_lower(alpha, alpha_lower))
        self.temperature: float = check_temperature(temperature)
        self.transform = transform

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.standard(x), self.robust(x), self.weight(x))

    def weight(self, x: Tensor) -> Tensor | None:
        """(N,) values of the alpha network; None where there is none."""
        return None if self.alpha_network is None else self.alpha_network(x)

    def mix(self, standard_logits: Tensor, robust_logits: Tensor, weight: Tensor | None = None) -> Tensor:
        """The mix's logits (N, K) from those of g and h, for logits that are at hand already.

        weight: (N,) values of the alpha network; needed where there is one.
        """
        if standard_logits.shape != robust_logits.shape:
            raise UsageError(
                "standard and robust must give logits of one shape, got "
                f"{tuple(standard_logits.shape)} and {tuple(robust_logits.shape)}"
            )
        log_standard = torch.log_softmax(standard_logits, dim=-1)
        log_robust = torch.log_softmax(self.temperature * transformed(robust_logits, self.transform), dim=-1)
        if self.alpha_network is None:
            return log_mixture(log_standard, log_robust, self.alpha)
        if weight is None or weight.shape != standard_logits.shape[:1]:
            raise UsageError(f"alpha must give one weight per input, got {None if weight is None else weight.shape}")
        return log_mixture_of(log_standard, log_robust, weight.clamp(self.alpha, 1.0))

    def __repr__(self) -> str:
        pair = ", ".join(f"{n}={type(m).__name__}" for n, m in (("standard", self.standard), ("robust", self.robust)))
        return f"{type(self).__name__}({pair}, {self.extra_repr()})"

    def extra_repr(self) -> str:
        name = "alpha" if self.alpha_network is None else "alpha_lower"
        also = "" if self.transform is None else f", transform={self.transform}"
        return f"{name}={self.alpha}, temperature={self.temperature}{also}"


def _lower(alpha: float | nn.Module, declared: float | None) -> float:
    if isinstance(alpha, nn.Module):
        if declared is None:
            raise UsageError("an alpha that depends on the input needs alpha_lower, a lower bound of it")
        return declared
    if declared is not None:
        raise UsageError(f"alpha_lower is for an alpha that depends on the input, got alpha {alpha}")
    return alpha

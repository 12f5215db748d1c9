"""The mixed classifier: a convex combination of two classifiers' probabilities, returned as logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from certmix.errors import UsageError


def check_alpha(alpha: float) -> float:
    """`alpha` as a float in [0, 1]. Raises UsageError."""
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must be in [0, 1], got {alpha}")
    return float(alpha)


def check_temperature(temperature: float) -> float:
    """`temperature` as a finite float > 0. Raises UsageError."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise UsageError(f"temperature must be a finite number > 0, got {temperature}")
    return float(temperature)


def log_mixture(log_standard: Tensor, log_robust: Tensor, alpha: float) -> Tensor:
    """log((1 - alpha) exp(log_standard) + alpha exp(log_robust)), elementwise, without under- or overflow.

    alpha = 0 and 1 return the respective argument itself, so that neither log(0) nor a NaN gradient arises.
    """
    if alpha == 0:
        return log_standard
    if alpha == 1:
        return log_robust
    return torch.logaddexp(log_standard + math.log1p(-alpha), log_robust + math.log(alpha))


class MixedClassifier(nn.Module):
    """h^α(x) = log((1 − α) softmax(g(x)) + α softmax(T h(x))), the mix of g = `standard` and h = `robust`.

    Source: Eq. 4 of the paper; T (`temperature`) is MATH.md section 7. alpha: weight of the robust
    classifier. Both modules map (N, …) to logits (N, K) of any scale. The outputs are logits: their
    softmax is the mixed probability vector, and they are log-probabilities already.

    Shapes: (N, …) -> (N, K). Differentiable (twice, if both modules are); runs on whatever device and
    dtype the modules do. Raises UsageError for alpha outside [0, 1], temperature <= 0, or modules that
    disagree on the number of classes.
    """

    def __init__(self, standard: nn.Module, robust: nn.Module, alpha: float, temperature: float = 1.0) -> None:
        super().__init__()
        self.standard = standard
        self.robust = robust
        self.alpha = check_alpha(alpha)
        self.temperature = check_temperature(temperature)

    def forward(self, x: Tensor) -> Tensor:
        return self.mix(self.standard(x), self.robust(x))

    def mix(self, standard_logits: Tensor, robust_logits: Tensor) -> Tensor:
        """The mix's logits (N, K) from those of g and h, for logits that are at hand already."""
        if standard_logits.shape != robust_logits.shape:
            raise UsageError(
                "standard and robust must give logits of one shape, got "
                f"{tuple(standard_logits.shape)} and {tuple(robust_logits.shape)}"
            )
        log_standard = torch.log_softmax(standard_logits, dim=-1)
        log_robust = torch.log_softmax(self.temperature * robust_logits, dim=-1)
        return log_mixture(log_standard, log_robust, self.alpha)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, temperature={self.temperature}"

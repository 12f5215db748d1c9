"""auto_LiRPA as a user calls it: one module, one perturbation, its own softmax bounds; float64, so that what is
found is not float32 rounding. Protocols "logits" and "probabilities", any norm L<p>.

Works with 0.3 and with upstream, whichever Python finds first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from certmix.testing.problem import exponent
from verifiers.auto_lirpa import compat
from verifiers.auto_lirpa.module import LoweredModule, default_dtype, quiet
from verifiers.network.lowering import lower
from verifiers.network.module import PlainModule

Pair = tuple[Tensor, Tensor]
Certifier = Callable[..., Pair]


class SoftmaxOf(nn.Module):
    """softmax of a module's logits, as auto_LiRPA's documentation writes it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.softmax(self.module(x), dim=1)


class ExpandedSoftmaxOf(SoftmaxOf):
    """The same written out in elementary operations (for versions without bounds of a softmax node)."""

    def forward(self, x: Tensor) -> Tensor:
        powers = torch.exp(self.module(x))
        return powers / powers.sum(1, keepdim=True)


def bounds(
    method: str, head: Callable[[nn.Module], nn.Module] | None, dtype: torch.dtype,
    robust: nn.Module, x: Tensor, radius: float, norm: str,
) -> Pair:  # fmt: skip
    """compute_bounds of the module (behind `head`) on the ball. Raises NotImplementedError for other modules."""
    if not isinstance(robust, PlainModule):
        raise NotImplementedError(f"this adapter reads plain networks only, got {type(robust).__name__}")
    lirpa: Any = compat.load()
    p = exponent(norm)
    module: nn.Module = LoweredModule(lower(robust.network)).to(dtype)
    module = module if head is None else head(module)
    with quiet(), default_dtype(dtype), torch.no_grad():
        bounded = compat.bounded_module(lirpa)(module.eval(), x[:1].to(dtype), {"verbosity": 0})
        perturbation = lirpa.PerturbationLpNorm(norm=math.inf if p == math.inf else p, eps=radius)
        return bounded.compute_bounds(x=(lirpa.BoundedTensor(x.to(dtype), perturbation),), method=method)


def _certifier(
    protocol: str, method: str, head: Callable[[nn.Module], nn.Module] | None, dtype: torch.dtype = torch.float64
) -> Certifier:
    call = functools.partial(bounds, method, head, dtype)

    def certifier(robust: nn.Module, x: Tensor, radius: float, norm: str = "Linf") -> Pair:
        return call(robust, x, radius, norm)

    certifier.certmix_protocol = protocol  # type: ignore[attr-defined]
    certifier.__name__ = f"{protocol}_{method.lower()}"
    return certifier


logits_ibp: Certifier = _certifier("logits", "IBP", None)
logits_crown: Certifier = _certifier("logits", "CROWN", None)
logits_crown_float32: Certifier = _certifier("logits", "CROWN", None, torch.float32)
probabilities_ibp: Certifier = _certifier("probabilities", "IBP", SoftmaxOf)
probabilities_crown: Certifier = _certifier("probabilities", "CROWN", SoftmaxOf)
probabilities_expanded_ibp: Certifier = _certifier("probabilities", "IBP", ExpandedSoftmaxOf)

"""Certifiers of the Adversarial Robustness Toolbox (extra: pip install certmix[art]).

`smoothing`: its randomised smoothing, protocol "smoothed" (h alone: alpha must be 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from certmix.errors import UsageError

VOTES = 1000


def _smoothing_class() -> Any:
    try:
        from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing  # type: ignore
    except ImportError as error:
        raise UsageError(f"ART is not installed ({error}): pip install certmix[art]") from error
    return PyTorchRandomizedSmoothing


class _FreshModule(nn.Module):
    """A module of its own around the base: ART moves what it is given between modes and devices."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x)


def smoothing(
    base: nn.Module, x: Tensor, alpha: float, noise_std: float = 1.0, failure_probability: float = 0.001
) -> list[tuple[int, float] | None]:
    """`certify` of ART's randomised smoothing with 1,000 votes; a prediction of -1 abstains."""
    if alpha != 1:
        raise NotImplementedError(f"ART's radius speaks of the smoothed classifier alone (alpha 1), got {alpha}")
    with torch.no_grad():
        classes = base(x[:1]).shape[1]
    estimator = _smoothing_class()(
        model=_FreshModule(base), loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=classes,
        sample_size=VOTES, scale=noise_std, alpha=failure_probability, device_type="cpu",
    )  # fmt: skip
    predicted, radius = estimator.certify(x.numpy().astype(np.float32), n=VOTES)
    return [(int(k), float(r)) if k >= 0 else None for k, r in zip(predicted, radius, strict=True)]


smoothing.certmix_protocol = "smoothed"  # type: ignore[attr-defined]

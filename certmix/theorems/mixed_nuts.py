"""The map of MixedNUTS as released, and its bounds from those of the logits less their mean (docs/maths.md 8).

In floats: they propose, and proofs_check/rules/mixed_nuts.py derives the like rigorously.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proofs_check.certificate import MixedNuts

EPSILON = 1e-8
RISES_FROM, LEAST = -0.75, -0.17  # GELU increases from the first on, and is above the second


def mapped(logits: Tensor, how: MixedNuts) -> Tensor:
    """(N, K) -> (N, K): M of all logits of an input together. Differentiable where power >= 1."""
    centered = logits - logits.mean(dim=-1, keepdim=True)
    variance = centered.square().sum(dim=-1, keepdim=True) / (logits.shape[-1] - 1)
    return _after(torch.nn.functional.gelu(centered / (variance + EPSILON).sqrt() + how.shift), how)


def bounds(lower: Tensor, upper: Tensor, how: MixedNuts) -> tuple[Tensor, Tensor]:
    """(N, K) bounds of M from (N, K) bounds of z - mean z. Ensures: no narrower for wider ones."""
    above = normed_upper(lower, upper) + how.shift
    below = how.shift - normed_upper(-upper, -lower)
    gelu = torch.nn.functional.gelu
    most, least = gelu(above.clamp_min(0)), torch.where(below >= RISES_FROM, gelu(below), LEAST)
    return _after(least, how), _after(most, how)


def normed_upper(lower: Tensor, upper: Tensor) -> Tensor:
    """(N, K) upper bounds of n_j / sqrt(n·n / (K - 1) + 1e-8), n between the bounds and adding up to 0."""
    rivals = lower.shape[-1] - 1
    smallest, largest = torch.maximum(lower, -upper).clamp_min(0).square(), torch.maximum(-lower, upper).square()
    rest_below, rest_above = (x.sum(dim=-1, keepdim=True) - x for x in (smallest, largest))
    rest = torch.where(upper <= 0, rest_above, torch.maximum(rest_below.clamp_min(0), upper.square() / rivals))
    return upper / ((upper.square() + rest) / rivals + EPSILON).sqrt()


def _after(w: Tensor, how: MixedNuts) -> Tensor:
    return how.scale * w.sign() * w.abs() ** how.power

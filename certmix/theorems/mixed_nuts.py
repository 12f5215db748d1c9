"""The map of MixedNUTS as released, and its bounds from those of the logits less their mean (docs/maths.md 8).

In floats: they propose, and proofs_check/rules/mixed_nuts.py derives the like rigorously.
"""

from __future__ import annotations

import torch
from torch import Tensor

from certmix.errors import UsageError
from proofs_check.certificate import MixedNuts

EPSILON = 1e-8
MOST_CLASSES = 250
PIECES = 64  # as many as the judge's
RISES_FROM, LEAST = -0.75, -0.17  # GELU increases from the first on, and is above the second


def need_few(classes: int) -> None:
    """Raises UsageError for more classes than the map is that of MixedNUTS for."""
    if classes > MOST_CLASSES:
        raise UsageError(
            f"mixednuts is for at most {MOST_CLASSES} classes, got {classes}: MixedNUTS as released normalises by the "
            f"{MOST_CLASSES} largest logits, this map by all; a transform SHIFT POWER takes any number"
        )


def mapped(logits: Tensor, how: MixedNuts) -> Tensor:
    """(N, K) -> (N, K): M of all logits of an input together. Differentiable where power >= 1. Raises UsageError."""
    need_few(logits.shape[-1])
    centered = logits - logits.mean(dim=-1, keepdim=True)
    variance = centered.square().sum(dim=-1, keepdim=True) / (logits.shape[-1] - 1)
    return _after(torch.nn.functional.gelu(centered / (variance + EPSILON).sqrt() + how.shift), how)


def pushed(lower: Tensor, upper: Tensor, differences: Tensor, predicted: Tensor, how: MixedNuts) -> Tensor:
    """(N, K) upper bounds of M(z_j) - M(z_y), from (N, K) bounds of z - mean z and upper ones of z_j - z_y.

    Ensures: no less for wider ones. By pieces of the interval of v_y: proofs_check/rules/mixed_nuts.py says why.
    """
    top = normed_upper(lower, upper) + how.shift
    bottom = how.shift - normed_upper(-upper, -lower)
    start, stop = (x.gather(1, predicted[:, None]) for x in (bottom, top))
    largest = torch.maximum(-lower, upper).square().sum(dim=1, keepdim=True)
    move = differences / (largest / (lower.shape[1] - 1) + EPSILON).sqrt()
    result = torch.full_like(top, -torch.inf)
    for k in range(PIECES):
        here, there = (start + (stop - start) * (n / PIECES) for n in (k, k + 1))
        reached = torch.where(differences <= 0, torch.minimum(top, there + move), top)
        result = torch.maximum(result, _after(_most(reached), how) - _after(_least(here), how))
    return result


def _most(v: Tensor) -> Tensor:
    """GELU is at most that up to v."""
    return torch.nn.functional.gelu(v.clamp_min(0))


def _least(v: Tensor) -> Tensor:
    """GELU is at least that from v on."""
    return torch.where(v >= RISES_FROM, torch.nn.functional.gelu(v), LEAST)


def normed_upper(lower: Tensor, upper: Tensor) -> Tensor:
    """(N, K) upper bounds of n_j / sqrt(n·n / (K - 1) + 1e-8), n between the bounds and adding up to 0."""
    rivals = lower.shape[-1] - 1
    smallest, largest = torch.maximum(lower, -upper).clamp_min(0).square(), torch.maximum(-lower, upper).square()
    rest_below, rest_above = (x.sum(dim=-1, keepdim=True) - x for x in (smallest, largest))
    rest = torch.where(upper <= 0, rest_above, torch.maximum(rest_below.clamp_min(0), upper.square() / rivals))
    return upper / ((upper.square() + rest) / rivals + EPSILON).sqrt()


def _after(w: Tensor, how: MixedNuts) -> Tensor:
    return how.scale * w.sign() * w.abs() ** how.power

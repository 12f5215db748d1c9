"""What is adaptive of a mix, at one point, in Arb: its weight there, and h's logits after M (docs/maths.md 8)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from flint import arb
from numpy.typing import NDArray
from torch import nn

from certmix.mixing.adaptive import AdaptiveMix, SigmoidAlpha
from proofs_check.certificate import MixedNuts, PlainNetwork, Transform

Float32Array = NDArray[np.float32]


def weight_at(mix: AdaptiveMix, point: Float32Array, logits: Callable[[PlainNetwork, Float32Array], list[arb]]) -> arb:
    """Encloses the mix's weight at `point`. logits: enclosures of a network's.

    A module that is no network has just the weight that it gives there: what is claimed of its declared bound alone is
    claimed of every weight above, that constant one too.
    """
    if isinstance(mix.alpha, SigmoidAlpha):
        standard, robust = logits(mix.alpha.network, point)
        low, high = arb(mix.alpha.low), arb(mix.alpha.high)
        return low + (high - low) / (1 + (standard - robust).exp())
    if not isinstance(mix.alpha, nn.Module):
        return arb(mix.alpha)
    with torch.no_grad():
        given = float(mix.alpha(torch.from_numpy(point)[None])[0])
    return arb(min(max(given, mix.least()), 1.0))


def moved(logits: list[arb], how: Transform | MixedNuts | None) -> list[arb]:
    """Enclosures of M(z) for every z of `logits`."""
    if isinstance(how, MixedNuts):
        return _nuts(logits, how)
    return logits if how is None else [_of_ends(z + arb(how.shift), how) for z in logits]


def _nuts(logits: list[arb], how: MixedNuts) -> list[arb]:
    """Layer norm over all logits, GELU, power and scale."""
    mean = sum(logits, arb(0)) / len(logits)
    centered = [z - mean for z in logits]
    root = (sum((n * n for n in centered), arb(0)) / (len(logits) - 1) + arb(1) / 10**8).sqrt()
    values = [n / root + arb(how.shift) for n in centered]
    powered = Transform(0.0, how.power, False)
    return [arb(how.scale) * _of_ends(v * (1 + (v / arb(2).sqrt()).erf()) / 2, powered) for v in values]


def _of_ends(z: arb, how: Transform) -> arb:
    """M does not decrease."""
    return _power(arb(z.lower()), how).union(_power(arb(z.upper()), how))


def _power(end: arb, how: Transform) -> arb:
    if end > 0:
        return end ** arb(how.power)
    return arb(0) if how.clamp or not end < 0 else -((-end) ** arb(how.power))

"""The largest size: balls are boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from verifiers.norms.lp import Lp


class Linf(Lp):
    """p = ∞."""

    order = math.inf
    is_box = True

    def size_up(self, offsets: Tensor) -> Tensor:
        largest = offsets.abs().amax(1)
        return torch.nextafter(largest, torch.full_like(largest, math.inf)) * (largest > 0)

    def within(self, offsets: Sequence[Fraction], radius: Fraction) -> bool:
        return max(offsets, default=Fraction(0)) <= radius

    def closest(self, offsets: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
        room = radius[:, None]
        return offsets.clamp(torch.maximum(low, -room), torch.minimum(high, room))

    def steepest(self, gradients: Tensor) -> Tensor:
        return gradients.sign()

    def noise(self, uniform: Tensor, generator: torch.Generator) -> Tensor:
        del generator
        return uniform * 2 - 1

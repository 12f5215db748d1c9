"""The root of the sum of squares."""

from __future__ import annotations

import torch
from torch import Tensor

from verifiers.norms.lp import NEAR, Lp, unit_l2

SHARE_STEPS = 4  # of the fixed point that splits a form between ball and box
MULTIPLIER_STEPS = 4


class L2(Lp):
    """p = 2."""

    order = 2.0
    roundings = 16
    euclidean = True

    def reach(self, sizes: Tensor, extent: Tensor, radius: Tensor) -> Tensor:
        """c . o <= radius * ‖a‖ + sum of (|c| - a) extent, for any 0 <= a <= |c|; best: a = min(|c|, t extent), with
        t = ‖a‖ / radius, a fixed point."""
        cap = fixed = sizes.detach()
        for _ in range(SHARE_STEPS):
            cap = extent * (torch.minimum(fixed, cap).norm(dim=1, keepdim=True) / radius[:, None].clamp(min=1e-30))
        share = torch.minimum(sizes, cap)
        return radius * share.norm(dim=1) + ((sizes - share) * extent).sum(1)

    def closest(self, offsets: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
        """clip(t · offset) with the t in [0, 1] at which its norm is the radius. That norm is concave in t and 0 at 0:
        the iteration rises to the radius from below."""
        t = (radius / self.size(offsets).clamp_min(1e-30)).clamp_max(1)
        for _ in range(MULTIPLIER_STEPS):
            found = (offsets * t[:, None]).clamp(low, high)
            size = self.size(found)
            if bool((size >= radius * NEAR).all()):
                return found
            t = (t * (radius / size.clamp_min(1e-30))).clamp_max(1)
        return (offsets * t[:, None]).clamp(low, high)

    def steepest(self, gradients: Tensor) -> Tensor:
        return unit_l2(gradients)

    def noise(self, uniform: Tensor, generator: torch.Generator) -> Tensor:
        return torch.randn(uniform.shape, generator=generator, dtype=uniform.dtype).to(uniform.device)

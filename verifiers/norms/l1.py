"""The sum of sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from verifiers.norms.lp import NEAR, Lp, unit_l2

THRESHOLD_STEPS = 12
TOP = 0.9  # of the largest gradient: those above share a step


class L1(Lp):
    """p = 1."""

    order = 1.0
    roundings = 16

    def reach(self, sizes: Tensor, extent: Tensor, radius: Tensor) -> Tensor:
        """The radius goes to the largest coefficients first. Where it is spent the value has a kink; the offset there
        is a subgradient."""
        order = sizes.detach().argsort(dim=1, descending=True)
        room = extent.gather(1, order)
        spent = torch.minimum((radius[:, None] - (room.cumsum(1) - room)).clamp(min=0), room)
        return (sizes * torch.zeros_like(sizes).scatter(1, order, spent)).sum(1)

    def closest(self, offsets: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
        """Soft-thresholded and clipped: Newton's method on the norm as a function of the threshold (piecewise linear,
        decreasing), bisection where it leaves the bracket."""
        magnitude, room = offsets.abs(), torch.where(offsets > 0, high, -low)
        too_small, large_enough = torch.zeros_like(radius), magnitude.amax(1)
        threshold = too_small
        projected, size = magnitude, radius
        for step in range(THRESHOLD_STEPS + 1):
            above_threshold = magnitude - threshold[:, None]
            projected = torch.minimum(above_threshold.clamp_min(0), room)
            size = projected.sum(1)
            excess = size - radius
            done = excess.abs() <= radius * (1 - NEAR)
            if step == THRESHOLD_STEPS or bool(done.all()):
                break
            too_small = torch.where(excess > 0, threshold, too_small)
            large_enough = torch.where(excess > 0, large_enough, threshold)
            falling = ((above_threshold > 0) & (above_threshold < room)).sum(1)
            newton = threshold + excess / falling.clamp_min(1)
            in_bracket = (newton > too_small) & (newton < large_enough) & (falling > 0)
            threshold = torch.where(done, threshold, torch.where(in_bracket, newton, (too_small + large_enough) / 2))
        shrink = (radius / size.clamp_min(1e-30)).clamp_max(1)
        return torch.copysign(projected, offsets) * shrink[:, None]

    def steepest(self, gradients: Tensor) -> Tensor:
        """Shared by the top entries; alone the largest would go."""
        sizes = gradients.abs()
        top = sizes >= sizes.amax(dim=1, keepdim=True) * TOP
        return gradients.sign() * top / top.sum(dim=1, keepdim=True)

    def ascent(self, gradients: Tensor) -> Tensor:
        """The gradient's own way, of l2 length 1: projection keeps what stands out, of as many entries as pay."""
        return unit_l2(gradients)

    def noise(self, uniform: Tensor, generator: torch.Generator) -> Tensor:
        signs = torch.sign(torch.rand(uniform.shape, generator=generator).to(uniform.device) - 0.5)
        return -torch.log1p(-uniform) * signs

"""Perturbation sets in which every float32 iterate of an attack lies *exactly*: ball and box, in real arithmetic."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from certmix.errors import UsageError
from proofs_check.certificate import Norm
from verifiers.norms import NORMS
from verifiers.norms.lp import NEAR
from verifiers.perturbation import BoxedBalls

TINY_RADIUS = 2.0**-400


class Ball(BoxedBalls):
    """{x' : ‖x' − center‖_norm ≤ radius, every coordinate in the domain}, one per input. Made by `make_ball`.

    center: (N, …) float32. radius: (N,) float64, raw units. lower, upper: (N, …) float32, the box of all
    float32 numbers that differ from the centre by at most the radius and lie in the domain (exactly).
    """

    def project(self, points: Tensor) -> Tensor:
        """The Euclidean projection of `points` (N, …) onto the set, as float32.

        Ensures: the result lies in ball and box *exactly*. Where the box is the ball, nothing more is asked. Else a
        float32 point just inside the sphere, where its norm, with the rounding errors of its computation counted, is at
        most the radius; `_exactly` otherwise.
        """
        points = points.float()
        clamped = torch.minimum(torch.maximum(points, self.lower), self.upper)
        if self.lp.is_box:
            return clamped
        offset, size = points - self.center, self.lp.size((clamped - self.center).flatten(1))
        # surely outside, every one: no rigorous size is needed to see it
        if bool((size > self.radius * 1.001).all()):
            inside = torch.zeros_like(self.radius, dtype=torch.bool)
        else:
            inside = self._holds(clamped)
            if bool(inside.all()):
                return clamped
        low, high = ((end - self.center).flatten(1) for end in (self.lower, self.upper))
        offset = self.lp.closest(offset.flatten(1), low, high, self.radius.float()).reshape(offset.shape)
        near = torch.minimum(torch.maximum(self.center + offset * NEAR, self.lower), self.upper)
        fits = self._holds(near)
        if not bool((fits | inside).all()):
            near = torch.where(self.column(fits), near, self._exactly(offset.double()))
        return torch.where(self.column(inside), clamped, near) if bool(inside.any()) else near

    def _holds(self, points: Tensor) -> Tensor:
        """(N,) bool: true only of float32 points (N, …) of the box that lie in the ball exactly."""
        return (size_up(points, self.center, self.norm) <= self.radius) & (self.radius >= TINY_RADIUS)

    def _exactly(self, offset: Tensor) -> Tensor:
        """center + offset (float64), pulled into the set: the offset is scaled so that its norm, rounding errors
        counted, is at most the radius; rounding toward the centre then enlarges no coordinate of it."""
        rounded = _toward(self.center, self.center.double(), self._scaled_down(offset))
        rounded = torch.minimum(torch.maximum(rounded, self.lower), self.upper)
        return torch.where(self.column(self.radius >= TINY_RADIUS), rounded, self.center)

    def random(self, generator: torch.Generator) -> Tensor:
        """Points drawn in the set: uniform in the box where that is the ball; else uniform in the ball, projected."""
        shape, device = self.center.shape, self.center.device
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).to(device)
        if self.lp.is_box:
            low, high = self.lower.double(), self.upper.double()
            return self.project(low + uniform * (high - low))
        direction = self.lp.noise(uniform.flatten(1), generator)
        share = torch.rand(len(self), generator=generator, dtype=torch.float64).to(device) ** (1 / math.prod(shape[1:]))
        length = self.radius * share / self.lp.size(direction).clamp_min(1e-300)
        return self.project(self.center.double() + (direction * length[:, None]).reshape(shape))

    def step(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        """One projected ascent step of length `size` (N,)."""
        ascent = self.lp.ascent(torch.nan_to_num(gradient).flatten(1)).reshape(gradient.shape)
        return self.project(points + self.column(size.to(points.dtype)) * ascent)

    def _scaled_down(self, offset: Tensor) -> Tensor:
        """`offset` times a factor ≤ 1 per row such that its real norm is at most the radius."""
        size = self.lp.size_up(offset.flatten(1))
        factor = torch.where(size > self.radius, self.radius / size.clamp_min(1e-300) * (1 - 2.0**-50), 1.0)
        return offset * self.column(factor)


def make_ball(inputs: Tensor, radius: Tensor | float, norm: Norm, domain: tuple[float, float] | None) -> Ball:
    """The perturbation sets around a batch. inputs: (N, …) float32; radius: (N,) or one for all, raw units.

    Raises UsageError for inputs that are not finite float32 numbers in the domain, or a bad radius.
    """
    if inputs.dtype != torch.float32:
        raise UsageError(f"inputs must be float32, got {inputs.dtype}")
    if not bool(torch.isfinite(inputs).all()):
        raise UsageError("inputs hold a number that is not finite")
    sizes = torch.as_tensor(radius, dtype=torch.float64, device=inputs.device).expand(len(inputs)).clone()
    if not bool(((sizes >= 0) & torch.isfinite(sizes)).all()):
        raise UsageError(f"radius must be finite and >= 0, got {sizes.tolist()}")
    ball = Ball(inputs, sizes, norm, inputs, inputs)
    exact, half_width = inputs.double(), ball.column(sizes)
    lower, upper = _float32_up(*_sum(exact, -half_width)), -_float32_up(*_sum(-exact, -half_width))
    if domain is not None:
        low, high = _float32_above(domain[0]), -_float32_above(-domain[1])
        if len(inputs) and not (low <= float(inputs.min()) and float(inputs.max()) <= high):
            raise UsageError(
                f"inputs must lie in the domain {list(domain)}, got values from {float(inputs.min())} "
                f"to {float(inputs.max())}"
            )
        lower, upper = lower.clamp_min(low), upper.clamp_max(high)
    return replace(ball, lower=lower, upper=upper)


def size_up(points: Tensor, center: Tensor, norm: Norm) -> Tensor:
    """(N,) float64, at least ‖points − center‖ in real arithmetic. float32 tensors (N, …).

    No power of an offset underflows: differences of float32 numbers are 0 or above 2⁻¹⁵⁰. Offsets scaled to a radius
    below TINY_RADIUS might; there `project` answers the centre.
    """
    return NORMS[norm].size_up((points.double() - center.double()).flatten(1))


def _sum(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """float64 s and e with a + b = s + e exactly (Knuth's two-sum)."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def _float32_up(s: Tensor, e: Tensor) -> Tensor:
    """The least float32 that is at least s + e, where s is s + e rounded to float64."""
    infinity = torch.full_like(s, math.inf)
    above = torch.where(e > 0, torch.nextafter(s, infinity), s)
    single = above.float()
    return torch.where(single.double() < above, torch.nextafter(single, infinity.float()), single)


def _float32_above(value: float) -> float:
    """The least float32 that is at least the double `value`."""
    single = np.float32(value)
    return float(np.nextafter(single, np.float32(np.inf)) if float(single) < value else single)


def _toward(center: Tensor, exact: Tensor, offset: Tensor) -> Tensor:
    """center + offset rounded to float32 toward the centre: |result − center| ≤ |offset| (1 + 2⁻⁵²).

    The nearest float32 is at most one float32 beyond center + offset.
    """
    rounded = (exact + offset).float()
    beyond = (rounded.double() - exact).abs() > offset.abs()
    return torch.where(beyond, torch.nextafter(rounded, center), rounded)

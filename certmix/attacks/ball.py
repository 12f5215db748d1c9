"""Perturbation sets in which every float32 iterate of an attack lies *exactly*: ball and box, in real arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from certmix.errors import UsageError
from proofs_check.certificate import Norm
from verifiers.perturbation import ORDER

THRESHOLD_STEPS = 12
MULTIPLIER_STEPS = 4
NORM_TO_RADIUS_RATIO = 1 - 2.0**-20  # of a projection that is near enough to the sphere
TINY_RADIUS = 2.0**-400


@dataclass(frozen=True, eq=False)
class Ball:
    """{x' : ‖x' − center‖_norm ≤ radius, every coordinate in the domain}, one per input. Made by `make_ball`.

    center: (N, …) float32. radius: (N,) float64, raw units. lower, upper: (N, …) float32, the box of all
    float32 numbers that differ from the centre by at most the radius and lie in the domain (exactly).
    """

    center: Tensor
    radius: Tensor
    norm: Norm
    lower: Tensor
    upper: Tensor

    def __len__(self) -> int:
        return len(self.center)

    def subset(self, index: Tensor) -> Ball:
        """The balls of the inputs in `index` (a mask or indices)."""
        parts = {name: getattr(self, name)[index] for name in ("center", "radius", "lower", "upper")}
        return replace(self, **parts)

    def column(self, values: Tensor) -> Tensor:
        """(N,) as (N, 1, …, 1), to multiply with the inputs."""
        return values.reshape(-1, *[1] * (self.center.ndim - 1))

    def project(self, points: Tensor) -> Tensor:
        """The Euclidean projection of `points` (N, …) onto the set, as float32.

        Ensures: the result lies in ball and box *exactly*. Linf: the box is the ball. L2, L1: a float32 point just
        inside the sphere, where its norm, with the rounding errors of its computation counted, is at most the radius;
        `_exactly` otherwise.
        """
        points = points.float()
        clamped = torch.minimum(torch.maximum(points, self.lower), self.upper)
        if self.norm == "Linf":
            return clamped
        offset, size = points - self.center, _about(clamped - self.center, self.norm)
        # surely outside, every one: no rigorous size is needed to see it
        if bool((size > self.radius * 1.001).all()):
            inside = torch.zeros_like(self.radius, dtype=torch.bool)
        else:
            inside = self._holds(clamped)
            if bool(inside.all()):
                return clamped
        offset = self._closest(offset)
        near = torch.minimum(torch.maximum(self.center + offset * NORM_TO_RADIUS_RATIO, self.lower), self.upper)
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
        """Points drawn in the set: Linf uniform in the box; L2, L1 uniform in the ball, then projected."""
        shape, device = self.center.shape, self.center.device
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64).to(device)
        if self.norm == "Linf":
            low, high = self.lower.double(), self.upper.double()
            return self.project(low + uniform * (high - low))
        if self.norm == "L2":
            direction = torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
        else:
            direction = -torch.log1p(-uniform) * torch.sign(torch.rand(shape, generator=generator).to(device) - 0.5)
        share = torch.rand(len(self), generator=generator, dtype=torch.float64).to(device) ** (1 / math.prod(shape[1:]))
        length = _size(direction, self.norm).clamp_min(1e-300)
        return self.project(self.center.double() + direction * self.column(self.radius * share / length))

    def step(self, points: Tensor, gradient: Tensor, size: Tensor) -> Tensor:
        """One projected ascent step of length `size` (N,): along the sign (Linf), else along the unit gradient."""
        return self.project(points + self.column(size.to(points.dtype)) * direction(gradient, self.norm))

    def _scaled_down(self, offset: Tensor) -> Tensor:
        """`offset` times a factor ≤ 1 per row such that its real norm is at most the radius."""
        size = _with_rounding(offset, self.norm)
        factor = torch.where(size > self.radius, self.radius / size.clamp_min(1e-300) * (1 - 2.0**-50), 1.0)
        return offset * self.column(factor)

    def _closest(self, offset: Tensor) -> Tensor:
        """The point of ball and box nearest to `offset` (float32), up to rounding and the error of a few iterations.

        Optimality: clip(t · offset) with t in [0, 1] for L2, clip(soft-threshold of offset at t) for L1, with
        the multiplier t at which the norm equals the radius.
        """
        low, high = self.lower - self.center, self.upper - self.center
        radius = self.radius.float()
        if self.norm == "L1":
            return _thresholded(offset, low, high, radius)
        # ‖clip(t · offset)‖ is concave in t and 0 at 0: the iteration rises to the radius from below
        t = (radius / _about(offset, "L2").clamp_min(1e-30)).clamp_max(1)
        for _ in range(MULTIPLIER_STEPS):
            closest = _clip(offset * self.column(t), low, high)
            size = _about(closest, "L2")
            if bool((size >= radius * NORM_TO_RADIUS_RATIO).all()):
                return closest
            t = (t * (radius / size.clamp_min(1e-30))).clamp_max(1)
        return _clip(offset * self.column(t), low, high)


def _thresholded(offset: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
    """L1: `offset` soft-thresholded and clipped to [low, high], of a norm (N,) close to the radius and not above it.

    Newton's method on the norm as a function of the threshold (piecewise linear, decreasing), bisection where it
    leaves the bracket.
    """
    column = (-1, *[1] * (offset.ndim - 1))
    magnitude, room = offset.abs(), torch.where(offset > 0, high, -low)
    too_small, large_enough = torch.zeros_like(radius), magnitude.flatten(1).amax(1)
    threshold = too_small
    projected, size = magnitude, radius
    for step in range(THRESHOLD_STEPS + 1):
        above_threshold = magnitude - threshold.reshape(column)
        projected = torch.minimum(above_threshold.clamp_min(0), room)
        size = projected.flatten(1).sum(1)
        excess = size - radius
        done = excess.abs() <= radius * (1 - NORM_TO_RADIUS_RATIO)
        if step == THRESHOLD_STEPS or bool(done.all()):
            break
        too_small = torch.where(excess > 0, threshold, too_small)
        large_enough = torch.where(excess > 0, large_enough, threshold)
        falling = ((above_threshold > 0) & (above_threshold < room)).flatten(1).sum(1)
        newton = threshold + excess / falling.clamp_min(1)
        newton_in_bracket = (newton > too_small) & (newton < large_enough) & (falling > 0)
        threshold = torch.where(done, threshold, torch.where(newton_in_bracket, newton, (too_small + large_enough) / 2))
    shrink = (radius / size.clamp_min(1e-30)).clamp_max(1)
    return torch.copysign(projected, offset) * shrink.reshape(column)


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


def _clip(offset: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(offset, low), high)


def direction(gradient: Tensor, norm: Norm) -> Tensor:
    """The ascent direction of a step: sign for Linf, the gradient divided by its ℓ2 norm for L2 and L1."""
    gradient = torch.nan_to_num(gradient)
    if norm == "Linf":
        return torch.sign(gradient)
    scaled = gradient / gradient.flatten(1).abs().amax(1).clamp_min(1e-38).reshape(-1, *[1] * (gradient.ndim - 1))
    length = scaled.flatten(1).norm(dim=1).clamp_min(1e-38)
    return scaled / length.reshape(-1, *[1] * (gradient.ndim - 1))


def size_up(points: Tensor, center: Tensor, norm: Norm) -> Tensor:
    """(N,) float64, at least ‖points − center‖ in real arithmetic. float32 tensors (N, …)."""
    return _with_rounding(points.double() - center.double(), norm)


def _with_rounding(offset: Tensor, norm: Norm) -> Tensor:
    """(N,) at least the norm of real offsets whose rounding to float64 is `offset`."""
    if norm == "Linf":
        largest = offset.flatten(1).abs().amax(1)
        return torch.nextafter(largest, torch.full_like(largest, math.inf)) * (largest > 0)
    return _size(offset, norm) * (1 + (math.prod(offset.shape[1:]) + 16) * 2.0**-51)


def _size(offset: Tensor, norm: Norm) -> Tensor:
    """(N,) the norm of each row, relative error below (count + 8) · 2⁻⁵² (Higham §3.1).

    No square underflows: differences of float32 numbers are 0 or above 2⁻¹⁵⁰. Offsets scaled to a radius below
    TINY_RADIUS might; there `project` answers the centre.
    """
    flat = offset.flatten(1)
    if norm == "L1":
        return flat.abs().sum(1)
    return flat.square().sum(1).sqrt()


def _about(offset: Tensor, norm: Norm) -> Tensor:
    """(N,) the norm of each float32 row, to guide the search for a projection; nothing rests on it."""
    return torch.linalg.vector_norm(offset.flatten(1), ORDER[norm], dim=1)


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

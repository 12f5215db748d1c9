"""What curves have in common: continuous functions of each element, in pieces that are smooth and bend one way.

Relaxation: the line that is lowest (highest) in the middle of the interval, of those above (below) the curve. The judge
draws its own in the same way (proofs_check/kernel/layers/curve.py).
"""

from __future__ import annotations

import abc
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.layer import Interval, NodeT
from verifiers.layers.nonlinear import Elementwise
from verifiers.linear_forms.relaxation import LinearRelaxation

GRID = 8  # points on each half of an interval, between which lines are tried
ROUNDS = 2  # each on a grid four times as fine
NARROW = 1e-6  # too narrow for difference quotients
BISECTIONS = 50


@dataclass(frozen=True, eq=False)
class Curve(Elementwise[NodeT]):
    """bends: of each piece, 1 if it is convex, -1 if concave (a straight one is both). kinked: every piece has its own
    formula. limits: of the slope at -inf and at +inf."""

    piecewise_linear: ClassVar[bool] = False

    bends: ClassVar[tuple[int, ...]]
    kinked: ClassVar[bool] = False
    limits: ClassVar[tuple[float, float]]

    @property
    @abc.abstractmethod
    def borders(self) -> tuple[float, ...]:
        """Between the pieces, increasing."""

    @abc.abstractmethod
    def formula(self, x: Tensor, piece: int) -> Tensor:
        """The value, of a piece."""

    @abc.abstractmethod
    def slope(self, x: Tensor, piece: int) -> Tensor:
        """Its derivative."""

    def value(self, *inputs: Tensor) -> Tensor:
        x, result = inputs[0], self.formula(inputs[0], 0)
        for j, border in enumerate(self.borders if self.kinked else (), start=1):
            result = torch.where(x > border, self.formula(x, j), result)
        return result

    def rounding(self, x: Tensor) -> Tensor:
        """Formulas are computed to a few units, relative to arguments of exponentials."""
        return 2.0**-48 * (1 + x.abs()) * self.value(x).abs() + 2.0**-900

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        self.refuse("steps for auto_LiRPA", "take the native engine (--engine crown)")

    # ------------------------------------------------------------ slopes

    def slopes_at(self, x: Tensor) -> Interval:
        """(least, most) at x, at a kink Clarke's; x may be infinite."""
        least, most = torch.full_like(x, math.inf), torch.full_like(x, -math.inf)
        ends = (-math.inf, *(self.borders if self.kinked else ()), math.inf)
        for j, (start, stop) in enumerate(itertools.pairwise(ends)):
            slope = self.slope(torch.where(x.isfinite(), x, 0.0), j)
            slope = torch.where(x == -math.inf, self.limits[0], torch.where(x == math.inf, self.limits[1], slope))
            met = (x >= start) & (x <= stop)
            least, most = torch.where(met, least.minimum(slope), least), torch.where(met, most.maximum(slope), most)
        return least, most

    @functools.cached_property
    def slopes_anywhere(self) -> tuple[float, float]:
        """(least, most) on the whole line, rounded outward."""
        at_borders = [self.slopes_at(torch.tensor(b, dtype=torch.float64)) for b in self.borders]
        least, most = ([float(s[side]) for s in at_borders] for side in (0, 1))
        return (
            min(*(s - 2.0**-46 * abs(s) for s in least), *self.limits),
            max(*(s + 2.0**-46 * abs(s) for s in most), *self.limits),
        )

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        """Slopes are monotone on each piece: those at the ends, and at the borders between."""
        points = [lower, upper, *(_within(lower, upper, border) for border in self.borders)]
        slopes = [self.slopes_at(x) for x in points]
        least, most = torch.stack([s[0] for s in slopes]).amin(0), torch.stack([s[1] for s in slopes]).amax(0)
        if not bool(torch.isfinite(least + most).all()):
            self.refuse("range of derivatives on the whole space", "bound them on a ball")
        error = 2.0**-44 * (1 + least.abs().maximum(most.abs()))
        return (least - error).clamp(min=self.slopes_anywhere[0]), (most + error).clamp(max=self.slopes_anywhere[1])

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        least, most = self.slopes_anywhere
        if not math.isfinite(most - least):
            self.refuse("Lipschitz constant on the whole space", "bound derivatives on a ball")
        return before[0] * max(-least, most)

    # ------------------------------------------------------------ lines

    def interval(self, *inputs: Interval) -> Interval:
        ((lower, upper),) = inputs
        flat = torch.zeros_like(lower)
        return -self._intercept(-1, lower, upper, flat), self._intercept(1, lower, upper, flat)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> LinearRelaxation:
        above, below = self._line(1, lower, upper), self._line(-1, lower, upper)
        return LinearRelaxation(*above, -below[0], -below[1])

    def _line(self, sign: int, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """(slope, intercept) of a line above sign f."""
        slope = self._proposed(sign, lower, upper)
        return slope, self._intercept(sign, lower, upper, slope)

    @torch.no_grad()
    def _proposed(self, sign: int, lower: Tensor, upper: Tensor) -> Tensor:
        """Slope of the line above sign f that is lowest at the middle: of the chord that is highest there, of points
        looked for on finer and finer grids, or of the tangent if no chord passes above."""
        middle = (lower + upper) / 2
        shares = torch.linspace(0, 1, GRID + 1).to(lower).view(-1, *(1 for _ in lower.shape))
        y, z, sides = lower, upper, ((middle, lower), (middle, upper))
        for _ in range(ROUNDS):
            left, right = (torch.lerp(near, far, shares) for near, far in sides)
            low_v, high_v = sign * self.value(left[1:]), sign * self.value(right[1:])
            chords = (high_v[None] - low_v[:, None]) / (right[None, 1:] - left[1:, None]).clamp(min=NARROW**2)
            heights = low_v[:, None] + chords * (middle - left[1:])[:, None]
            best = heights.flatten(0, 1).argmax(0)
            i, j = best // GRID, best % GRID
            y, z = _at(left, i + 1), _at(right, j + 1)
            sides = (_at(left, i), _at(left, i + 2)), (_at(right, j), _at(right, j + 2))
        at_y, at_m, at_z = (self.value(x) for x in (y, middle, z))
        chord = (at_z - at_y) / (z - y).clamp(min=NARROW**2)
        narrow = upper - lower < torch.finfo(lower.dtype).eps ** 0.5 * (1 + middle.abs())
        bends = torch.tensor(self.bends, device=lower.device)
        borders = torch.tensor(self.borders, dtype=lower.dtype, device=lower.device)
        concave = sign * bends[torch.bucketize(middle, borders)] < 0
        highest = (sign * (at_y + chord * (middle - y) - at_m) <= 0) & concave
        return sign * torch.where(highest | narrow, self.slopes_at(middle)[0], chord)

    def _intercept(self, sign: int, lower: Tensor, upper: Tensor, slope: Tensor) -> Tensor:
        """The largest sign f(y) - slope y on [lower, upper]: at an end, a border, or inside a piece where sign f is
        concave."""
        points = [lower, upper]
        ends = (-math.inf, *self.borders, math.inf)
        for j, (start, stop) in enumerate(itertools.pairwise(ends)):
            left, right = _within(lower, upper, start), _within(lower, upper, stop)
            points.append(left)
            if sign * self.bends[j] < 0:
                points.append(self._touching(sign, j, left, right, slope))
        return torch.stack([sign * self.value(y) - slope * y for y in points]).amax(0)

    @torch.no_grad()
    def _touching(self, sign: int, j: int, left: Tensor, right: Tensor, slope: Tensor) -> Tensor:
        """Where sign f, concave on [left, right], has that slope; else the end that is nearest to it."""
        start, stop = left, right
        for _ in range(BISECTIONS):
            middle = (start + stop) / 2
            steeper = sign * self.slope(middle, j) > slope
            start, stop = torch.where(steeper, middle, start), torch.where(steeper, stop, middle)
        return (start + stop) / 2


def _within(lower: Tensor, upper: Tensor, point: float) -> Tensor:
    """The point, or the end of [lower, upper] that is nearest to it."""
    return lower.maximum(upper.minimum(torch.full_like(lower, point)))


def _at(points: Tensor, index: Tensor) -> Tensor:
    """Of each element one of its points (GRID + 1, ...), or the nearest there is."""
    return points.gather(0, index.clamp(0, GRID)[None])[0]

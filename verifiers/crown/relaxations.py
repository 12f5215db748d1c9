"""Linear relaxations of nonlinearities, above and below, on each neuron's interval. Part of the native CROWN engine.

Of a ReLU: the chord above, below any line through the origin with slope in [0, 1]. Of tanh and the sigmoid: chords
where the curve bends the other way, tangents where it bends away. Of max pooling: one pixel of each pool stands for it.
Source: Zhang et al. 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.linear_forms.blocks import Pair, space_to_depth
from verifiers.network.module import pad

MAX_UNSTABLE_SHARE = 0.3  # of a layer's neurons; picking them out is faster than treating all alike
BISECTION_STEPS = 40  # of the interval in which a tangent touches


@dataclass(frozen=True, eq=False)
class SparseRelaxation:
    """ReLUs of one input, channels last: slope (n,) of every lower line, through 0; the upper lines are the same but at
    the neurons `unstable` (m,), where they are steeper by `excess` (m,) and have an `intercept` (m,)."""

    slope: Tensor
    unstable: Tensor
    excess: Tensor
    intercept: Tensor


@dataclass(frozen=True, eq=False)
class LinearRelaxation:
    """upper_slope x + upper_intercept above, lower_slope x + lower_intercept (None: 0) below; (N, *shape) each.

    memo: of `sparse`.
    """

    upper_slope: Tensor
    upper_intercept: Tensor
    lower_slope: Tensor
    lower_intercept: Tensor | None = None
    memo: dict[Pair, SparseRelaxation | None] = field(init=False, default_factory=lambda: {})

    def sparse(self, block: Pair) -> SparseRelaxation | None:
        """Of one input's ReLUs, in space-to-depth blocks: by those that are not exactly linear, if these are few."""
        if len(self.upper_slope) > 1 or self.lower_intercept is not None:
            return None
        if block not in self.memo:
            split = (v if block == (1, 1) else space_to_depth(v, block) for v in self._lines_of_relu())
            above, slope, intercept = ((v.movedim(1, -1) if v.dim() == 4 else v).flatten() for v in split)
            unstable = ((above != slope) | (intercept != 0)).nonzero().flatten()
            sparse = SparseRelaxation(slope, unstable, (above - slope)[unstable], intercept[unstable])
            self.memo[block] = sparse if len(unstable) < MAX_UNSTABLE_SHARE * len(slope) else None
        return self.memo[block]

    def _lines_of_relu(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.upper_slope, self.lower_slope, self.upper_intercept

    def pick(self, index: Tensor | slice) -> LinearRelaxation:
        """The inputs `index`."""
        below = None if self.lower_intercept is None else self.lower_intercept[index]
        return LinearRelaxation(self.upper_slope[index], self.upper_intercept[index], self.lower_slope[index], below)


def default_slopes(lower: Tensor, upper: Tensor) -> Tensor:
    """1 where the upper end is the larger, else 0: the smaller triangle."""
    return (upper > -lower).to(lower.dtype)


def relu_relaxation(lower: Tensor, upper: Tensor, slopes: Tensor, leak: float) -> LinearRelaxation:
    """Of max(y, leak y): the chord above, below a line of slope in [leak, 1]; exact where the sign is known."""
    active, stable = lower >= 0, (lower >= 0) | (upper <= 0)
    width = torch.where(stable, torch.ones_like(lower), upper - lower)
    exact = torch.where(active, torch.ones_like(lower), torch.full_like(lower, leak))
    above = torch.where(stable, exact, (upper - leak * lower) / width)
    intercept = torch.where(stable, torch.zeros_like(lower), (leak - 1) * lower * upper / width)
    return LinearRelaxation(above, intercept, torch.where(stable, exact, slopes.clamp(leak, 1) if leak else slopes))


def tanh_relaxation(lower: Tensor, upper: Tensor) -> LinearRelaxation:
    """Of tanh; below by its symmetry."""
    slope, intercept = _above_tanh(lower, upper)
    down_slope, down = _above_tanh(-upper, -lower)
    return LinearRelaxation(slope, intercept, down_slope, -down)


def sigmoid_relaxation(lower: Tensor, upper: Tensor) -> LinearRelaxation:
    """Of the sigmoid: 1/2 + tanh(x / 2) / 2."""
    relaxation = tanh_relaxation(lower / 2, upper / 2)
    below = None if relaxation.lower_intercept is None else (1 + relaxation.lower_intercept) / 2
    return LinearRelaxation(
        relaxation.upper_slope / 4, (1 + relaxation.upper_intercept) / 2, relaxation.lower_slope / 4, below
    )


def _above_tanh(lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """(slope, intercept) of a line above tanh on [lower, upper].

    The chord, where tanh is steeper at the upper end; else the tangent at the middle of the interval or, where that
    holds 0, the one that passes through the curve at the lower end. A tangent at t >= 0 that is above the curve at
    `lower` is so on the whole interval: to the right of 0 tanh is concave, to the left of it convex.
    """
    ends = torch.tanh(lower), torch.tanh(upper)
    width = upper - lower
    narrow = torch.finfo(lower.dtype).eps ** 0.5  # too narrow for a difference quotient
    flat = width < narrow * (1 + lower.abs())
    steepest = torch.where(lower.sign() * upper.sign() < 0, 1.0, 1 - torch.minimum(ends[0].abs(), ends[1].abs()) ** 2)
    chord = torch.where(flat, steepest, (ends[1] - ends[0]) / torch.where(flat, 1.0, width))
    point = _tangent_point(lower, upper)
    height = torch.tanh(point)
    tangent = 1 - height**2
    bent = (upper > 0) & (chord > 1 - ends[1] ** 2) & ~flat
    slope = torch.where(bent, tangent, chord)
    by_ends = torch.maximum(ends[0] - slope * lower, ends[1] - slope * upper)
    return slope, torch.where(bent, torch.maximum(height - tangent * point, by_ends), by_ends)


@torch.no_grad()
def _tangent_point(lower: Tensor, upper: Tensor) -> Tensor:
    """The middle, or where the interval holds 0 the point whose tangent passes through the curve at the lower end, not
    left of it. Meaningful where upper > 0."""
    start = torch.tanh(lower)
    left, right = torch.zeros_like(upper), upper.clamp(min=0)
    for _ in range(BISECTION_STEPS):
        middle = (left + right) / 2
        height = torch.tanh(middle)
        above = height - (1 - height**2) * (middle - lower) >= start
        right = torch.where(above, middle, right)
        left = torch.where(above, left, middle)
    return torch.where(lower < 0, right, (lower + upper) / 2)


# ---------------------------------------------------------------- max pooling


@dataclass(frozen=True, eq=False)
class MaxPoolRelaxation:
    """Of each pooled value, (N, C, h, w): selected, the flat index of the pixel that stands for it in the padded image;
    dominates: 1 where that pixel is the largest for sure; rival_constant: the largest value possible, 0 where it
    dominates.

    padded_size: (height, width) of the padded image.
    """

    selected: Tensor
    dominates: Tensor
    rival_constant: Tensor
    padded_size: tuple[int, int]

    def pick(self, index: Tensor | slice) -> MaxPoolRelaxation:
        """The inputs `index`."""
        return MaxPoolRelaxation(
            self.selected[index], self.dominates[index], self.rival_constant[index], self.padded_size
        )


def max_pool_relaxation(lower: Tensor, upper: Tensor, node: c.MaxPool2d) -> MaxPoolRelaxation:
    """The pixel with the largest lower bound; above it, where others may exceed it, only the constant holds."""
    low, high = (pad(v, node.padding, -math.inf) for v in (lower, upper))
    best, selected = F.max_pool2d(low, node.kernel, node.stride, return_indices=True)
    rival_constant = F.max_pool2d(high, node.kernel, node.stride)
    pool_taps = [_pool_taps(v, node) for v in (high, _pixel_indices(high))]
    rival = pool_taps[0].masked_fill(pool_taps[1] == selected[:, :, None].to(high.dtype), -math.inf).amax(2)
    dominates = best >= rival
    padded_size = (high.shape[2], high.shape[3])
    return MaxPoolRelaxation(
        selected,
        dominates.to(lower.dtype),
        torch.where(dominates, torch.zeros_like(rival_constant), rival_constant),
        padded_size,
    )


def _pixel_indices(images: Tensor) -> Tensor:
    """The flat index of every pixel, in the shape of `images`."""
    height, width = images.shape[2:]
    return torch.arange(height * width, dtype=images.dtype, device=images.device).view(height, width).expand_as(images)


def _pool_taps(images: Tensor, node: c.MaxPool2d) -> Tensor:
    """(N, C, H, W) -> (N, C, kh * kw, h, w)."""
    views = images.unfold(2, node.kernel[0], node.stride[0]).unfold(3, node.kernel[1], node.stride[1])
    return views.permute(0, 1, 4, 5, 2, 3).flatten(2, 3)

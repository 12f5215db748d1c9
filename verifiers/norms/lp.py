"""What attacks, engines and estimates ask of a norm; the answers that hold for every p."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

NEAR = 1 - 2.0**-20  # of the radius: a projection is near enough to the sphere


class Lp(abc.ABC):
    """The norm (sum of |x_i|^p)^(1/p); q, with 1/p + 1/q = 1, is its dual's. Vectors are rows (N, n).

    order: p. is_box: its ball is a box. euclidean: it is l2, of which alone Gaussian smoothing, spectral norms and
    LipSDP speak. roundings: relative, of powers and roots in `size_up`; 1/p as an exponent is rounded, too.
    """

    order: ClassVar[float]
    roundings: ClassVar[int] = 2048
    is_box: ClassVar[bool] = False
    euclidean: ClassVar[bool] = False

    @property
    def dual_order(self) -> float:
        """q."""
        if self.order == math.inf:
            return 1.0
        return math.inf if self.order == 1 else self.order / (self.order - 1)

    # ------------------------------------------------------------ sizes

    def size(self, vectors: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
        """Their norm, up to rounding."""
        return torch.linalg.vector_norm(vectors, self.order, dim=dim)

    def dual(self, vectors: Tensor, dim: int | tuple[int, ...] = -1) -> Tensor:
        """Their dual norm, up to rounding."""
        return torch.linalg.vector_norm(vectors, self.dual_order, dim=dim)

    def size_up(self, offsets: Tensor) -> Tensor:
        """(N,) at least the norm of real vectors (N, n) whose rounding to float64 is `offsets`; no power may underflow,
        as none does of differences of float32 numbers, which are 0 or at least 2^-149."""
        total = offsets.abs().pow(self.order).sum(1)  # Higham 3.1
        return total.pow(1 / self.order) * (1 + (offsets.shape[1] + self.roundings) * 2.0**-51)

    def within(self, offsets: Sequence[Fraction], radius: Fraction) -> bool:
        """Whether the norm of numbers >= 0 is at most the radius, exactly; p that is not whole counts as the whole
        number below it, whose norm is no smaller."""
        p = int(self.order)
        return sum(v**p for v in offsets) <= radius**p

    def of_ones(self, count: int) -> float:
        """The norm of a vector of ones, n^(1/p)."""
        return float(count) ** (1 / self.order)

    def length(self, count: int) -> float:
        """The largest l2 norm of `count` numbers whose norm is 1."""
        return float(count) ** max(0.0, 1 / 2 - 1 / self.order)

    def between(self, by_rows: float, by_columns: float) -> float:
        """An operator norm from those in Linf and in L1, up to rounding (Riesz-Thorin)."""
        share = 1 / self.order
        return float(by_rows) ** (1 - share) * float(by_columns) ** share

    # ------------------------------------------------------------ the ball, cut by a box around its centre

    def reach(self, sizes: Tensor, extent: Tensor, radius: Tensor) -> Tensor:
        """(R,) upper bounds, up to rounding, of sum of sizes_i o_i over offsets o (R, n) in the ball of `radius` (R,)
        with 0 <= o <= extent; sizes >= 0 (R, n). This one does not see the box."""
        del extent
        return radius * self.dual(sizes)

    @abc.abstractmethod
    def closest(self, offsets: Tensor, low: Tensor, high: Tensor, radius: Tensor) -> Tensor:
        """The points of ball and box [low, high], which holds 0, nearest to `offsets` in l2, all (N, n), radius (N,);
        up to rounding and the error of a few iterations, none of which leaves the ball."""

    # ------------------------------------------------------------ ways to go

    def steepest(self, gradients: Tensor) -> Tensor:
        """(N, n) of norm 1 (or 0), along which a function with these gradients grows most; one such."""
        scaled = gradients / gradients.abs().amax(1, keepdim=True).clamp_min(1e-38)
        ascent = scaled.sign() * scaled.abs().pow(self.dual_order - 1)
        return ascent / self.size(ascent)[:, None].clamp_min(1e-38)

    def ascent(self, gradients: Tensor) -> Tensor:
        """(N, n) of the order of 1: where an attack goes before it projects; steepest, unless something else attacks
        better."""
        return self.steepest(gradients)

    def noise(self, uniform: Tensor, generator: torch.Generator) -> Tensor:
        """Random vectors, of density exp(-size^p): scaled to norms U^(1/n), U uniform in [0, 1), they fill the ball
        evenly. uniform: such draws, of the shape and on the device wanted."""
        seed = int(torch.randint(2**62, (1,), generator=generator))
        powers = np.random.default_rng(seed).gamma(1 / self.order, size=tuple(uniform.shape))
        return torch.from_numpy(powers ** (1 / self.order)).to(uniform) * (uniform - 0.5).sign()


def unit_l2(gradients: Tensor) -> Tensor:
    """(N, n) of l2 norm 1 (or 0)."""
    scaled = gradients / gradients.abs().amax(1, keepdim=True).clamp_min(1e-38)
    return scaled / scaled.norm(dim=1, keepdim=True).clamp_min(1e-38)

"""What inputs may be changed to: balls in a norm, cut by a box; the one perturbation set above the trust line."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from proofs_check.certificate import Norm
from verifiers.norms import NORMS, Lp


@dataclass(frozen=True, eq=False)
class Balls:
    """{x : ‖x - center‖_norm <= radius, every coordinate in the domain}, one per input.

    center: (N, *shape), raw units. radius: (N,) >= 0. domain: (low, high), which holds the centres, or None.
    """

    center: Tensor
    radius: Tensor
    norm: Norm
    domain: tuple[float, float] | None

    def __post_init__(self) -> None:
        if self.radius.shape != self.center.shape[:1]:
            raise ValueError(f"radius must have shape ({len(self.center)},), got {tuple(self.radius.shape)}")
        if not bool((self.radius >= 0).all()):
            raise ValueError(f"radius must be >= 0, got {float(self.radius.min())}")

    def __len__(self) -> int:
        return len(self.center)

    def pick(self, index: Tensor | slice) -> Balls:
        """The balls of the inputs `index` (possibly repeated)."""
        return Balls(self.center[index], self.radius[index], self.norm, self.domain)

    def boxed(self, dtype: torch.dtype, device: torch.device | str = "cpu") -> BoxedBalls:
        """The same in an engine's arithmetic, with the boxes around them."""
        center, radius = self.center.to(device, dtype), self.radius.to(device, dtype)
        half_width = radius.view(-1, *(1,) * (center.dim() - 1))
        lower, upper = center - half_width, center + half_width
        if self.domain is not None:
            lower, upper = lower.clamp(min=self.domain[0]), upper.clamp(max=self.domain[1])
        return BoxedBalls(center, radius, self.norm, lower, upper)


@dataclass(frozen=True, eq=False)
class BoxedBalls:
    """center (N, *shape), radius (N,): balls; lower, upper (N, *shape): boxes around ball and domain. Rounding is not
    accounted for."""

    center: Tensor
    radius: Tensor
    norm: Norm
    lower: Tensor
    upper: Tensor

    def __len__(self) -> int:
        return len(self.center)

    @property
    def lp(self) -> Lp:
        """What is known of the norm."""
        return NORMS[self.norm]

    def pick(self, index: Tensor | slice) -> Self:
        """The balls of the inputs `index` (a mask, or indices, possibly repeated)."""
        parts = {name: getattr(self, name)[index] for name in ("center", "radius", "lower", "upper")}
        return dataclasses.replace(self, **parts)

    def column(self, values: Tensor) -> Tensor:
        """(N,) as (N, 1, ..., 1), to multiply with the inputs."""
        return values.reshape(-1, *[1] * (self.center.ndim - 1))

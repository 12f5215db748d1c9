"""LipSDP's descent where the network is: the least rho of multipliers T, and its slope, by torch.

The same functions as `lipsdp.Rho`'s in numpy, for networks of hundreds of neurons on a GPU; what they end with is
proven to be a bound on the processor (`lipsdp.least_rho`), and by the judge.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Matrix = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class RhoOnDevice:
    """The matrices of the form's inequality (n neurons, d directions of x): A (n, d), B (n, n), ℓ0 (d,), ℓw (n,),
    float64 on one device."""

    a: Tensor
    b: Tensor
    ell0: Tensor
    ellw: Tensor

    @staticmethod
    def of(a: Matrix, b: Matrix, ell0: Matrix, ellw: Matrix, device: torch.device) -> RhoOnDevice:
        return RhoOnDevice(*(torch.from_numpy(np.ascontiguousarray(x)).to(device) for x in (a, b, ell0, ellw)))

    def factors(self, t: Tensor) -> tuple[Tensor, Tensor] | None:
        """L and L⁻¹M, where Q = LLᵀ; None where Q is not positive definite."""
        weighted, n = t[:, None] * self.b, len(t)
        q = torch.ones((n + 1, n + 1), dtype=t.dtype, device=t.device)
        q[:n, :n] = 2 * torch.diag(t) - weighted - weighted.T
        q[n, :n] = q[:n, n] = self.ellw
        factor, failed = torch.linalg.cholesky_ex(q)
        if bool(failed) or not float(factor[n, n]) ** 2 > 1e-9:
            return None
        m = torch.cat([-t[:, None] * self.a, self.ell0[None]])
        return factor, torch.linalg.solve_triangular(factor, m, upper=False)

    def value(self, multipliers: Matrix) -> float:
        """The least rho, infinite where there is none."""
        found = self.factors(self._here(multipliers))
        return math.inf if found is None else max(float(torch.linalg.eigvalsh(found[1].T @ found[1])[-1]), 1e-300)

    def smoothed(self, multipliers: Matrix, power: float) -> tuple[float, Matrix] | None:
        """log (sum of rho's eigenvalues^power) / power and its gradient by log t: see `lipsdp.Rho.smoothed`."""
        t = self._here(multipliers)
        found = self.factors(t)
        if found is None:
            return None
        factor, half = found
        values, vectors = torch.linalg.eigh(half.T @ half)
        values = values.clamp(min=1e-300)
        shares = (values / values[-1]) ** power
        total = shares.sum()
        kept = shares > 1e-14 * total
        vectors = vectors[:, kept]
        y = torch.linalg.solve_triangular(factor.T, half @ vectors, upper=True)[:-1]
        moved = 2 * y * (self.b @ y - self.a @ vectors - y)
        gradient = t * (moved @ (shares / values / total)[kept])
        return float(values[-1].log() + total.log() / power), gradient.cpu().numpy()

    def energy(self, multipliers: Matrix) -> float | None:
        """The least feasible scale of the multipliers; None where none is."""
        t = self._here(multipliers)
        weighted = t[:, None] * self.b
        factor, failed = torch.linalg.cholesky_ex(2 * torch.diag(t) - weighted - weighted.T)
        if bool(failed):
            return None
        right = torch.linalg.solve_triangular(factor, self.ellw[:, None], upper=False)
        return max(float(right.square().sum()), 1e-300)

    def _here(self, multipliers: Matrix) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(multipliers, dtype=np.float64)).to(self.a.device)

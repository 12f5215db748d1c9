"""The judge's bounds of single partial derivatives, which its rules only use summed up as norms."""

from __future__ import annotations

from proofs_check.kernel import jacobian
from proofs_check.kernel.bounds import Prepared
from proofs_check.kernel.rounding import Array


def gradient_bounds(prepared: Prepared, slopes: list[jacobian.Slopes | None], coefficients: Array) -> Array:
    """coefficients (R, K), exact -> (R, n): bounds of |partial derivative| for each input cell, for slopes as given."""
    return jacobian.gradients(prepared, slopes, coefficients).forms.magnitude().reshape(len(coefficients), -1)

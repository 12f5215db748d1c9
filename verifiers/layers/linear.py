"""`linear`: a matrix and a bias, on vectors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers import lowering as low
from verifiers.layers.affine import Affine, interval_by_centre, spectral_norm, with_weights
from verifiers.layers.layer import Interval
from verifiers.linear_forms.forms import DenseForms, LinearForms, Summand
from verifiers.norms import NORMS


@dataclass(frozen=True, eq=False)
class Linear(Affine[c.Linear]):
    """weight @ x + bias."""

    mixes: ClassVar[bool] = True

    def value(self, *inputs: Tensor) -> Tensor:
        return F.linear(inputs[0], self.weights["weight"], self.weights["bias"])

    def interval(self, *inputs: Interval) -> Interval:
        return interval_by_centre(F.linear, self.weights["weight"], self.weights["bias"], inputs[0])

    def adjoint(self, forms: LinearForms) -> tuple[Summand, ...]:
        return (DenseForms(forms.coefficients @ self.weights["weight"]),)

    def offset(self, forms: LinearForms) -> Tensor | None:
        return forms.coefficients @ self.weights["bias"]

    def unit_forms(self, index: Tensor) -> tuple[LinearForms, Tensor] | None:
        return DenseForms(self.weights["weight"][index]), self.weights["bias"][index]

    @property
    def terms(self) -> int:
        return max(self.node.weight.shape)

    def linear(self) -> Self:
        return dataclasses.replace(self, weights=with_weights(self.weights, torch.zeros_like, "bias"))

    def absolute(self) -> Self:
        linear = self.linear()
        return dataclasses.replace(linear, weights=with_weights(linear.weights, torch.abs, "weight"))

    def operator_norm(self, norm: c.Norm) -> float:
        """L2: also by singular values."""
        between = super().operator_norm(norm)
        return min(between, spectral_norm(self.node.weight)) if NORMS[norm].euclidean else between

    def lower(self, builder: low.Builder, at: tuple[int, ...], only: bool) -> int:
        dense = low.Dense(at, self.weights["weight"], self.weights["bias"])
        return builder.affine(dense, only, self.shape)

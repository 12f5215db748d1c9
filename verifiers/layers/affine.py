"""What affine layer kinds answer alike: they have adjoints, and need no relaxation."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from proofs_check import certificate as c
from verifiers.layers.layer import Interval, Layer, NodeT, Weights
from verifiers.linear_forms.forms import DenseForms, LinearForms
from verifiers.linear_forms.relaxation import Relaxation
from verifiers.norms import NORMS

WAY_OUT = "it is affine, ask for its adjoint"


@dataclass(frozen=True, eq=False)
class Affine(Layer[NodeT]):
    """An affine function of its inputs.

    terms: at most that many in any sum of the value or of an adjoint, up to 16 more.
    """

    affine: ClassVar[bool] = True

    @property
    def terms(self) -> int:
        return 8

    @abc.abstractmethod
    def linear(self) -> Self:
        """The layer without its offset."""

    @abc.abstractmethod
    def absolute(self) -> Self:
        """The layer with absolute weights and without its offset."""

    def bias_size(self) -> Tensor | float:
        """Of the terms that may cancel in the offset and do not show in the value."""
        return 0.0

    def lipschitz(self, before: Sequence[float], norm: c.Norm) -> float:
        return before[0] * self.operator_norm(norm)

    def operator_norm(self, norm: c.Norm) -> float:
        """An upper bound of the operator norm of a map of one input: between the largest sums of absolute weights over
        rows and over columns."""
        growth = 1 + 4 * (self.terms + 16) * 2.0**-51
        absolute, like = self.absolute(), next(iter(self.weights.values()), torch.zeros((), dtype=torch.float64))
        rows = absolute.value(like.new_ones(1, *self.shapes[0]))
        (below,) = absolute.adjoint(DenseForms(torch.ones_like(rows)))
        columns = below.complete().to_dense().coefficients
        by_rows, by_columns = (float(sums.max()) * growth for sums in (rows, columns))
        return NORMS[norm].between(by_rows, by_columns) * growth

    def offset(self, forms: LinearForms) -> Tensor | None:
        return None

    def gain(self) -> Tensor | None:
        return None

    def unit_forms(self, index: Tensor) -> tuple[LinearForms, Tensor] | None:
        return None

    @property
    def slope_range(self) -> None:
        return None

    def default_slopes(self, lower: Tensor, upper: Tensor) -> Tensor:
        self.refuse("slopes", WAY_OUT)

    def neurons(self, lower: Tensor, upper: Tensor) -> Tensor:
        """None: the value is exactly as tight as its inputs."""
        return torch.zeros_like(lower, dtype=torch.bool)

    def relaxation(self, lower: Tensor, upper: Tensor, slopes: Tensor | None) -> Relaxation:
        self.refuse("relaxation", WAY_OUT)

    def forms_below(self, forms: LinearForms) -> LinearForms:
        self.refuse("relaxation", WAY_OUT)

    def derivative_range(self, lower: Tensor, upper: Tensor) -> Interval:
        self.refuse("range of derivatives", WAY_OUT)


@dataclass(frozen=True, eq=False)
class Monotone(Affine[NodeT]):
    """An affine function whose weights are not negative: what only moves, adds or averages. Most have no offset."""

    def linear(self) -> Self:
        return self

    def absolute(self) -> Self:
        return self

    def interval(self, *inputs: Interval) -> Interval:
        return self.value(*(lower for lower, _ in inputs)), self.value(*(upper for _, upper in inputs))


def interval_by_centre(
    apply: Callable[[Tensor, Tensor, Tensor | None], Tensor], weight: Tensor, bias: Tensor, values: Interval
) -> Interval:
    """Of apply(x, weight, bias), linear in weight and in x: its value at the centre, plus and minus its spread."""
    lower, upper = values
    middle, half_width = (upper + lower) / 2, (upper - lower) / 2
    value, width = apply(middle, weight, bias), apply(half_width, weight.abs(), None)
    return value - width, value + width


def with_weights(weights: Weights, change: Callable[[Tensor], Tensor], *names: str) -> Weights:
    """Some of the weights changed."""
    return {**weights, **{name: change(weights[name]) for name in names}}


SVD_ERROR = 2.0**-30  # relative; LAPACK's own backward error is below 2^-40 for every size that fits in memory


def spectral_norm(matrix: c.Float32Array) -> float:
    """An upper bound. Power iteration alone would give lower bounds: it is not used."""
    return float(np.linalg.norm(matrix.astype(np.float64), 2)) * (1 + SVD_ERROR)
